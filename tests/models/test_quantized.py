"""4 and 8 bits: the bytes planned, the function of the stored values and no other, and gradients
that arrive.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from adapting import adapt
from safetensors.torch import load_file, save_file
from tiny_families import TINY, build
from tiny_inputs import MASK, SOURCE, START, logits
from torch import nn
from transformers import T5Config

from lora_s2s.errors import ResourceError, SetupError, UsageError
from lora_s2s.models import filling, quantized
from lora_s2s.models.family import FAMILIES
from lora_s2s.models.loading import LoadedBase, enable_gradient_checkpointing, load_base
from lora_s2s.models.quantized import dequantized_weight, elements, is_quantized, skeleton
from lora_s2s.models.saving import save_model
from lora_s2s.models.t5 import fused_activation

KINDS = ["nf4", "int8"]
BOTH = pytest.mark.parametrize("quantization", KINDS)
LAYERS = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}


@pytest.fixture(scope="module")
def flan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Flan-shaped checkpoint in float32."""
    folder = tmp_path_factory.mktemp("flan")
    build(TINY["T5 v1.1, LM-adapted, Flan-T5"]).save_pretrained(folder)
    return folder


def load(folder: Path, quantization: str, **settings: Any) -> LoadedBase:
    return load_base(str(folder), device="cpu", quantization=quantization, **settings)


def layers(base: LoadedBase) -> dict[str, Any]:
    return {name: module for name, module in base.model.named_modules() if is_quantized(module)}


# d_model, d_ff, layers, heads → GiB of nf4 with bfloat16 for the rest: measured for the last three;
# the first two are (parameters − embeddings, head and norms) × (4 + 8/64 + 32/16384) bits + the
# rest × 16 bits.
SIZES = {
    "small": (512, 1024, 8, 6, 0.083),
    "base": (768, 2048, 12, 12, 0.187),
    "large": (1024, 2816, 24, 16, 0.467),
    "xl": (2048, 5120, 24, 32, 1.55),
    "xxl": (4096, 10240, 24, 64, 5.71),
}


def flan_config(d_model: int, d_ff: int, blocks: int, heads: int) -> T5Config:
    return T5Config(
        vocab_size=32128,
        d_model=d_model,
        d_ff=d_ff,
        num_layers=blocks,
        num_heads=heads,
        d_kv=64,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )


# Weights that share one absmax, and absmax values that share a scale.
BLOCK, NESTED_BLOCK = 64, 256


def weight_bytes(
    family: Any,
    config: Any,
    *,
    dtype: torch.dtype,
    quantization: str = "none",
    skip_quantization: tuple[str, ...] | list[str] = (),
) -> int:
    """The bytes that a base's weights should take; a matrix with two names counts once."""
    model = skeleton(family, config, dtype=dtype, quantization=quantization, skip=skip_quantization)
    counted = sum(bytes_of(tensor) for tensor in (*model.parameters(), *model.buffers()))
    head = model.get_output_embeddings().weight
    # transformers 5 says of every T5 that its head is tied; the older flag tells Flan's own head.
    apart = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings) is False
    return counted + bytes_of(head) * (apart and head is model.get_input_embeddings().weight)


def bytes_of(tensor: torch.Tensor) -> int:
    count, kind = tensor.numel(), type(tensor).__name__
    if kind == "Params4bit":
        blocks = math.ceil(count / BLOCK)
        return count // 2 + blocks + 4 * math.ceil(blocks / NESTED_BLOCK)
    if kind == "Int8Params":
        return count + 4 * tensor.shape[0]
    return count * tensor.element_size()


@pytest.mark.parametrize("size", SIZES)
def test_bytes_of_weights_from_a_config_alone(size: str) -> None:
    *shape, expected = SIZES[size]
    config = flan_config(*shape)
    found = weight_bytes(FAMILIES["t5"], config, dtype=torch.bfloat16, quantization="nf4")
    assert found / 2**30 == pytest.approx(expected, rel=0.02)
    # wo alone, kept in 16 bits, adds 16 − 4.127 bits for each of its weights.
    kept = weight_bytes(
        FAMILIES["t5"], config, dtype=torch.bfloat16, quantization="nf4", skip_quantization=["wo"]
    )
    of_wo = 2 * shape[0] * shape[1] * shape[2]
    assert kept - found == pytest.approx(of_wo * (16 - 4.127) / 8, rel=0.01)


