"""Whatever answers, loaded from disk: a model folder, an adapter folder, and what is neither."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapting import adapt

from lora_s2s.errors import DataError, Error, UsageError
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.predictor import Predictor
from lora_s2s.lora.adapter import save_adapter
from lora_s2s.models.loading import load_base

TEXTS = ["w1 w2 w3", "w9", "w7 w7 w20 w31 w4 w5"]
SETTINGS = DecodingSettings(max_new_tokens=8)


@pytest.fixture
def base_folder(tiny_predictor: Callable[..., Predictor], tmp_path: Path) -> Path:
    made = tiny_predictor()
    folder = tmp_path / "base"
    made.torch.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    # save_pretrained claims tied weights whatever the checkpoint holds.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(
        json.dumps({**config, "tie_word_embeddings": False}), encoding="utf-8"
    )
    return folder


@pytest.fixture
def adapter_folder(
    base_folder: Path, tiny_predictor: Callable[..., Predictor], tmp_path: Path
) -> Path:
    base = load_base(str(base_folder))
    model = adapt(base, r=4, alpha=32, dropout=0.0, target_modules="attention-qv", seed=0)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(model, folder)
    tiny_predictor().tokenizer.save_pretrained(folder)
    manifest = {
        "format": 1,
        "base": {"name": str(base_folder), "revision": None, "weights_sha256": base.weights_sha256},
        "input": {"template": "w1 {text}", "max_source_tokens": 5, "truncate_source": "left"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def test_a_model_folder_answers_as_the_model_in_memory(
    base_folder: Path, tiny_predictor: Callable[..., Predictor]
) -> None:
    loaded = load_predictor(str(base_folder), device="cpu")
    assert decode(loaded, TEXTS, SETTINGS) == decode(tiny_predictor(), TEXTS, SETTINGS)
    assert loaded.render("w1") == "w1"


def test_an_adapter_brings_its_input_settings_and_its_baseline(
    adapter_folder: Path, tiny_predictor: Callable[..., Predictor]
) -> None:
    loaded = load_predictor(str(adapter_folder), device="cpu")
    assert loaded.render("w2") == "w1 w2"
    assert loaded.encode("w1 w2 w3 w4 w5 w6") == tiny_predictor(
        max_source_tokens=5, truncate_source="left"
    ).encode("w1 w2 w3 w4 w5 w6")
    base = tiny_predictor(max_source_tokens=5, truncate_source="left")
    assert decode(loaded.baseline(), TEXTS, SETTINGS) == decode(base, TEXTS, SETTINGS)
    assert decode(loaded, TEXTS, SETTINGS) != decode(base, TEXTS, SETTINGS)


def test_an_adapter_without_a_tokenizer_takes_its_bases(adapter_folder: Path) -> None:
    expected = decode(load_predictor(str(adapter_folder), device="cpu"), TEXTS, SETTINGS)
    for path in adapter_folder.glob("*token*"):
        path.unlink()
    assert decode(load_predictor(str(adapter_folder), device="cpu"), TEXTS, SETTINGS) == expected


def test_a_merged_folders_manifest_is_read(base_folder: Path) -> None:
    (base_folder / "manifest.json").write_text(
        '{"input": {"template": "w9 {x}"}}', encoding="utf-8"
    )
    assert load_predictor(str(base_folder), device="cpu").render("w2") == "w9 w2"
    (base_folder / "manifest.json").write_text('{"input": {"template": 9}}', encoding="utf-8")
    with pytest.raises(DataError):
        load_predictor(str(base_folder), device="cpu")


def test_a_base_for_something_that_is_no_adapter_is_refused(base_folder: Path) -> None:
    with pytest.raises(UsageError, match="not an adapter"):
        load_predictor(str(base_folder), base="demo")


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        with pytest.raises(Error) as caught:
            load_predictor(str(tmp_path / name))
        assert caught.value.exit_code in (2, 3)


def test_a_tokenizer_that_does_not_fit_its_model_or_is_damaged_is_refused(
    adapter_folder: Path,
) -> None:
    path = adapter_folder / "tokenizer.json"
    made = json.loads(path.read_text(encoding="utf-8"))
    made["model"]["vocab"]["w1000"] = 1000
    path.write_text(json.dumps(made), encoding="utf-8")
    predictor = load_predictor(str(adapter_folder), device="cpu")
    assert predictor.encode("w1 w2")
    with pytest.raises(
        DataError, match=r"the token 1000, and the model has 256: they do not belong together"
    ):
        predictor.encode("w1 w1000")
    path.write_text(json.dumps(made).replace('"WordLevel"', '"Nothing"'), encoding="utf-8")
    with pytest.raises(DataError, match="no tokenizer can be loaded from"):
        load_predictor(str(adapter_folder), device="cpu")
