"""A merged folder decodes as the adapter was scored: by plain ``generate``, whatever the base's own
settings are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_adapters import WORDS
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import lora_s2s
from lora_s2s.errors import DataError, UsageError
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_predictor
from lora_s2s.lora.merge import merge_adapter
from lora_s2s.models.own_decoding import CHECKPOINT
from lora_s2s.pipeline.adapters import recipe_of
from lora_s2s.pipeline.decoding import decoding_line, settings_for
from lora_s2s.pipeline.label_set import known_labels

PROBES = [" ".join(WORDS[:n]) for n in range(1, 10)] + ["the the bridge"]
OF_A_SUMMARISER: dict[str, Any] = {
    "min_length": 12,
    "max_length": 30,
    "no_repeat_ngram_size": 2,
    "num_beams": 3,
    "length_penalty": 2.0,
    "early_stopping": True,
    "forced_eos_token_id": 1,
    "repetition_penalty": 3.0,
}


def set_generation(base: Path, settings: dict[str, Any], name: str) -> None:
    path = base / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **settings}))


@pytest.mark.parametrize(("most", "beams"), [(7, 1), (5, 3)])
@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
def test_plain_transformers_answers_as_the_adapter_was_scored(
    adapter_folder: Callable[..., Path], tmp_path: Path, place: str, most: int, beams: int
) -> None:
    folder = adapter_folder("all-linear")
    manifest = json.loads((folder / "manifest.json").read_text())
    scored = {"labels": {"probabilities": {"labels": ["a", "c"], "temperature": 1.5}}}
    manifest |= {"labels": {"labels": ["a", "b"]}, "scores": {"old": {}, "new": scored}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if place == "config.json":
        (tmp_path / "base" / "generation_config.json").unlink()
    set_generation(tmp_path / "base", {**OF_A_SUMMARISER, "decoder_start_token_id": 0}, place)
    predictor = load_predictor(str(folder), device="cpu")
    assert predictor.own_decoding is not None
    assert "min_length 12" in predictor.own_decoding.lines(followed=False)[0]
    ours = [
        a.text
        for a in decode(predictor, PROBES, DecodingSettings(max_new_tokens=most, num_beams=beams))
    ]
    report = merge_adapter(
        folder,
        tmp_path / "merged",
        probe_texts=PROBES,
        decoding={"max_new_tokens": most, "num_beams": beams},
        dtype="float32",
    )
    assert (report.answers, report.answers_changed) == (len(PROBES), 0.0)
    assert "num_beams 3" in report.not_used
    labels = known_labels(str(tmp_path / "merged"))  # of the newest evaluation that has some
    assert labels == known_labels(str(folder))
    assert labels is not None
    assert (labels.labels, labels.temperature) == (["a", "c"], 1.5)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "merged")
    # The adapter reads six tokens at most.
    asked = [tokenizer(text, return_tensors="pt", truncation=True, max_length=6) for text in PROBES]
    theirs = [
        tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True) for inputs in asked
    ]
    assert theirs == ours
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert not {"min_length", "num_beams", "forced_eos_token_id"} & {*config}
    manifest = json.loads((tmp_path / "merged" / "manifest.json").read_text())
    assert manifest["decoding"] == {"max_new_tokens": most, "num_beams": beams}
    again = load_predictor(str(tmp_path / "merged"), device="cpu").own_decoding
    assert again is not None
    assert again.lines(followed=False) == []


def test_the_checkpoints_own_settings_are_followed(
    adapter_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, base = adapter_folder("all-linear"), tmp_path / "base"
    set_generation(base, {**OF_A_SUMMARISER, "decoder_start_token_id": 0}, "generation_config.json")
    asked = {"decoding": CHECKPOINT, "max_new_tokens": 14, "num_beams": 1}
    merge_adapter(folder, tmp_path / "merged", probe_texts=PROBES, decoding=asked, dtype="float32")
    overrides = {"evaluation.decoding": CHECKPOINT}
    for name, most in ((base, 512), (tmp_path / "merged", 6)):
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(name).eval()
        tokenizer: Any = AutoTokenizer.from_pretrained(base)
        cut = {"return_tensors": "pt", "truncation": True, "max_length": most}
        outputs = [model.generate(**tokenizer(text, **cut))[0] for text in PROBES]
        theirs = tokenizer.batch_decode(outputs, skip_special_tokens=True)
        assert lora_s2s.load(name, overrides=overrides, progress=False)(PROBES) == theirs
    predictor = load_predictor(str(base), device="cpu")
    recipe = recipe_of(str(base), overrides)
    line = decoding_line(settings_for(recipe, predictor), predictor)
    assert line.startswith("decoding: 3 beams, at most 29 tokens, early_stopping True, length_pen")
    sampling = recipe_of(str(base), {**overrides, "evaluation.temperature": 0.5})
    followed = settings_for(sampling, predictor)
    assert (followed.num_beams, followed.repetition_penalty) == (1, 3.0)


def test_own_settings_out_of_range_are_refused(
    adapter_folder: Callable[..., Path], tmp_path: Path
) -> None:
    adapter_folder("all-linear")
    set_generation(tmp_path / "base", {"num_beams": 10**6}, "generation_config.json")
    predictor = load_predictor(str(tmp_path / "base"), device="cpu")
    recipe = recipe_of(str(tmp_path / "base"), {"evaluation.decoding": CHECKPOINT})
    with pytest.raises(DataError, match="num_beams 1000000: out of range"):
        settings_for(recipe, predictor)
    with pytest.raises(UsageError, match="is an export without generation settings"):
        settings_for(recipe, replace(predictor, own_decoding=None))


def test_the_check_counts_answers_that_plain_transformers_gives_otherwise(
    adapter_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter_folder("all-linear")
    report = merge_adapter(folder, tmp_path / "merged", probe_texts=PROBES)
    assert report.answers_changed == 0.0
    monkeypatch.setattr(
        "lora_s2s.models.generation.AutoModelForSeq2SeqLM.from_pretrained", _wrong_head
    )
    report = merge_adapter(folder, tmp_path / "wrong", probe_texts=PROBES)
    assert report.answers_changed > 0.5
    assert report.top1_changed == 0.0


_load = AutoModelForSeq2SeqLM.from_pretrained


def _wrong_head(folder: Path, **given: Any) -> Any:
    model = _load(folder, **given)
    with torch.no_grad():
        model.lm_head.weight.neg_()
    return model


def test_a_folder_whose_base_puts_no_end_on_sources_puts_it(
    adapter_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter_folder("all-linear")
    path = tmp_path / "base" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    report = merge_adapter(folder, tmp_path / "merged", probe_texts=PROBES)
    assert (report.answers_changed, report.note) == (0.0, None)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer("red otters").input_ids == [3, 7, 1]
    # The check reads the written folder's own tokenizer.
    monkeypatch.setattr("lora_s2s.lora.merge.save_tokenizer", lambda *_: None)
    report = merge_adapter(folder, tmp_path / "without", probe_texts=PROBES)
    assert report.answers_changed > 0.0