@pytest.mark.parametrize("quantization", ["none", *KINDS])
@pytest.mark.parametrize(
    "row",
    ["T5 v1.0", "T5 v1.1, LM-adapted, Flan-T5", "BART", "Marian (two vocabularies)", "T5Gemma"],
)
def test_planned_bytes_are_those_in_memory(tmp_path: Path, row: str, quantization: str) -> None:
    build(TINY[row]).save_pretrained(tmp_path)
    base = load(tmp_path, quantization, dtype="bfloat16")
    held = {
        tensor.data_ptr(): tensor.nbytes
        for tensor in (*base.model.parameters(), *base.model.buffers())
    }
    for layer in layers(base).values():
        state = getattr(layer.weight, "quant_state", None)
        scales = [layer.state.SCB] if state is None else [state.absmax, state.state2.absmax]
        held |= {tensor.data_ptr(): tensor.nbytes for tensor in scales}
    planned = weight_bytes(
        base.family, base.model.config, dtype=torch.bfloat16, quantization=quantization
    )
    assert planned == pytest.approx(sum(held.values()), rel=0.002)


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("skip", [(), ("wo",), ("wo", "SelfAttention.q")], ids=str)
def test_what_is_quantised_and_that_nothing_is_upcast(
    flan: Path, quantization: str, dtype: str, skip: tuple[str, ...]
) -> None:
    base = load(flan, quantization, dtype=dtype, skip_quantization=skip)
    planned = getattr(torch, dtype)
    for name, module in base.model.named_modules():
        ending = name.split(".")[-1]
        if ending in {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}:
            skipped = any(name.endswith(part) for part in skip)
            assert isinstance(module, nn.Linear if skipped else LAYERS[quantization]), name
            assert is_quantized(module) is not skipped
    for name, parameter in base.model.named_parameters():
        in_bytes = quantization == "int8" and type(parameter).__name__ == "Int8Params"
        assert parameter.dtype is (torch.int8 if in_bytes else planned), name
    assert type(base.model.lm_head) is nn.Linear
    assert (base.quantization, base.skip_quantization) == (quantization, skip)
    whole = sum(parameter.numel() for parameter in load(flan, "none").model.parameters())
    assert sum(elements(parameter) for parameter in base.model.parameters()) == whole


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_are_quantised_as_the_checkpoint_has_them(
    flan: Path, quantization: str, dtype: str
) -> None:
    """Not as they are after rounding to the base's dtype."""
    name = "decoder.block.1.layer.2.DenseReluDense.wo"
    original = load_file(flan / "model.safetensors")[f"{name}.weight"]
    layer = load(flan, quantization, dtype=dtype).model.get_submodule(name)
    if quantization == "nf4":
        expected = bitsandbytes.functional.quantize_4bit(
            original, quant_type="nf4", compress_statistics=True
        )[0]
        assert torch.equal(layer.weight.data.view(torch.uint8).flatten(), expected.flatten())
        step = original.abs().max()
    else:
        steps = original.abs().amax(dim=1, keepdim=True) / 127
        assert torch.equal(layer.weight.data, (original / steps).round().to(torch.int8))
        step = steps.max()
    values = dequantized_weight(layer)
    assert values.dtype is torch.float32
    assert values.shape == original.shape
    # Half the widest gap between values, the scales' own rounding, and the rounding to dtype.
    rounding = original.abs().max() * torch.finfo(getattr(torch, dtype)).eps / 2
    assert (values - original).abs().max() < (
        0.16 if quantization == "nf4" else 0.501
    ) * step + rounding


def test_a_row_of_zeros_stays_zero(flan: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((flan / "config.json").read_text())
    weights, name = load_file(flan / "model.safetensors"), "encoder.block.0.layer.0.SelfAttention.q"
    weights[f"{name}.weight"][2] = 0
    save_file(weights, tmp_path / "model.safetensors")
    for quantization in KINDS:
        base = load(tmp_path, quantization)
        assert not dequantized_weight(base.model.get_submodule(name))[2].any()
        assert logits(base.model).isfinite().all()


def with_plain_layers(folder: Path, base: LoadedBase) -> Any:
    """The same model with ordinary layers that hold the dequantised values."""
    plain = load(folder, "none").model
    with torch.no_grad():
        for name, layer in layers(base).items():
            plain.get_submodule(name).weight.copy_(dequantized_weight(layer))
    return plain


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Trains one step's forward and backward; returns what reached the adapter."""
    model.train()
    model.zero_grad()
    model(input_ids=SOURCE, attention_mask=MASK, labels=START, use_cache=False).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def adapted(base: LoadedBase) -> Any:
    """An all-linear adapter that is not the identity, without dropout."""
    model = adapt(base, r=2, alpha=4, dropout=0.0, target_modules="all-linear", seed=1)
    base.family.set_dropout(model, 0.0)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.05)
    return model


@BOTH
def test_logits_and_gradients_are_those_of_the_stored_values(flan: Path, quantization: str) -> None:
    base = load(flan, quantization)
    plain = with_plain_layers(flan, base)
    assert torch.allclose(logits(base.model), logits(plain), atol=1e-5)
    near = logits(load(flan, "none").model)
    assert (logits(base.model) - near).abs().mean() < (
        0.25 if quantization == "nf4" else 0.03
    ) * near.std()
    reference = load(flan, "none")
    reference.model.load_state_dict(plain.state_dict())
    found, expected = gradients(adapted(base)), gradients(adapted(reference))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-5), name


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_layer_ever_sees_integers(flan: Path, quantization: str, dtype: str) -> None:
    """T5 casts what goes into ``wo`` to the type of its weight: with bytes for storage, activations
    become integers.
    """
    base = load(flan, quantization, dtype=dtype)
    seen: set[torch.dtype] = set()
    model = adapted(base)
    for layer in (module for module in model.modules() if isinstance(module, LAYERS[quantization])):
        layer.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].dtype))
    gradients(model)
    logits(model.eval())
    assert seen == {getattr(torch, dtype)}


