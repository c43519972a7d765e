"""From sources and references to scores on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation import evaluate as room
from lora_s2s.evaluation.evaluate import Evaluation, evaluate, group_references, record_scores
from lora_s2s.inference.decode import DecodingSettings, Prediction

SETTINGS = DecodingSettings(max_new_tokens=9)
SOURCES = ["a", "b", "c", "d"]
REFERENCES = [["A one"], ["B two", "B 2"], ["C three"], ["D four"]]


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Decoding replaced by a look-up in the predictor; returns the settings it was called with."""
    asked: list[Any] = []

    def decode(predictor: Any, sources: Sequence[str], settings: DecodingSettings, progress: Any) -> list[Prediction]:
        asked.append(settings)
        if progress is not None:
            progress(len(sources), len(sources))
        texts = [predictor.answers[source] for source in sources]
        return [Prediction(text, tokens=2, stopped=not text.endswith("…")) for text in texts]

    monkeypatch.setattr(room, "decode", decode)
    return asked


def model(*answers: str) -> Any:
    return SimpleNamespace(answers=dict(zip(SOURCES, answers, strict=True)))


def evaluated(**changes: Any) -> Evaluation:
    given = {"metrics": ["exact_match", "bleu"], "settings": SETTINGS, "baseline": model("?", "B 2", "?", "?…")}
    return evaluate(model("A one", "B 2", "C three", "no…"), SOURCES, REFERENCES, **{**given, **changes})


def test_references_are_grouped_in_order_of_first_appearance() -> None:
    found = group_references(["b", "a", "b", "c", "a"], ["1", "2", "3", "4", "2"])
    assert found == (["b", "a", "c"], [["1", "3"], ["2", "2"], ["4"]])


def test_scores_baseline_and_difference() -> None:
    found = evaluated()
    assert found.n == 4
    assert found.references == 5
    assert found.unstopped == 1
    assert found.metrics["exact_match"].value == 75.0
    assert found.baseline is not None
    assert found.baseline["exact_match"].value == 25.0
    assert found.difference is not None
    assert found.difference["exact_match"].value == 50.0
    assert found.difference["bleu"].value == found.metrics["bleu"].value - found.baseline["bleu"].value


def test_json_is_the_contracts(tmp_path: Path) -> None:
    found = json.loads(json.dumps(evaluated().to_json(tmp_path / "predictions.jsonl"), allow_nan=False))
    assert found["n"] == 4
    assert found["predictions"] == str(tmp_path / "predictions.jsonl")
    for part in ("metrics", "baseline"):
        assert set(found[part]) == {"exact_match", "bleu"}
        assert set(found[part]["bleu"]) == {"value", "interval", "signature"}
    assert set(found["difference"]["bleu"]) == {"value", "interval", "p_value", "signature"}
    assert len(found["metrics"]["bleu"]["interval"]) == 2
    alone = evaluated(baseline=None).to_json()
    assert (alone["baseline"], alone["difference"], alone["predictions"]) == (None, None, None)


def test_limit_and_progress_and_same_settings_for_both(scripted: list[Any]) -> None:
    seen: list[Any] = []
    assert evaluated(limit=2, progress=lambda *step: seen.append(step)).n == 2
    assert seen == [("decode", 2, 2), ("baseline", 2, 2)]
    assert scripted == [SETTINGS, SETTINGS]


def test_an_unknown_metric_is_refused_before_decoding(scripted: list[Any]) -> None:
    with pytest.raises(UsageError):
        evaluated(metrics=["blue"])
    assert not scripted


def test_no_rows_is_a_data_error() -> None:
    with pytest.raises(DataError):
        evaluated(limit=0)


def test_written_whole_and_replaced(tmp_path: Path) -> None:
    out = tmp_path / "evaluations" / "test"
    evaluated(baseline=None).write(out)
    path = evaluated().write(out)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows[1] == {"source": "b", "references": ["B two", "B 2"], "prediction": "B 2", "baseline": "B 2"}
    assert [row["source"] for row in rows] == SOURCES
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert scores["metrics"]["exact_match"]["value"] == 75.0
    assert str(tmp_path) not in (out / "scores.json").read_text(encoding="utf-8")
    assert sorted(item.name for item in out.parent.iterdir()) == ["test"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        evaluated().write(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


def test_scores_join_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 1, "scores": {"old": {"n": 1}}}', encoding="utf-8")
    record_scores(tmp_path, "test", evaluated())
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format"] == 1
    assert manifest["scores"]["old"] == {"n": 1}
    assert manifest["scores"]["test"]["metrics"]["bleu"]["signature"].startswith("nrefs:var")


def test_a_manifest_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError):
        record_scores(tmp_path, "test", evaluated())
