"""Every adapter method through the same trials: train, keep the best, save, load, plain PEFT,
resume, merge.
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
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import ValidationError
from safetensors.torch import load_file
from support import record
from tiny_adapters import WHOLE_BLOCKS
from tiny_inputs import MASK, SOURCE, START, logits
from transformers import AutoModelForSeq2SeqLM

from lora_s2s.errors import UsageError
from lora_s2s.files import write_json
from lora_s2s.lora.adapter import adapter_state, load_adapter, load_adapter_state, save_adapter
from lora_s2s.lora.inject import total_parameters, trainable_parameters
from lora_s2s.lora.merge import merge_adapter
from lora_s2s.lora.methods import METHODS
from lora_s2s.models import float16
from lora_s2s.models.loading import LoadedBase, load_base
from lora_s2s.recipe.fields import METHOD_NAMES, REFUSED_METHODS
from lora_s2s.recipe.schema import LoraSection
from lora_s2s.reports.peft_versions import peft_that_reads

# The others run with the slow tests.
ALWAYS = ("lora", "dora", "ia3", "vera")
ROWS = pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in METHODS],
)
TARGETS = ["q", "v", "o", "wi_0", "wo"]


def inject(base: LoadedBase, method: str, **changes: Any) -> Any:
    settings = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": TARGETS, "seed": 3, **changes}
    return adapt(base, method=method, **settings)


def train(model: Any, steps: int) -> list[float]:
    """Takes steps without dropout, and returns their losses."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.03)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=SOURCE, attention_mask=MASK, labels=START.clamp(min=1)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def dtypes(model: Any) -> set[torch.dtype]:
    """Returns a set that fills with the number formats of what the adapted modules answer."""
    found: set[torch.dtype] = set()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.register_forward_hook(lambda _, __, output: found.add(output.dtype))
    return found


def save(model: Any, base: LoadedBase, folder: Path) -> Path:
    folder.mkdir()
    save_adapter(model, folder)
    keys = ("name", "revision", "weights_sha256", "quantization", "skip_quantization")
    write_json(folder / "manifest.json", {"base": {key: getattr(base, key) for key in keys}})
    return folder


def test_the_recipe_knows_exactly_the_rows() -> None:
    assert tuple(METHODS) == METHOD_NAMES


@ROWS
def test_a_method_trains_saves_loads_merges_and_resumes(
    base_folder: Callable[..., Path], tmp_path: Path, method: str
) -> None:
    name = str(base_folder())
    base = load_base(name, device="cpu")
    untouched = {key: weight.clone() for key, weight in base.model.state_dict().items()}
    before = logits(base.model)
    model = inject(base, method)
    assert torch.allclose(logits(model), before, atol=1e-5)
    training = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert all(p.dtype is torch.float32 for p in training.values())
    start = {key: p.detach().clone() for key, p in training.items()}
    losses = train(model, 4)
    assert losses[-1] < losses[0]
    assert all(not torch.equal(p, start[key]) for key, p in training.items())
    record("method", method, "trains")

    # The best step is kept, then a worse one follows: what is saved is the best.
    best = {key: tensor.clone() for key, tensor in adapter_state(model).items()}
    expected = logits(model)
    train(model, 2)
    assert not torch.allclose(logits(model), expected, atol=1e-3)
    load_adapter_state(model, best)
    assert torch.equal(logits(model), expected)
    folder = save(model, base, tmp_path / "adapter")
    loaded = load_adapter(folder, device="cpu")
    assert torch.allclose(logits(loaded.model), expected, atol=1e-4)
    assert (
        adapter_state(loaded.model).keys() == load_file(folder / "adapter_model.safetensors").keys()
    )
    for key, weight in loaded.base.model.state_dict().items():
        plain = key.replace(".base_layer.", ".")
        assert plain not in untouched or torch.equal(weight, untouched[plain]), key
    record("method", method, "save, load")

    plain_peft = PeftModel.from_pretrained(
        AutoModelForSeq2SeqLM.from_pretrained(name), folder
    ).eval()
    assert torch.equal(logits(plain_peft), logits(loaded.model))
    record("method", method, "plain PEFT loads it")
    record(
        "method",
        method,
        "PEFT from",
        str(peft_that_reads(json.loads((folder / "adapter_config.json").read_text()))),
    )

    scaled = replace(load_base(name, device="cpu"), residual_shift=5)
    float16.reinstall(scaled.model, scaled.family, 5)
    assert torch.allclose(logits(load_adapter(folder, base=scaled).model), expected, atol=1e-4)
    record("method", method, "float16 rescaling")

    again = inject(load_base(name, device="cpu"), method)
    load_adapter_state(again, best)
    assert torch.equal(logits(again), expected)
    assert train(again, 2) == train(model, 2)
    record("method", method, "resumes")

    report = merge_adapter(folder, tmp_path / "merged", probe_texts=["seven otters swim", "red"])
    assert report.max_logit_difference < 1e-4
    merged = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(logits(merged), expected, atol=1e-4)
    record("method", method, "merges")


