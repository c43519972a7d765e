"""Merging: the written folder computes what the adapter did, in plain transformers too; the base
stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_adapters import WORDS, stir
from tiny_inputs import logits
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from lora_s2s.errors import DataError, RunError, UsageError
from lora_s2s.files import sha256_file
from lora_s2s.lora import merge as merging
from lora_s2s.lora.adapter import load_adapter
from lora_s2s.lora.merge import merge_adapter

PROBES = [" ".join(WORDS[:n]) for n in range(1, 10)] + ["the the bridge", ""]
FLAN, V10 = {"tied": False, "gated": True}, {"tied": True, "gated": False}


@pytest.mark.parametrize(
    ("target_modules", "shape"),
    [("attention-qv", FLAN), ("all-linear", FLAN), ("decoder", V10), ("all-linear", V10)],
)
def test_the_written_folder_computes_what_the_adapter_does(
    adapter_folder: Callable[..., Path], tmp_path: Path, target_modules: str, shape: dict[str, Any]
) -> None:
    folder = adapter_folder(target_modules, **shape)
    before = {path.name: sha256_file(path) for path in (tmp_path / "base").iterdir()}
    report = merge_adapter(folder, tmp_path / "merged", probe_texts=PROBES)
    assert {path.name: sha256_file(path) for path in (tmp_path / "base").iterdir()} == before
    assert (report.dtype, report.onto, report.top1_changed) == ("float32", "original", 0.0)
    assert report.max_logit_difference < 1e-5
    assert 0 < report.mean_logit_difference <= report.max_logit_difference
    assert report.positions > len(PROBES)
    merged = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").eval()
    adapted = logits(load_adapter(folder, device="cpu").model)
    assert torch.allclose(logits(merged), adapted, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("red otters").input_ids == [3, 7, 1]


def test_what_lies_in_the_folder(adapter_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = adapter_folder()
    merge_adapter(folder, tmp_path / "merged", probe_texts=PROBES)
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "manifest.json",
        "README.md",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    settings = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert settings["tie_word_embeddings"] is settings["scale_decoder_outputs"] is False
    manifest = json.loads((tmp_path / "merged" / "manifest.json").read_text())
    assert manifest["merged"]["weights_sha256"] == sha256_file(folder / "adapter_model.safetensors")
    assert manifest["input"] == {"max_source_tokens": 6}
    assert manifest["check"]["top1_changed"] == 0.0
    head = load_file(tmp_path / "merged" / "model.safetensors")["lm_head.weight"]
    assert torch.equal(head, load_file(tmp_path / "base" / "model.safetensors")["lm_head.weight"])
    assert not list(tmp_path.glob(".merged*"))
    for file in (tmp_path / "merged" / "model.safetensors", folder / "adapter_model.safetensors"):
        assert file.stat().st_mode & 0o777 == 0o644


def test_bfloat16_halves_the_file_and_says_what_it_costs(
    adapter_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = adapter_folder("all-linear")
    exact = merge_adapter(folder, tmp_path / "exact", probe_texts=PROBES)
    small = merge_adapter(folder, tmp_path / "small", dtype="bfloat16", probe_texts=PROBES)
    assert small.dtype == "bfloat16"
    assert small.max_logit_difference > 100 * exact.max_logit_difference
    size = {
        name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("exact", "small")
    }
    assert size["small"] < 0.6 * size["exact"]


def test_a_run_in_bfloat16_merges_to_bfloat16(
    adapter_folder: Callable[..., Path], tmp_path: Path
) -> None:
    report = merge_adapter(
        adapter_folder(dtype="bfloat16"), tmp_path / "merged", probe_texts=PROBES
    )
    assert report.dtype == "bfloat16"
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"


def test_rank_stabilised_scaling_is_folded_too(
    base_folder: Callable[..., Path], tmp_path: Path
) -> None:
    config = LoraConfig(
        r=9, lora_alpha=6, target_modules=["v"], use_rslora=True, task_type="SEQ_2_SEQ_LM"
    )
    base = base_folder()
    model = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(base), config).eval()
    stir(model)
    model.save_pretrained(tmp_path / "foreign")
    merge_adapter(
        tmp_path / "foreign", tmp_path / "merged", probe_texts=PROBES, base_override=str(base)
    )
    merged = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(logits(merged), logits(model), atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"onto": "dequantized"}, "nothing to dequantize"),
        ({"onto": "orignal"}, "did you mean 'original'"),
        ({"dtype": "nf4"}, "cannot be merged"),
        ({"probe_texts": []}, "real inputs"),
    ],
)
def test_what_cannot_be_asked(
    adapter_folder: Callable[..., Path], tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    folder = adapter_folder()
    with pytest.raises(UsageError, match=message):
        merge_adapter(folder, tmp_path / "merged", **{"probe_texts": PROBES, **asked})
    assert not (tmp_path / "merged").exists()


def test_nothing_is_left_when_a_merge_fails(
    adapter_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter_folder()
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        merge_adapter(folder, tmp_path / "taken", probe_texts=PROBES)
    with pytest.raises(DataError, match="not an adapter"):
        merge_adapter(tmp_path / "taken", tmp_path / "merged", probe_texts=PROBES)
    fold = merging.folded_state
    wrong = "encoder.block.0.layer.0.SelfAttention.v.weight"
    monkeypatch.setattr(
        merging, "folded_state", lambda *given: {**fold(*given), wrong: torch.zeros(24, 32)}
    )
    with pytest.raises(RunError, match="nothing was written"):
        merge_adapter(folder, tmp_path / "merged", probe_texts=PROBES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "taken"]
