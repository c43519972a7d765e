"""Bases in memory: every weight as the checkpoint has it, whatever its config says, and clear
refusals.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import adapt
from safetensors.torch import load_file, save_file
from tiny_inputs import MASK, SOURCE, START, logits
from transformers.utils import logging as transformers_logging

from lora_s2s.errors import DataError, SetupError, UsageError
from lora_s2s.models.common import shift_right
from lora_s2s.models.family import FAMILIES, family_of
from lora_s2s.models.loading import enable_gradient_checkpointing, load_base
from lora_s2s.models.precision import is_emulated, resolve_device, resolve_dtype
from lora_s2s.models.saving import save_model
from lora_s2s.models.t5 import fused_activation
from lora_s2s.models.weights import weights_hash


def patch_config(folder: Path, **changes: object) -> None:
    """Sets keys of a folder's config; None removes one."""
    settings = json.loads((folder / "config.json").read_text())
    settings.update(changes)
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in settings.items() if v is not None})
    )


@pytest.fixture
def flan(tmp_path: Path, tiny_t5: Callable[..., Any]) -> Path:
    """A Flan-shaped checkpoint as transformers 5 writes it."""
    folder = tmp_path / "flan"
    tiny_t5().save_pretrained(folder)
    return folder


FLAGS = [
    {"tie_word_embeddings": False, "scale_decoder_outputs": None},
    {"tie_word_embeddings": None, "scale_decoder_outputs": None},
    {"tie_word_embeddings": True, "scale_decoder_outputs": None},
    {"tie_word_embeddings": True, "scale_decoder_outputs": True},
    {"tie_word_embeddings": True, "scale_decoder_outputs": False},
    {"decoder_start_token_id": None},
]