@BOTH
def test_an_evaluation_between_two_steps_changes_no_gradient(flan: Path, quantization: str) -> None:
    """bitsandbytes repacks 4-bit weights in an evaluation on some CPUs, and no gradient passes them
    afterwards.
    """
    base = load(flan, quantization)
    model = adapted(base)
    before = gradients(model)
    first = logits(model.eval())
    after = gradients(model)
    assert all(torch.equal(gradient, after[name]) for name, gradient in before.items())
    assert torch.equal(first, logits(model.eval()))
    if quantization == "nf4":  # holds on CPUs without bfloat16 too
        assert not any(layer.support_avx512bf16_for_cpu for layer in layers(base).values())


@BOTH
def test_gradients_reach_every_adapter_with_and_without_checkpointing(
    flan: Path, quantization: str
) -> None:
    model = adapted(load(flan, quantization))
    plain = gradients(model)
    enable_gradient_checkpointing(model)
    with fused_activation(model):
        checkpointed = gradients(model)
    assert {name.split(".block")[0].split(".")[-1] for name in plain} == {"encoder", "decoder"}
    for name, gradient in plain.items():
        assert gradient.any(), name
        assert torch.allclose(gradient, checkpointed[name], atol=1e-5), name


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_sit_on_the_quantised_layers_in_float32(
    flan: Path, quantization: str, dtype: str
) -> None:
    model = adapted(load(flan, quantization, dtype=dtype))
    wrapped = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert {type(module).__module__ for module in wrapped} == {"peft.tuners.lora.bnb"}
    assert len(wrapped) == len([m for m in model.modules() if isinstance(m, LAYERS[quantization])])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}


@BOTH
@pytest.mark.parametrize("row", ["BART", "Marian", "T5Gemma"])
def test_other_families_with_biases_and_caps(tmp_path: Path, row: str, quantization: str) -> None:
    build(TINY[row]).save_pretrained(tmp_path)
    base = load(tmp_path, quantization)
    assert torch.allclose(logits(base.model), logits(with_plain_layers(tmp_path, base)), atol=1e-5)
    assert len(layers(base)) >= 20
    assert all(gradient.any() for gradient in gradients(adapted(base)).values())


@BOTH
def test_what_is_written_from_a_quantised_base_is_what_the_caller_gives(
    flan: Path, tmp_path: Path, quantization: str
) -> None:
    state = load(flan, "none").model.state_dict()
    save_model(state, load(flan, quantization), tmp_path, dtype=torch.float32)
    assert torch.equal(logits(load(tmp_path, "none").model), logits(load(flan, "none").model))


def test_unknown_quantisations_and_endings_are_refused_with_those_that_exist(flan: Path) -> None:
    with pytest.raises(
        UsageError, match=r"unknown quantization 'nf5' \(did you mean 'nf4'\?\)"
    ) as refused:
        load(flan, "nf5")
    assert "none, nf4, int8" in str(refused.value.hint)
    for ending in ("w0", "lm_head", "shared", ""):
        with pytest.raises(UsageError, match=f"no linear layer ends in '{ending}'") as refused:
            load(flan, "nf4", skip_quantization=["wo", ending])
        assert "k, o, q, v, wi_0, wi_1, wo" in str(refused.value.hint)


def test_a_quantised_checkpoint_is_refused(flan: Path, tmp_path: Path) -> None:
    settings = (flan / "config.json").read_text().rstrip().removesuffix("}")
    (tmp_path / "config.json").write_text(
        settings + ', "quantization_config": {"load_in_4bit": true}}'
    )
    with pytest.raises(UsageError, match="a quantized checkpoint cannot be a base"):
        load(tmp_path, "nf4")


@BOTH
def test_without_bitsandbytes_the_hint_says_what_to_install(
    flan: Path, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for cached in (quantized._bitsandbytes, quantized._int8_layer):
        cached.cache_clear()
    with pytest.raises(SetupError, match="needs bitsandbytes") as caught:
        load(flan, quantization)
    assert caught.value.exit_code == 5
    assert "pip install bitsandbytes" in str(caught.value.hint)
    load(flan, "none")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 GB")]
)
def test_a_model_that_does_not_fit_says_so(
    flan: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:

    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(filling, "fill", full)
    with pytest.raises(ResourceError, match="does not fit into the memory of cpu") as caught:
        load(flan, "nf4")
    assert caught.value.exit_code == 4
