"""Numbers that are finite in a file and not in the model, and logits that are not: an error, never
an empty answer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_parts import Invoke
from safetensors.torch import load_file, save_file
from spoiling import patched, spoilt_copy, weights

from lora_s2s import limits
from lora_s2s.errors import DataError
from lora_s2s.models.loading import load_base
from lora_s2s.models.logits import check_logits

ADAPTER, MODEL = "adapter_model.safetensors", "model.safetensors"
FLOAT16 = ("--set", "model.dtype=float16")
BFLOAT16 = ("--set", "model.dtype=bfloat16")


def scaled(name: str, dtype: torch.dtype, factor: float, part: str) -> Callable[[Path], object]:
    """Multiplies the weights whose name has a part, in another format."""

    def change(state: dict[str, Any]) -> None:
        state.update(
            {
                key: (tensor.to(dtype) * 0 + factor) if part in key else tensor
                for key, tensor in state.items()
            }
        )

    return weights(name, change)


@pytest.mark.parametrize(
    ("spoil", "more", "message"),
    [
        (scaled(ADAPTER, torch.float64, 1e300, "lora_B"), (), "too large for float32"),
        (scaled(ADAPTER, torch.float64, -1e300, "lora_A"), BFLOAT16, "too large for float32"),
        (scaled(ADAPTER, torch.float32, 3e38, "lora_"), (), "logits that are not finite"),
        (scaled(ADAPTER, torch.float32, 1e30, "lora_"), FLOAT16, "logits that are not finite"),
    ],
    ids=["float64", "float64 A", "float32", "float16"],
)
def test_an_adapter_too_large_to_compute_with_is_refused(
    spoil: Callable[[Path], object],
    more: tuple[str, ...],
    message: str,
    invoke: Invoke,
    here: Path,
    good_adapter: Path,
) -> None:
    spoilt_copy(good_adapter, here, spoil)
    (here / "rows.jsonl").write_text('{"source": "a table for two", "target": "done"}\n')
    for words in (("predict", "bad", "a table for two"), ("eval", "bad", "--data", "rows.jsonl")):
        result = invoke(*words, *more, code=3)
        assert message in result.stderr
        assert "at: bad" in result.stderr
        assert result.stdout == ""
    told = invoke("merge", "bad", "--out", "merged", code=3).stderr
    assert "not finite" in told or "too large" in told
    assert not (here / "merged").exists()


@pytest.mark.parametrize(
    ("spoil", "more", "message"),
    [
        (scaled(MODEL, torch.float64, 1e39, "lm_head"), (), "too large for float32"),
        (scaled(MODEL, torch.float32, 3.4e38, "lm_head"), BFLOAT16, "too large for bfloat16"),
        (scaled(MODEL, torch.float32, 70_000, "lm_head"), FLOAT16, "too large for float16"),
        (scaled(MODEL, torch.float32, 1e30, "lm_head"), (), None),
        (scaled(MODEL, torch.float32, 3e38, "layer"), (), "logits that are not finite"),
    ],
    ids=["float64", "bfloat16", "float16", "large and finite", "logits"],
)
def test_a_model_too_large_to_compute_with_is_refused(
    spoil: Callable[[Path], object],
    more: tuple[str, ...],
    message: str | None,
    invoke: Invoke,
    here: Path,
    tiny_model: Path,
) -> None:
    spoilt_copy(tiny_model, here, spoil)
    result = invoke(
        "predict",
        "bad",
        "hello",
        "--set",
        "evaluation.max_new_tokens=2",
        *more,
        code=3 if message else 0,
    )
    assert (message or "") in result.stderr


def test_a_quantized_layer_is_checked_in_what_it_computes_with(
    here: Path, tiny_model: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    bad = spoilt_copy(tiny_model, here, scaled(MODEL, torch.float64, 1e39, "SelfAttention.q"))
    with pytest.raises(
        DataError, match=r"SelfAttention\.q\.weight holds values that are too large for float32"
    ):
        load_base(str(bad), quantization="int8", dtype="float32", device="cpu")


def test_a_merge_that_its_format_cannot_hold_is_refused(
    invoke: Invoke, here: Path, good_adapter: Path
) -> None:
    spoilt_copy(good_adapter, here, scaled(ADAPTER, torch.float32, 600.0, "lora_"))
    told = invoke("merge", "bad", "--out", "merged", "--dtype", "float16", code=3).stderr
    assert "is too large for float16" in told
    assert "--dtype float32" in told
    assert not (here / "merged").exists()


def test_what_is_ruled_out_may_be_minus_infinity() -> None:
    logits = torch.zeros(2, 3)
    logits[0, 1] = float("-inf")
    check_logits(logits, model="m")
    for value in (float("nan"), float("inf")):
        broken = logits.clone()
        broken[1, 2] = value
        with pytest.raises(DataError, match="not finite"):
            check_logits(broken, model="m")
    with pytest.raises(DataError, match="not finite"):
        check_logits(torch.full((1, 3), float("-inf")), model="m")


def test_weights_that_only_a_config_asks_for_are_bounded(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import MarianConfig, MarianMTModel

    config = MarianConfig(
        vocab_size=64,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=32,
        pad_token_id=0,
        decoder_start_token_id=0,
        bad_words_ids=None,
    )
    MarianMTModel(config).save_pretrained(tmp_path / "model")
    state = load_file(tmp_path / "model" / MODEL)
    save_file(
        {key: value for key, value in state.items() if "position" not in key},
        tmp_path / "model" / MODEL,
    )
    load_base(str(tmp_path / "model"), device="cpu")
    patched("config.json", max_position_embeddings=1_000_000)(tmp_path / "model")
    with pytest.raises(DataError, match=r"asks for 32,0\d\d,\d\d\d computed weights"):
        load_base(str(tmp_path / "model"), device="cpu")
    assert limits.MOST_COMPUTED_WEIGHTS >= 4 * 10**6
    shutil.rmtree(tmp_path / "model")
    assert json.loads((tiny_model / "config.json").read_text())["model_type"] == "t5"