def test_loading_that_takes_long_shows_its_weights(
    flan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_base(str(flan))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("lora_s2s.console._SECONDS_OF_SILENCE", -1.0)
    load_base(str(flan))
    assert "\nload weights 100% 52/52" in capsys.readouterr().err


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_an_own_head_is_kept_and_unscaled_whatever_the_config_says(
    flan: Path, tiny_t5: Callable[..., Any], flags: dict[str, Any]
) -> None:
    patch_config(flan, **flags)
    base = load_base(str(flan), device="cpu")
    saved = load_file(flan / "model.safetensors")
    assert torch.equal(base.model.lm_head.weight, saved["lm_head.weight"])
    assert torch.equal(base.model.shared.weight, saved["shared.weight"])
    assert not torch.equal(saved["lm_head.weight"], saved["shared.weight"])
    assert torch.equal(logits(base.model), logits(tiny_t5()))
    assert base.model.config.decoder_start_token_id == 0
    assert not base.model.training


@pytest.mark.parametrize("flags", FLAGS[1:4], ids=str)
def test_a_head_that_is_the_embeddings_takes_scaled_states(
    tmp_path: Path, tiny_t5: Callable[..., Any], flags: dict[str, Any]
) -> None:
    model = tiny_t5(tied=True, gated=False)
    model.save_pretrained(tmp_path / "v10")
    patch_config(tmp_path / "v10", **flags)
    base = load_base(str(tmp_path / "v10"), device="cpu")
    assert base.model.config.scale_decoder_outputs is True
    assert torch.equal(logits(base.model), logits(model))


def test_a_missing_head_that_the_config_promises_is_refused(
    tmp_path: Path, tiny_t5: Callable[..., Any]
) -> None:
    tiny_t5(tied=True).save_pretrained(tmp_path / "broken")
    patch_config(tmp_path / "broken", tie_word_embeddings=False, scale_decoder_outputs=None)
    with pytest.raises(DataError, match=r"hold no lm_head\.weight"):
        load_base(str(tmp_path / "broken"), device="cpu")


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scaled", [None, False])
def test_what_is_written_says_the_same_to_transformers_4_and_5(
    tmp_path: Path, tiny_t5: Callable[..., Any], tied: bool, gated: bool, scaled: bool | None
) -> None:
    model = tiny_t5(tied=tied, gated=gated)
    model.save_pretrained(tmp_path / "base")
    if scaled is not None:
        patch_config(tmp_path / "base", scale_decoder_outputs=scaled)
    base = load_base(str(tmp_path / "base"), device="cpu")
    out = tmp_path / "out"
    out.mkdir()
    save_model(base.model.state_dict(), base, out, dtype=torch.float32)
    written = json.loads((out / "config.json").read_text())
    # transformers 4 ties and scales by the first flag alone, so both must agree, and an untied head
    # must be there.
    assert (
        written["tie_word_embeddings"]
        is written["scale_decoder_outputs"]
        is (tied and scaled is None)
    )
    assert ("lm_head.weight" in load_file(out / "model.safetensors")) is not written[
        "tie_word_embeddings"
    ]
    assert str(tmp_path) not in (out / "config.json").read_text()
    assert (out / "generation_config.json").is_file()
    assert torch.equal(logits(load_base(str(out), device="cpu").model), logits(base.model))


def test_a_sharded_checkpoint_loads(
    tmp_path: Path, flan: Path, tiny_t5: Callable[..., Any]
) -> None:
    weights = load_file(flan / "model.safetensors")
    names = sorted(weights)
    parts = {"model-1-of-2.safetensors": names[:9], "model-2-of-2.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, flan / file, metadata={"format": "pt"})
    (flan / "model.safetensors").unlink()
    index = {
        "metadata": {},
        "weight_map": {name: file for file, part in parts.items() for name in part},
    }
    (flan / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(logits(load_base(str(flan), device="cpu").model), logits(tiny_t5()))
    (flan / "model-2-of-2.safetensors").unlink()
    with pytest.raises(DataError, match="shard model-2-of-2"):
        load_base(str(flan), device="cpu")
    index["weight_map"] = {"shared.weight": "../flan/model-1-of-2.safetensors"}
    (flan / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="of its own folder"):
        load_base(str(flan), device="cpu")


def test_padding_and_neighbours_change_nothing(flan: Path) -> None:
    model = load_base(str(flan), device="cpu").model
    together = logits(model)
    with torch.no_grad():
        alone = model(input_ids=SOURCE[1:, :2], decoder_input_ids=START[1:, :2]).logits
    assert torch.allclose(together[1:, :2], alone, atol=1e-6)
    assert torch.equal(together, logits(model))


def test_loading_is_silent_and_leaves_the_log_level(
    flan: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    patch_config(flan, tie_word_embeddings=True)
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_info()
    try:
        load_base(str(flan), device="cpu")
        assert transformers_logging.get_verbosity() == logging.INFO
    finally:
        transformers_logging.set_verbosity(before)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_loading_in_bfloat16(flan: Path) -> None:
    base = load_base(str(flan), dtype="bfloat16", device="cpu")
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.bfloat16}
    assert base.dtype is torch.bfloat16
    assert load_base(str(flan), device="cpu").dtype is torch.float32


def test_the_weights_hash_follows_the_contents(flan: Path, tmp_path: Path) -> None:
    before = weights_hash(flan)
    assert load_base(str(flan), device="cpu").weights_sha256 == before
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((flan / "model.safetensors").read_bytes())
    assert weights_hash(copy) == before
    weights = load_file(flan / "model.safetensors")
    weights["shared.weight"][0, 0] += 1
    save_file(weights, flan / "model.safetensors")
    assert weights_hash(flan) != before


def damage(folder: Path, how: str) -> None:
    weights = load_file(folder / "model.safetensors")
    if how == "lost":
        del weights["encoder.block.1.layer.0.SelfAttention.q.weight"]
    elif how == "extra":
        weights["encoder.block.7.layer.0.SelfAttention.q.weight"] = torch.zeros(2, 2)
    elif how == "shape":
        weights["shared.weight"] = weights["shared.weight"][:-1].clone()
    save_file(weights, folder / "model.safetensors")
    if how == "torn":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("lost", "q.weight is missing"),
        ("extra", "not part of this model"),
        ("shape", "has shape"),
        ("torn", "not a valid safetensors file"),
    ],
)
def test_weights_that_do_not_fit_are_refused(flan: Path, how: str, message: str) -> None:
    damage(flan, how)
    with pytest.raises(DataError, match=message):
        load_base(str(flan), device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 10**9},
        {"d_model": "32"},
        {"vocab_size": True},
        {"feed_forward_proj": "x-y-z"},
        {"dropout_rate": "high"},
        {"id2label": 5},
    ],
)
def test_damaged_configs_are_refused(flan: Path, changes: dict[str, Any]) -> None:
    patch_config(flan, **changes)
    with pytest.raises(DataError, match="config"):
        load_base(str(flan), device="cpu")


