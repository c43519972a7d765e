"""Single rows of embeddings and head that train: the base at first, then kept by everything that
keeps an adapter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import adapt
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_adapters import WHOLE_BLOCKS, stir, write_tokenizer
from tiny_inputs import MASK, SOURCE, START, logits
from transformers import AutoModelForSeq2SeqLM

from lora_s2s.errors import DataError, UsageError
from lora_s2s.files import write_json
from lora_s2s.lora.adapter import adapter_state, load_adapter, load_adapter_state, save_adapter
from lora_s2s.lora.inject import total_parameters, trainable_parameters
from lora_s2s.lora.merge import merge_adapter
from lora_s2s.models import float16
from lora_s2s.models.loading import load_base
from lora_s2s.models.weights import weights_hash

IDS = [4, 5, 9, 200]
SPARE = [250, 251]
FLAN, V10 = {"tied": False, "gated": True}, {"tied": True, "gated": False}
SHAPES = pytest.mark.parametrize("shape", [FLAN, V10], ids=["untied", "tied"])
EMBEDDINGS, HEAD = "encoder.embed_tokens.token_rows.change", "lm_head.token_rows.change"
NAMES = ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
PROBES = ["red green blue", "the old bridge", "otters swim", "seven"]


def inject(base: Any, ids: list[int] = IDS, **changes: Any) -> Any:
    settings = {
        "r": 4,
        "alpha": 8,
        "dropout": 0.0,
        "target_modules": "attention-qv",
        "seed": 3,
        **changes,
    }
    return adapt(base, train_tokens=ids, **settings)


def stirred(
    name: Path, ids: list[int] = IDS, *, load: dict[str, Any] | None = None, **changes: Any
) -> Any:
    model = inject(load_base(str(name), device="cpu", **(load or {})), ids, **changes)
    stir(model, only="")
    return model


def saved(model: Any, folder: Path) -> Path:
    folder.mkdir()
    save_adapter(model, folder)
    name = model.peft_config["default"].base_model_name_or_path
    record = {"name": name, "weights_sha256": weights_hash(Path(name))}
    write_json(folder / "manifest.json", {"format": 1, "base": record})
    return folder


def rows_of(model: Any) -> dict[str, Any]:
    return {name: p for name, p in model.named_parameters() if "token_rows" in name}


def train(model: Any, labels: torch.Tensor, steps: int, rate: float = 0.01) -> float:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        loss = model(input_ids=SOURCE, attention_mask=MASK, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


@SHAPES
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_base_at_first_and_whenever_it_is_off(
    base_folder: Callable[..., Path], shape: Any, dtype: str
) -> None:
    base = load_base(str(base_folder(**shape)), dtype=dtype, device="cpu")
    before = logits(base.model)
    model = inject(base)
    assert torch.equal(logits(model), before)
    stir(model, only="")
    after = logits(model)
    assert not torch.equal(after, before)
    with model.disable_adapter():
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), after)


@SHAPES
def test_exactly_these_rows_train_on_both_sides(
    base_folder: Callable[..., Path], shape: dict[str, Any]
) -> None:
    base = load_base(str(base_folder(**shape)), device="cpu")
    whole = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    model = inject(base)
    sizes = {name: tuple(p.shape) for name, p in rows_of(model).items()}
    ends = [EMBEDDINGS] if shape["tied"] else [EMBEDDINGS, HEAD]
    assert [name.removeprefix("base_model.model.") for name in sizes] == [
        f"{end}.default" for end in ends
    ]
    assert set(sizes.values()) == {(4, 32)}
    with_lora_only = adapt(
        load_base(base.name, device="cpu"),
        r=4,
        alpha=8,
        dropout=0.0,
        target_modules="attention-qv",
        seed=3,
    )
    more = 4 * 32 * len(ends)
    assert trainable_parameters(model) == trainable_parameters(with_lora_only) + more
    assert total_parameters(model) == total_parameters(with_lora_only) + more
    model(input_ids=SOURCE, attention_mask=MASK, labels=START.clamp(min=1)).loss.backward()
    embeddings, *head = (p.grad.abs().sum(1) > 0 for p in rows_of(model).values())
    # The source has 5 and 9, the decoder reads 4 as well; 200 stands nowhere, but every head's row
    # has a gradient.
    assert embeddings.tolist() == [True] * 4 if shape["tied"] else [True, True, True, False]
    assert all(gradient.all() for gradient in head)
    train(model, START.clamp(min=1), 3)
    assert all(
        torch.equal(tensor, whole[name.replace(".base_layer.", ".")])
        for name, tensor in base.model.state_dict().items()
        if name.replace(".base_layer.", ".") in whole
    )


@SHAPES
def test_the_gradient_is_that_of_the_whole_matrix(
    base_folder: Callable[..., Path], shape: dict[str, Any]
) -> None:
    model, whole = stirred(base_folder(**shape)), load_base(str(base_folder(**shape)), device="cpu")
    adapted = inject(whole, [])
    load_adapter_state(
        adapted, {name: p for name, p in adapter_state(model).items() if "token_rows" not in name}
    )
    for name in NAMES:
        weight = whole.model.get_submodule(name).weight
        weight.data[IDS] = (
            model.get_submodule(f"base_model.model.{name}").token_rows.values().detach()
        )
        weight.requires_grad_()
    assert torch.allclose(logits(adapted), logits(model), atol=1e-5)
    for one in (model, adapted):
        one(input_ids=SOURCE, attention_mask=MASK, labels=START.clamp(min=1)).loss.backward()
    for name, parameter in rows_of(model).items():
        owner, _, _ = name.removeprefix("base_model.model.").partition(".token_rows")
        scale = model.get_submodule(f"base_model.model.{owner}").token_rows.scale
        expected = whole.model.get_submodule(owner).weight.grad[IDS] * scale
        assert torch.allclose(parameter.grad, expected, rtol=1e-4, atol=1e-6)


@SHAPES
@pytest.mark.parametrize("ids", [IDS, [9]], ids=["several", "one"])
def test_saved_loaded_and_in_plain_peft(
    base_folder: Callable[..., Path], tmp_path: Path, shape: dict[str, Any], ids: list[int]
) -> None:
    model = stirred(base_folder(**shape), ids)
    folder, expected = saved(model, tmp_path / "adapter"), logits(model)
    loaded = load_adapter(folder, device="cpu")
    assert loaded.settings.train_tokens == tuple(ids)
    assert torch.equal(logits(loaded.model), expected)
    assert not any(p.requires_grad for p in loaded.model.parameters())
    again = load_file(saved(loaded.model, tmp_path / "again") / "adapter_model.safetensors")
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        assert torch.equal(tensor, again[name])
    plain = PeftModel.from_pretrained(
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base"), folder
    ).eval()
    assert torch.allclose(logits(plain), expected, atol=2e-6)
    assert not torch.allclose(
        logits(plain), logits(load_base(str(tmp_path / "base"), device="cpu").model), atol=0.1
    )


@SHAPES
def test_merged(base_folder: Callable[..., Path], tmp_path: Path, shape: dict[str, Any]) -> None:
    model = stirred(base_folder(**shape))
    folder, expected = saved(model, tmp_path / "adapter"), logits(model)
    report = merge_adapter(folder, tmp_path / "merged", probe_texts=PROBES)
    assert report.max_logit_difference < 1e-5
    merged = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(logits(merged), expected, atol=1e-5)
    before, after = (
        load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged")
    )
    names = ["shared.weight"] if shape["tied"] else ["shared.weight", "lm_head.weight"]
    assert {*after} == {*before} - {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    for name in names:
        assert (before[name] != after[name]).any(1).nonzero().flatten().tolist() == IDS


def test_merged_with_the_adapters_own_tokenizer(
    base_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = saved(stirred(base_folder()), tmp_path / "adapter")
    write_tokenizer(folder)
    for name, old, new in (
        ("tokenizer.json", '"red"', '"rot"'),
        ("tokenizer_config.json", "{", '{"extra_special_tokens": ["red"], '),
    ):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(old, new, 1))
    merge_adapter(folder, tmp_path / "merged", probe_texts=PROBES)
    assert '"rot"' in (tmp_path / "merged" / "tokenizer.json").read_text()
    # transformers 4 fails on a list under the name that transformers 5 gives it.
    settings = json.loads((tmp_path / "merged" / "tokenizer_config.json").read_text())
    assert settings["additional_special_tokens"] == ["red"]
    assert "extra_special_tokens" not in settings


@SHAPES
def test_a_spare_token_is_learnt(base_folder: Callable[..., Path], shape: dict[str, Any]) -> None:
    model = inject(load_base(str(base_folder(**shape)), device="cpu"), SPARE)
    labels = torch.tensor([[250, 251, 250, 1], [251, 251, 1, -100]])
    train(model, labels, 250)
    train(model, labels, 50, rate=0.001)  # at a constant rate, Adam's loss leaps now and then
    answers = model.generate(
        input_ids=SOURCE, attention_mask=MASK, max_new_tokens=4, num_beams=1, do_sample=False
    )
    assert answers.tolist() == [[0, 250, 251, 250, 1], [0, 251, 251, 1, 0]]


def test_a_checkpoint_holds_what_trains_and_nothing_else_fits(
    base_folder: Callable[..., Path],
) -> None:
    folder = base_folder()
    model = stirred(folder)
    state = {name: tensor.clone() for name, tensor in adapter_state(model).items()}
    again = inject(load_base(str(folder), device="cpu"))
    load_adapter_state(again, state)
    assert all(
        torch.equal(p, q)
        for p, q in zip(rows_of(again).values(), rows_of(model).values(), strict=True)
    )
    assert torch.equal(logits(again), logits(model))
    with pytest.raises(DataError, match="token_rows"):
        load_adapter_state(inject(load_base(str(folder), device="cpu"), SPARE), state)


@SHAPES
def test_a_smaller_residual_stream_changes_nothing(
    base_folder: Callable[..., Path], shape: dict[str, Any]
) -> None:
    folder = base_folder(**shape)
    scaled = replace(load_base(str(folder), device="cpu"), residual_shift=5)
    float16.reinstall(scaled.model, scaled.family, 5)
    model = inject(scaled)
    stir(model, only="")
    assert torch.allclose(logits(model), logits(stirred(folder)), atol=1e-5)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_on_a_quantized_base(
    base_folder: Callable[..., Path], tmp_path: Path, quantization: str
) -> None:
    load = {"dtype": "bfloat16", "quantization": quantization}
    model = stirred(base_folder(**WHOLE_BLOCKS), load=load)
    expected = logits(model)
    loaded = load_adapter(saved(model, tmp_path / "adapter"), **load, device="cpu")
    assert torch.equal(logits(loaded.model), expected)
    fresh = inject(load_base(str(tmp_path / "base"), device="cpu", **load), SPARE)
    labels = torch.tensor([[250, 251, 1], [251, 1, -100]])
    assert train(fresh, labels, 40) < 1.0


@pytest.mark.parametrize("method", ["rslora", "dora", "pissa", "olora"])
def test_with_the_other_methods_that_hold_them(
    base_folder: Callable[..., Path], tmp_path: Path, method: str
) -> None:
    model = stirred(base_folder(), method=method)
    loaded = load_adapter(saved(model, tmp_path / "adapter"), device="cpu")
    assert torch.allclose(logits(loaded.model), logits(model), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ia3"}, "works with the methods lora, rslora, dora, pissa"),
        ({"ids": [256]}, "no token 256: .* has 256 embedding rows"),
        ({"ids": [-1]}, "no token -1"),
        ({"ids": [*range(256), 256]}, "names 257 tokens; at most 256"),
    ],
)
def test_what_cannot_train(
    base_folder: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    base = load_base(str(base_folder()), device="cpu")
    with pytest.raises(UsageError, match=message) as told:
        inject(base, **changes)
    assert "lora.train_tokens=[]" in str(told.value.hint)
    inject(base)  # nothing has been changed


def config(ids: Any, head: Any, **more: Any) -> dict[str, Any]:
    return {"encoder.embed_tokens": ids, "decoder.embed_tokens": ids, "lm_head": head, **more}


@pytest.mark.parametrize(
    "found",
    [
        [4, 5],
        "4",
        {"lm_head": [4, 5]},
        {"encoder.embed_tokens": {}},
        config([4, 5], [4, 5]),
        config([4, 5], [5, 4, 4]),
        config([4, 4], [4, 4, 4]),
        config([5, 4], [5, 4, 4]),
        config(["4"], ["4", "4"]),
        config([True], [True, True]),
        config([], []),
        config([4], [4, 4], shared=[4]),
        config([-4], [-4, -4]),
        config([4.0], [4.0, 4.0]),
        config([*range(257)], [*range(257), 256]),
    ],
    ids=lambda found: str(found)[:60],
)
def test_a_config_that_says_anything_else_is_refused(
    base_folder: Callable[..., Path], tmp_path: Path, found: object
) -> None:
    folder = saved(stirred(base_folder()), tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "trainable_token_indices": found}))
    with pytest.raises(
        DataError, match=r"trainable_token_indices is .*; expected the same 1 to 256 ascending ids"
    ):
        load_adapter(folder, device="cpu")


@SHAPES
def test_weights_that_do_not_fit_are_refused(
    base_folder: Callable[..., Path], tmp_path: Path, shape: dict[str, Any]
) -> None:
    folder = saved(stirred(base_folder(**shape)), tmp_path / "adapter")
    whole = load_file(folder / "adapter_model.safetensors")
    encoder, decoder, head = (
        f"base_model.model.{name}.token_adapter.trainable_tokens_delta" for name in NAMES
    )
    last_apart = whole[head].clone()
    last_apart[-1] += 1
    for changed, message in (
        ({encoder: whole[encoder][:3]}, r"shape \[3, 32\], expected \[4, 32\]"),
        ({decoder: whole[decoder] * float("nan")}, "not finite"),
        (
            {decoder: whole[decoder] + 1},
            "decoder.embed_tokens differ from those of the same matrix",
        ),
        ({head: last_apart}, "lm_head differ from those of the same matrix"),
    ):
        save_file({**whole, **changed}, folder / "adapter_model.safetensors")
        with pytest.raises(DataError, match=message):
            load_adapter(folder, device="cpu")
    save_file(
        {name: tensor for name, tensor in whole.items() if name != head},
        folder / "adapter_model.safetensors",
    )
    with pytest.raises(DataError, match=r"lm_head.* is missing"):
        load_adapter(folder, device="cpu")


def test_a_token_beyond_the_base_is_refused(
    base_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = saved(stirred(base_folder()), tmp_path / "adapter")
    (folder / "manifest.json").unlink()  # an adapter made elsewhere, which names no weights
    smaller = load_base(str(base_folder("smaller", vocab_size=150)), device="cpu")
    with pytest.raises(DataError, match=r"no token 200: .* has 150 embedding rows"):
        load_adapter(folder, base=smaller)
