"""``training.cache_encoder``: the same run, its encoder computed once, and nothing left behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_parts import Rows, adapter_of, metrics, run, tiny_model

from lora_s2s.errors import ResourceError, UsageError
from lora_s2s.fast_t5.t5 import PaddingFree
from lora_s2s.lora import token_rows
from lora_s2s.training import encoder_cache


def decoder_adapter(**changes: Any) -> Any:
    model = tiny_model(**changes)
    for name, parameter in model.named_parameters():
        if ".encoder." in name:
            parameter.requires_grad_(False)
    return model


def test_same_losses_with_one_pass_of_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    encode = PaddingFree._encode
    monkeypatch.setattr(
        PaddingFree, "_encode", lambda *of: passes.append(len(of[1].source_ids_N)) or encode(*of)
    )
    plain, cached = decoder_adapter(), decoder_adapter()
    run(tmp_path / "plain", model=plain)
    usual = sum(passes)
    passes.clear()
    run(tmp_path / "cached", model=cached, cache_encoder=True)
    assert sum(passes) < usual / 2
    expected, found = (
        [line["loss"] for line in metrics(tmp_path / name)] for name in ("plain", "cached")
    )
    assert found == pytest.approx(expected, rel=5e-3)  # its states are bfloat16
    assert (
        max(
            float((a - b).abs().max())
            for a, b in zip(adapter_of(plain).values(), adapter_of(cached).values(), strict=True)
        )
        < 0.05
    )
    assert sorted(path.name for path in (tmp_path / "cached").iterdir()) == [
        "checkpoints",
        "metrics.jsonl",
    ]


def test_packed_rows_get_their_own_states(tmp_path: Path) -> None:
    for name, cache in (("plain", False), ("cached", True)):
        run(
            tmp_path / name,
            model=decoder_adapter(),
            cache_encoder=cache,
            packing=True,
            batch_size=None,
            tokens_per_batch=60,
        )
    expected, found = (
        [line["loss"] for line in metrics(tmp_path / name)] for name in ("plain", "cached")
    )
    assert found == pytest.approx(expected, rel=5e-3)


def test_an_encoder_that_trains_or_drops_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapter changes") as told:
        run(tmp_path, cache_encoder=True)
    assert "decoder" in str(told.value.hint)
    reading = decoder_adapter()
    token_rows.add(reading.get_base_model(), [5])
    with pytest.raises(UsageError, match=r"lora.train_tokens change what the encoder reads"):
        run(tmp_path, model=reading, cache_encoder=True)
    with pytest.raises(UsageError, match=r"training.dropout=0.1"):
        run(tmp_path, model=decoder_adapter(dropout=0.1), cache_encoder=True, dropout=0.1)


def test_a_disk_too_small_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        encoder_cache, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=1000))
    )
    with pytest.raises(ResourceError, match="the disk has 1,000"):
        run(tmp_path, model=decoder_adapter(), cache_encoder=True)


def test_without_the_fast_forward_nothing_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_S2S_FORWARD", "reference")
    plain, cached = decoder_adapter(), decoder_adapter()
    run(tmp_path / "plain", model=plain, rows=Rows(24))
    run(tmp_path / "cached", model=cached, rows=Rows(24), cache_encoder=True)
    assert "nothing is cached" in capsys.readouterr().err
    assert all(
        torch.equal(a, b)
        for a, b in zip(adapter_of(plain).values(), adapter_of(cached).values(), strict=True)
    )