def test_folders_that_are_no_safe_model_are_refused(flan: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no config\.json"):
        load_base(str(tmp_path), device="cpu")
    (flan / "model.safetensors").rename(flan / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model\.bin is a pickle") as refused:
        load_base(str(flan), device="cpu")
    assert refused.value.exit_code == 3


def test_other_models_are_refused_with_the_known_families(flan: Path) -> None:
    patch_config(flan, model_type="gpt2", is_encoder_decoder=None)
    with pytest.raises(UsageError, match=r"not an encoder-decoder.*known families: t5"):
        load_base(str(flan), device="cpu")
    patch_config(flan, model_type="prophetnet", is_encoder_decoder=True)
    with pytest.raises(UsageError, match="unknown model family 'prophetnet'; known families: t5"):
        load_base(str(flan), device="cpu")


@pytest.mark.parametrize(
    "asked", [{"dtype": "float23"}, {"quantization": "nf5"}, {"device": "toaster"}], ids=str
)
def test_what_does_not_exist_is_refused(flan: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        load_base(str(flan), **{"device": "cpu", **asked})


@pytest.mark.parametrize(("computes", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_takes_float16_only_where_a_gpu_lacks_bfloat16(
    monkeypatch: pytest.MonkeyPatch, computes: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: computes)
    assert resolve_dtype("auto", torch.device("cuda")) is expected
    if not computes:
        with pytest.raises(UsageError, match="does not compute in bfloat16") as refused:
            resolve_dtype("bfloat16", torch.device("cuda"))
        assert "float16" in str(refused.value.hint)


def test_devices_and_precision() -> None:
    cpu = torch.device("cpu")
    assert resolve_dtype("auto", cpu) is torch.float32
    assert resolve_device("cpu") == cpu
    assert resolve_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(SetupError):
            resolve_device("cuda")


def test_shift_right_equals_the_models_own(tiny_t5: Callable[..., Any]) -> None:
    model = tiny_t5()
    labels = torch.tensor([[5, 6, 1, -100, -100], [7, 8, 9, 10, 1]])
    kept = labels.clone()
    inputs = shift_right(labels, model.config)
    assert torch.equal(inputs, model._shift_right(labels))
    assert torch.equal(labels, kept)
    assert inputs.min() >= 0


@pytest.mark.parametrize("gated", [True, False])
def test_groups_resolve_on_both_shapes_of_t5(gated: bool, tiny_t5: Callable[..., Any]) -> None:
    model, family = tiny_t5(gated=gated), FAMILIES["t5"]
    assert family_of(model.config.to_dict()) is family
    groups = family.target_groups(model.config)
    assert set(groups) >= {"attention-qv", "attention", "cross-attention", "decoder", "all-linear"}
    for spec in groups.values():
        assert not isinstance(spec, str) or spec in family.stacks


def test_dropout_is_set_everywhere_and_training_feels_it(flan: Path) -> None:
    base = load_base(str(flan), device="cpu")
    reference = logits(base.model)
    base.model.train()
    assert not torch.equal(logits(base.model), reference)
    base.family.set_dropout(base.model, 0.0)
    assert torch.equal(logits(base.model), reference)
    base.family.set_dropout(base.model, 0.3)
    assert not torch.equal(logits(base.model), reference)


def test_the_fused_activation_is_the_same_function_and_goes_again(flan: Path) -> None:
    model = load_base(str(flan), device="cpu").model
    reference = logits(model)
    kinds = [type(module) for module in model.modules()]
    with fused_activation(model):
        assert kinds != [type(module) for module in model.modules()]
        assert torch.allclose(logits(model), reference, atol=1e-5)
    assert torch.equal(logits(model), reference)
    assert kinds == [type(module) for module in model.modules()]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_gradient_is_computed_where_no_adapter_needs_it(flan: Path, checkpointing: bool) -> None:
    base = load_base(str(flan), device="cpu")
    model: Any = adapt(
        base, r=2, alpha=2, dropout=0.0, target_modules="decoder", last_blocks=1, seed=0
    )
    if checkpointing:
        enable_gradient_checkpointing(model)
    reached: dict[str, bool] = {}
    for stack in ("encoder", "decoder"):
        for index, block in enumerate(base.model.get_submodule(stack).block):
            name = f"{stack} {index}"
            block.register_forward_hook(
                lambda _, __, output, name=name: reached.update({name: output[0].requires_grad})
            )
    model.train()
    model(input_ids=SOURCE, attention_mask=MASK, labels=START, use_cache=False).loss.backward()
    assert reached == {
        "encoder 0": False,
        "encoder 1": False,
        "decoder 0": False,
        "decoder 1": True,
    }


def test_gradient_checkpointing_changes_no_gradient(flan: Path) -> None:
    def gradient(checkpointing: bool) -> torch.Tensor:
        model = load_base(str(flan), device="cpu").model.requires_grad_(False)
        target = model.encoder.block[0].layer[0].SelfAttention.q.weight.requires_grad_(True)
        if checkpointing:
            enable_gradient_checkpointing(model)
        FAMILIES["t5"].set_dropout(model, 0.0)
        model.train()
        model(input_ids=SOURCE, attention_mask=MASK, labels=START, use_cache=False).loss.backward()
        return target.grad

    assert torch.allclose(gradient(False), gradient(True), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_a_cpu_has_no_instructions_for(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, both = torch.device("cpu"), (torch.float32, dtype)
    assert not is_emulated(dtype, torch.device("cuda"))
    names = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    has = getattr(torch.ops.mkldnn, f"_is_mkldnn_{names[dtype]}_supported")()
    assert [is_emulated(one, cpu) for one in both] == [False, not has]
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert [is_emulated(one, cpu) for one in both] == [False, True]