@pytest.mark.parametrize("quantization", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
@ROWS
def test_a_method_on_a_quantized_base_works_or_is_refused_before_training(
    base_folder: Callable[..., Path], tmp_path: Path, method: str, quantization: str
) -> None:
    base = load_base(
        str(base_folder(**WHOLE_BLOCKS)), dtype="bfloat16", quantization=quantization, device="cpu"
    )
    if METHODS[method].unquantized:
        with pytest.raises(
            UsageError, match=f"{method} does not work on a base in {quantization}"
        ) as refused:
            inject(base, method)
        assert "vera" in str(refused.value.hint)
        record("method", method, quantization, note=f"refused: {METHODS[method].unquantized}")
        return
    before, whole = logits(base.model), load_base(base.name, device="cpu").model
    model = inject(base, method)
    assert torch.allclose(logits(model).float(), before.float(), atol=0.1)
    assert total_parameters(model) - trainable_parameters(model) == total_parameters(whole)
    answers = dtypes(model)
    losses = train(model, 4)
    assert losses[-1] < losses[0]
    assert answers == {torch.bfloat16}
    expected = logits(model)
    loaded = load_adapter(save(model, base, tmp_path / "adapter"), dtype="bfloat16", device="cpu")
    assert loaded.base.quantization == quantization
    assert torch.equal(logits(loaded.model), expected)
    # One evaluation must not cut the gradients of what follows.
    model(input_ids=SOURCE, attention_mask=MASK, labels=START.clamp(min=1)).loss.backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in model.parameters() if p.requires_grad)
    # Folded into the values it was trained on, it computes the same; into the checkpoint's, nearly.
    reports = {
        onto: merge_adapter(
            tmp_path / "adapter",
            tmp_path / onto,
            onto=onto,
            dtype="float32",
            probe_texts=["red", "blue"],
        )
        for onto in ("dequantized", "original")
    }
    assert reports["dequantized"].max_logit_difference < 1e-4
    assert reports["original"].max_logit_difference > 1e-3
    measured = {
        key: pytest.approx(getattr(reports["dequantized"], key), abs=1e-4)
        for key in ("max_logit_difference", "mean_logit_difference", "top1_changed")
    }
    assert reports["original"].other == {"dequantized": measured}
    record("method", method, quantization)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@ROWS
def test_adapters_are_float32_on_a_smaller_base(
    base_folder: Callable[..., Path], tmp_path: Path, method: str, dtype: str
) -> None:
    base = load_base(str(base_folder()), dtype=dtype, device="cpu")
    model = inject(base, method)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    answers = dtypes(model)
    losses = train(model, 4)
    assert losses[-1] < losses[0]
    assert answers == {base.dtype}
    loaded = load_adapter(save(model, base, tmp_path / "adapter"), dtype=dtype, device="cpu")
    # What PiSSA and OLoRA leave of the base is rounded while they train.
    rounded = METHODS[method].moves_base
    assert torch.allclose(logits(loaded.model), logits(model), atol=0.2 if rounded else 0)
    record("method", method, dtype)


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_a_moved_base_is_written_as_plain_lora_of_twice_the_rank(
    base_folder: Callable[..., Path], tmp_path: Path, method: str
) -> None:
    base = load_base(str(base_folder()), device="cpu")
    model = inject(base, method, ranks={"wo": 3})
    train(model, 2)
    folder = save(model, base, tmp_path / "adapter")
    content = json.loads((folder / "adapter_config.json").read_text())
    assert (content["r"], content["lora_alpha"], content["init_lora_weights"]) == (8, 16, True)
    assert set(content["rank_pattern"].values()) == {6}
    assert torch.allclose(
        logits(load_adapter(folder, device="cpu").model), logits(model), atol=1e-4
    )


@pytest.mark.parametrize("method", REFUSED_METHODS)
def test_what_fails_is_refused_with_the_reason(
    base_folder: Callable[..., Path], method: str
) -> None:
    base = load_base(str(base_folder()), device="cpu")
    with pytest.raises(ValidationError, match="is refused: it"):
        LoraSection(method=method)
    with pytest.raises(UsageError, match="is refused: it"):
        inject(base, method)
    record("method", method, "refused", note=REFUSED_METHODS[method])


def test_an_unknown_method_is_told_the_nearest(base_folder: Callable[..., Path]) -> None:
    with pytest.raises(ValidationError, match="did you mean 'rslora'"):
        LoraSection(method="rslor")
    with pytest.raises(UsageError, match=r"expected one of lora, .*did you mean 'dora'"):
        inject(load_base(str(base_folder()), device="cpu"), "doras")


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("ia3", {"dropout": 0.1}, "ia3 has no dropout"),
        ("oft", {"ranks": {"q": 2}}, "oft has no rank for each group"),
        ("ia3", {"ranks": {"q": 2}}, "ia3 has no rank"),
        ("loha", {"r": 33}, "may be 1 to 32"),
        ("vera", {"r": 5000}, "may be 1 to 4096"),
        ("miss", {"r": 0}, "may be 1 to 32"),
    ],
)
def test_settings_a_method_does_not_have_are_refused(
    base_folder: Callable[..., Path], method: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        inject(load_base(str(base_folder()), device="cpu"), method, **changes)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.seed])
def test_the_seed_of_shared_matrices_is_saved(
    base_folder: Callable[..., Path], method: str
) -> None:
    base = load_base(str(base_folder()), device="cpu")
    config = inject(base, method, seed=7).peft_config["default"]
    assert getattr(config, str(METHODS[method].seed)) == 7
