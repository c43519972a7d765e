"""float16: rescaling changes nothing but the size of the residual stream, and a model that
overflows trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from adapting import adapt
from safetensors.torch import load_file
from tiny_families import TINY, build
from tiny_inputs import MASK, SOURCE, START, logits
from torch import Tensor
from training_parts import PAD, VOCABULARY, Rows, run

from lora_s2s.errors import UsageError
from lora_s2s.models import float16
from lora_s2s.models.loading import load_base

SIZES = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "decoder_start_token_id": PAD,
    "pad_token_id": PAD,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
}
LOUD = 10_000.0  # the residual stream then reaches 2e5
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5, own head": ("T5", {}),
    "t5, tied head": ("T5", {"feed_forward_proj": "relu", "tie_word_embeddings": True}),
    "mt5": ("MT5", {}),
    "umt5": ("UMT5", {}),
    "longt5, local": ("LongT5", {"local_radius": 3}),
    "longt5, global": (
        "LongT5",
        {"local_radius": 3, "global_block_size": 2, "encoder_attention_type": "transient-global"},
    ),
}


def write(folder: Path, kind: str = "t5, own head", *, loud: float = 1.0) -> str:
    """Writes a tiny random model; ``loud`` multiplies all that goes into its residual stream,
    channel 5 most.

    As in trained ones, the norms weigh that channel less.
    """
    stem, changes = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{stem}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{stem}ForConditionalGeneration")(config)
    with torch.no_grad():
        if not changes.get("tie_word_embeddings"):
            config.scale_decoder_outputs = False
            model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 64) * 64**-0.5)
        for name, parameter in model.named_parameters() if loud > 1 else ():
            if name.endswith((".o.weight", ".wo.weight", "shared.weight")):
                parameter *= loud
            if name.endswith(".wo.weight"):
                parameter[5] *= 8
            if name.endswith("norm.weight"):
                parameter[5] /= 8
    model.save_pretrained(folder)
    return str(folder)


def adapted(
    name: str, *, shift: int = 0, targets: Any = ("q", "v", "o", "wo"), **settings: Any
) -> Any:
    """A base with an adapter on what reads the stream and what writes it, B not zero; its residual
    stream at 2^-k.
    """
    base = load_base(name, device="cpu", **settings)
    if shift:
        float16.reinstall(base.model, base.family, shift)
        object.__setattr__(base, "residual_shift", shift)
    model = adapt(base, r=8, alpha=16, dropout=0.0, target_modules=targets, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def answers(model: Any, rows: Rows) -> list[list[int]]:
    """Returns the greedy answer to every row, ``</s>`` included."""
    found = []
    for row in map(rows.features, range(len(rows))):
        source, mask = (
            torch.tensor([row.input_ids]),
            torch.ones(1, len(row.input_ids), dtype=torch.long),
        )
        found.append(
            model.generate(input_ids=source, attention_mask=mask, max_new_tokens=14)[0, 1:].tolist()
        )
    return found


def loss_and_gradients(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model.train()
    loss = model(input_ids=SOURCE, attention_mask=MASK, labels=START.clamp(min=1)).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_and_unscaled_are_equal_bit_for_bit_in_float32(tmp_path: Path, kind: str) -> None:
    name = write(tmp_path, kind)
    plain, scaled = adapted(name), adapted(name, shift=7)
    assert torch.equal(logits(plain), logits(scaled))
    assert answers(plain, Rows(3)) == answers(scaled, Rows(3))
    (loss, expected), (found_loss, found) = loss_and_gradients(plain), loss_and_gradients(scaled)
    assert torch.equal(loss, found_loss)
    assert all(gradient.any() for gradient in expected.values())
    assert all(torch.equal(found[key], gradient) for key, gradient in expected.items())


def test_the_stream_itself_is_smaller(tmp_path: Path) -> None:
    name, sizes = write(tmp_path), []
    for shift in (0, 7):
        model = adapted(name, shift=shift)
        norm = model.base_model.model.decoder.final_layer_norm
        norm.register_forward_pre_hook(lambda _, inputs: sizes.append(float(inputs[0].abs().max())))
        logits(model)
    assert sizes[0] == sizes[1] * 2**7


def test_plain_float16_overflows_and_ours_does_not(tmp_path: Path) -> None:
    name, infinite = write(tmp_path, loud=LOUD), []
    expected = logits(load_base(name, device="cpu").model)
    plain = transformers.AutoModelForSeq2SeqLM.from_pretrained(name).half()
    for key, module in plain.named_modules():
        if key.endswith(".wo"):
            module.register_forward_hook(
                lambda _, __, output: infinite.append(bool(output.isinf().any()))
            )
    # transformers cuts infinite values off and goes on with others.
    off_by = (logits(plain) - expected).abs().max()
    assert any(infinite)
    ours = load_base(name, device="cpu", dtype="float16")
    assert ours.residual_shift > 0
    assert (logits(ours.model) - expected).abs().max() < 0.01 < 0.1 < off_by


# What quantizes acts on the frozen matrices alone: nf4's come out in float16, int8's too.
@pytest.mark.parametrize(
    "quantization",
    [
        pytest.param("none", marks=pytest.mark.slow),
        pytest.param("nf4", marks=pytest.mark.slow),
        pytest.param("int8", marks=pytest.mark.long),
    ],
)
def test_a_model_that_overflows_float16_trains_and_answers_as_in_float32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quantization: str
) -> None:
    name = write(tmp_path / "base", loud=LOUD)
    rows, losses, texts = Rows(6), {}, {}
    for dtype in ("float32", "float16"):
        model = adapted(name, dtype=dtype, quantization=quantization)
        settings = {
            "batch_size": 6,
            "gradient_accumulation": 1,
            "max_steps": 100,
            "learning_rate": 0.003,
        }
        losses[dtype] = run(tmp_path / dtype, model=model, rows=rows, **settings).train_loss
        texts[dtype] = answers(model, rows)
    assert capsys.readouterr().err.count("float16: the residual stream, which reaches ") == 1
    assert losses["float16"] == pytest.approx(losses["float32"], rel=0.01)
    assert texts["float16"] == texts["float32"] == [rows.features(row).labels for row in range(6)]


def test_an_ordinary_model_runs_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_base(write(tmp_path), device="cpu", dtype="float16")
    assert base.residual_shift == 0
    assert "residual stream" not in capsys.readouterr().err


def test_weights_stay_as_the_checkpoint_has_them(tmp_path: Path) -> None:
    base = load_base(write(tmp_path, loud=LOUD), device="cpu", dtype="float16")
    assert base.residual_shift > 0
    saved, held = load_file(tmp_path / "model.safetensors"), base.model.state_dict()
    assert all(torch.equal(held[name], weight.half()) for name, weight in saved.items())


def test_another_family_that_overflows_is_refused(tmp_path: Path) -> None:
    model = build(TINY["BART"])
    with torch.no_grad():
        for layer in model.model.encoder.layers:
            layer.fc2.weight *= 5e4
    model.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="float16 cannot hold this model") as refused:
        load_base(str(tmp_path), device="cpu", dtype="float16")
    assert "float32" in str(refused.value.hint)
