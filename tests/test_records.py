"""Documents that the package writes and reads back: what is accepted, and what a refusal says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lora_s2s import records
from lora_s2s.errors import DataError
from lora_s2s.files import described
from lora_s2s.recipe.evaluation import EvaluationSection
from lora_s2s.recipe.schema import DataSection
from lora_s2s.records import AdapterManifest, FinishedManifest, ModelManifest, verify

BUNDLED = Path(__file__).parents[1] / "adapters" / "demo"


def write(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_an_older_manifest_is_read(tmp_path: Path) -> None:
    manifest = FinishedManifest.read(BUNDLED)
    assert manifest.base.name == "demo"
    assert (manifest.files, manifest.input.max_target_tokens) == (None, None)
    assert manifest.decoding is not None
    assert manifest.decoding.max_new_tokens == 64
    assert (
        manifest.content["versions"]
        == json.loads((BUNDLED / "manifest.json").read_text())["versions"]
    )
    with pytest.raises(ValidationError):
        manifest.base = records.Base()  # type: ignore[misc]


def test_a_folder_without_a_manifest_is_an_adapter_made_elsewhere(tmp_path: Path) -> None:
    assert AdapterManifest.read(tmp_path).content == {}
    with pytest.raises(DataError, match=r"no such file: manifest\.json"):
        FinishedManifest.read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_a_manifest_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    for kind in (AdapterManifest, ModelManifest):
        with pytest.raises(DataError, match="not a regular file"):
            kind.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"base": {"name": 7}}, "base.name should be text, not 7"),
        ({"base": None}, "base should be an object, not None"),
        (
            {"input": {"max_source_tokens": 2}},
            "input.max_source_tokens should be at least 4, not 2",
        ),
        ({"input": {"max_source_tokens": 65_537}}, "should be at most 65,536, not 65537"),
        ({"input": {"max_target_tokens": True}}, "should be a whole number, not True"),
        ({"input": {"max_target_tokens": 7.0}}, "should be a whole number, not 7.0"),
        ({"input": {"source_language": "<b>"}}, "should be a language code, not '<b>'"),
        ({"input": {"truncate_source": "up"}}, "should be 'left', 'right' or 'drop', not 'up'"),
        ({"input": {"template": [1]}}, "should be text, or a list of texts, not [1]"),
        ({"files": {"a": {"bytes": 1}}}, "files.a.sha256 is missing"),
        (
            {"files": {"a": {"sha256": "", "bytes": -1}}},
            "files.a.bytes should be at least 0, not -1",
        ),
        ({"scores": {"x": {"decoding": {"max_new_tokens": 8}}}}, "decoding.num_beams is missing"),
        (
            {"scores": {"x": {"decoding": {"max_new_tokens": 0, "num_beams": 1}}}},
            "at least 1, not 0",
        ),
        ({"sources": []}, "sources should be an object, not []"),
    ],
)
def test_the_wrong_key_is_named(tmp_path: Path, content: object, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        AdapterManifest.read(write(tmp_path, content))
    assert caught.value.message.startswith("`manifest.json` is damaged: ")
    assert problem in caught.value.message
    assert caught.value.where == str(tmp_path / "manifest.json")
    assert caught.value.hint


def test_the_newest_evaluation_says_how_to_decode(tmp_path: Path) -> None:
    scores = {
        "a": {"decoding": {"max_new_tokens": 1, "num_beams": 1}},
        "b": {"decoding": {"max_new_tokens": 2, "num_beams": 4}},
        "c": {"n": 1},
    }
    decoding = AdapterManifest.read(write(tmp_path, {"scores": scores})).decoding
    assert decoding is not None
    assert decoding.model_dump(exclude_defaults=True) == {"max_new_tokens": 2, "num_beams": 4}


def test_unknown_keys_and_null_are_ignored(tmp_path: Path) -> None:
    content = {"later": 1, "input": {"later": 1, "format": None, "carried": None}}
    manifest = AdapterManifest.read(write(tmp_path, content))
    assert (manifest.input.format, manifest.input.carried) == ("auto", [])
    assert manifest.content == content


def test_an_infinite_loss_is_no_number(tmp_path: Path) -> None:
    training = {"steps": 1, "train_loss": 1.5, "tokens_per_second": 2, "stopped": None}
    counts = {"trainable_parameters": 1, "total_parameters": 2}
    FinishedManifest.read(write(tmp_path, {"training": training, "counts": counts}))
    text = (tmp_path / "manifest.json").read_text().replace("1.5", "1e999")
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"training\.train_loss should be"):
        FinishedManifest.read(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "section"),
    [
        *(("max_source_tokens", value, DataSection) for value in (3, 4, 65_536, 65_537)),
        *(("max_target_tokens", value, DataSection) for value in (1, 2, 65_536, 65_537)),
        *(("source_language", value, DataSection) for value in ("de", "de_DE", "9", "d" * 33)),
        *(("truncate_source", value, DataSection) for value in ("left", "drop", "middle")),
        *(("num_beams", value, EvaluationSection) for value in (0, 1, 64, 65)),
        *(("max_new_tokens", value, EvaluationSection) for value in (0, 1, 65_536, 65_537)),
    ],
)
def test_a_recipes_bounds_hold(tmp_path: Path, key: str, value: object, section: Any) -> None:
    def accepts(read: Any, refusal: type[Exception]) -> bool:
        try:
            read()
        except refusal:
            return False
        return True

    given = {"train": "x"} if section is DataSection else {}
    decoding = {"max_new_tokens": 8, "num_beams": 1, key: value}
    content = {"input": {key: value}} if given else {"scores": {"x": {"decoding": decoding}}}
    folder = write(tmp_path, content)
    by_recipe = accepts(lambda: section(**given, **{key: value}), ValidationError)
    assert accepts(lambda: AdapterManifest.read(folder), DataError) == by_recipe


def test_a_model_from_elsewhere_may_have_a_manifest_of_its_own(tmp_path: Path) -> None:
    theirs = {"files": ["a", "b"], "decoding": "greedy"}
    assert ModelManifest.read(write(tmp_path, theirs)).files is None
    with pytest.raises(DataError, match="decoding should be an object"):
        ModelManifest.read(write(tmp_path, {**theirs, "merged": {"name": "x"}}))


def test_files_are_verified(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    files = {"files": described([tmp_path / "a"])}
    verify(tmp_path, AdapterManifest.read(write(tmp_path, files)).files)
    for changed in ("2", "11"):
        (tmp_path / "a").write_text(changed)
        with pytest.raises(DataError, match="differs from its hash"):
            verify(tmp_path, AdapterManifest.read(tmp_path).files)
    (tmp_path / "a").unlink()
    with pytest.raises(DataError, match=r"is missing, and `manifest\.json` lists it"):
        verify(tmp_path, AdapterManifest.read(tmp_path).files)
    outside = {"files": {"../a": {"sha256": "0", "bytes": 1}}}
    with pytest.raises(DataError, match="not a file of the folder"):
        verify(tmp_path, AdapterManifest.read(write(tmp_path, outside)).files)


def test_scores_are_added_and_the_rest_stays(tmp_path: Path) -> None:
    content = {"later": [1], "scores": {"b": {"n": 1}}, "base": {"name": "demo", "later": 2}}
    records.add_scores(write(tmp_path, content), "a", {"n": 2})
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    expected = {**content, "scores": {"b": {"n": 1}, "a": {"n": 2}}}
    assert text == json.dumps(expected, indent=2) + "\n"
