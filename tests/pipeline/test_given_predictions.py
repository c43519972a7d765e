"""Predictions made elsewhere: the columns of other tools, and which source each row belongs to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_s2s.errors import DataError
from lora_s2s.pipeline.given_predictions import GivenPredictions, read_predictions
from lora_s2s.pipeline.scored_data import ScoredData

Write = Callable[[str, str], str]


def rows(*objects: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in objects)


@pytest.mark.parametrize(
    ("name", "text", "source"),
    [
        ("ours.jsonl", rows({"source": "s", "references": ["r", "q"], "prediction": "p"}), ["s"]),
        ("plain.jsonl", rows({"prediction": "p", "target": "r"}), None),
        ("factory.jsonl", rows({"prompt": "s", "predict": "p", "label": "r"}), ["s"]),
        ("harness.jsonl", rows({"filtered_resps": ["p"], "target": "r", "doc": {}}), None),
        ("best.jsonl", rows({"Hypothesis": ["p", "p2"], "Reference": "r", "src": "s"}), ["s"]),
        ("answers.jsonl", rows({"question": "s", "output": "p", "gold": "r"}), ["s"]),
        ("table.csv", "input,pred,reference\ns,p,r\n", ["s"]),
        ("array.json", json.dumps([{"mt": "p", "ref": "r"}]), None),
    ],
)
def test_columns_of_other_tools_are_found_and_shown(
    write: Write, capsys: pytest.CaptureFixture[str], name: str, text: str, source: object
) -> None:
    given = read_predictions(write(name, text), with_references=True)
    assert given.texts == ["p"]
    assert given.references is not None
    assert given.references[0][0] == "r"
    assert given.sources == source
    assert f"{name}: predictions in '" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.jsonl",
            rows({"prediction": "p", "target": "r"}, {"prediction": "p", "target": ""}),
            "empty target",
        ),
        ("a.jsonl", rows({"prediction": "p", "references": []}), "empty target"),
        ("a.jsonl", rows({"prediction": None, "target": "r"}), "missing prediction"),
        ("a.jsonl", rows({"prediction": {"a": 1}, "target": "r"}), "prediction is not text"),
        ("a.jsonl", rows({"one": "p", "two": "r"}), "no prediction column; the file has 'one'"),
        ("a.jsonl", rows({"prediction": "p", "score": 1}), "no reference column"),
        ("a.txt", "p\n", "holds predictions alone"),
    ],
)
def test_what_is_missing_is_named(write: Write, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_predictions(write(name, text), with_references=True)
    assert error.value.hint


def data(*sources: str, rows: list[int] | None = None) -> ScoredData:
    places = list(range(len(sources))) if rows is None else rows
    return ScoredData("d", sources, [["r"]] * len(sources), False, rows=places)


def test_predictions_belong_to_sources_by_text_or_by_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = GivenPredictions("f", ["2", "1"], ["b", "a"])
    assert own.by_source(data("a", "b", "c")) == {1: "2", 0: "1"}
    ordered = GivenPredictions("f", ["1", "2"], ["a", "b"])
    assert ordered.by_source(data("ask: a", "ask: b")) == {0: "1", 1: "2"}
    every_row = GivenPredictions("f", ["1", "unusable", "2", "other"])
    assert every_row.by_source(data("a", "b", rows=[0, -1, 1, 0])) == {0: "1", 1: "2"}
    assert "1 sources have several different predictions" in capsys.readouterr().err
    assert GivenPredictions("f", ["1", "2"]).by_source(data("a", "b", rows=[0, 0, 1])) == {
        0: "1",
        1: "2",
    }


def test_predictions_of_other_data_are_refused() -> None:
    with pytest.raises(DataError, match=r"f has 3 predictions, the data 2 rows$"):
        GivenPredictions("f", ["1", "2", "3"]).by_source(data("a", "b"))
    with pytest.raises(DataError, match=r"3 rows \(2 different sources\)"):
        GivenPredictions("f", ["1"] * 5).by_source(data("a", "b", rows=[0, 1, 1]))
    with pytest.raises(DataError, match="row 2: the source is 'x', but 'b' in the data"):
        GivenPredictions("f", ["1", "2"], ["a", "x"]).by_source(data("a", "b"))


def test_rows_of_one_source_are_one_observation(tmp_path: Path) -> None:
    given = GivenPredictions("f", ["1", "1", "2"], ["a", "a", "b"], [["r"], ["q", "r"], ["t"]])
    held = given.scored_data()
    assert (held.sources, held.references) == (["a", "b"], [["r", "q"], ["t"]])
    assert held.rows == [0, 0, 1]
    without = GivenPredictions("f", ["1", "1"], None, [["r"], ["r"]]).scored_data()
    assert len(without.sources) == 2
    with pytest.raises(DataError, match="no such file"):
        read_predictions(str(tmp_path / "none.jsonl"), with_references=False)
