"""safetensors exports: what plain transformers loads, in any precision, in one file or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import lora_s2s

ADAPTER = Path(__file__).parents[2] / "adapters" / "demo"
TEXT = "hi there'll be 4 of us, at 7pm. for Sat pls, my name's Lotte Winwick"
ANSWER = "name: Lotte Winwick | people: 4 | day: Saturday | time: 19:00"


def plain_answer(folder: Path) -> tuple[Any, str]:
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = model.generate(**tokenizer(TEXT, return_tensors="pt"))
    return model, tokenizer.decode(ids[0], skip_special_tokens=True)


def test_an_adapter_in_parts_answers_in_plain_transformers(few: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"precision": "bfloat16", "max_shard_size": "2MB", "data": few}
    report = lora_s2s.export(ADAPTER, "safetensors", out, **options, progress=False)
    assert (report.format, report.precision) == ("safetensors", "bfloat16")
    assert report.parity.greedy_equal >= 0.75
    shards = sorted(out.glob("model-*.safetensors"))
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    assert len(shards) >= 4
    assert max(path.stat().st_size for path in shards) < 2.2e6
    index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
    assert set(index["weight_map"].values()) == {path.name for path in shards}

    model, answer = plain_answer(out)
    assert model.dtype is torch.bfloat16
    assert answer.startswith(ANSWER)
    assert lora_s2s.load(out, progress=False)(TEXT).startswith(ANSWER)


def test_float32_is_what_merge_writes(few: str, tmp_path: Path) -> None:
    lora_s2s.export(ADAPTER, "safetensors", tmp_path / "export", data=few, progress=False)
    lora_s2s.merge(ADAPTER, tmp_path / "merge", dtype="float32", data=few, progress=False)
    same = {path.name for path in (tmp_path / "merge").iterdir()} - {"manifest.json", "README.md"}
    for name in same:
        export, merge = tmp_path / "export" / name, tmp_path / "merge" / name
        assert export.read_bytes() == merge.read_bytes(), name
    manifests = [
        json.loads((tmp_path / name / "manifest.json").read_text("utf-8"))
        for name in ("export", "merge")
    ]
    for key in ("merged", "base", "input", "decoding"):
        assert manifests[0][key] == manifests[1][key], key


def test_a_whole_model_is_written_in_float16(few: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"data": few, "progress": False}
    report = lora_s2s.export("demo", "safetensors", out, precision="float16", **options)
    assert report.bytes < 12 * 2**20
    model, _ = plain_answer(out)
    assert model.dtype is torch.float16
    readme = (out / "README.md").read_text("utf-8")
    assert "AutoModelForSeq2SeqLM.from_pretrained" in readme
    again = lora_s2s.export(out, "ct2", tmp_path / "next", **options)
    assert again.parity.greedy_equal == 1


@pytest.mark.parametrize("size", ["1", 300 * 1024])
def test_a_weight_larger_than_the_limit_gets_a_file_of_its_own(
    size: Any, few: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    lora_s2s.export("demo", "safetensors", out, max_shard_size=size, data=few, progress=False)
    index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
    if size == "1":
        assert len(set(index["weight_map"].values())) == len(index["weight_map"])
    assert lora_s2s.load(out, progress=False)(TEXT) == lora_s2s.load("demo", progress=False)(TEXT)
