"""What is said of columns: which are used, which are not, and what the source alone does not tell
apart.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from read_and_prepare import prepare

from lora_s2s.data.prepared import PreparedDataset

Write = Callable[[str, str], str]
Prepare = Callable[..., PreparedDataset]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    def build(path: str, **settings: Any) -> PreparedDataset:
        return prepare(
            train=path,
            model_name="demo",
            out=tmp_path / "out",
            **{"validation_fraction": 0.0, **settings},
        )

    return build


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def sums(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": n,
            "Body": f"Ann has {n} red pens and finds {n + 1} more",
            "Question": "How many now?",
            "Equation": f"({n}+{n + 1})",
            "Answer": str(2 * n + 1),
            "note": "" if n % 4 else "seen",
        }
        for n in range(count)
    ]


def test_every_unused_column_is_named_with_how_full_it_is(write: Write, prepared: Prepare) -> None:
    report = prepared(write("a.jsonl", lines(sums(12)))).report
    assert report["columns_line"] == (
        "columns: source 'Question', target 'Answer'; not used: 'id', 'Body', 'Equation', "
        "'note' (25% filled)"
    )
    assert report["several_targets"] == 12
    assert any(
        "12 training rows (100%) have the same source" in text for text in report["warnings"]
    )
    some = [{"question": f"which {n % 20}?", "answer": str(n)} for n in range(60)]
    held_out = prepared(write("b.jsonl", lines(some)), validation_fraction=0.5).report
    assert held_out["several_targets"] == held_out["splits"]["train"] < 60


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_the_template_of_the_warning_uses_the_missed_column(
    suffix: str, write: Write, prepared: Prepare
) -> None:
    rows, text = sums(12), io.StringIO()
    rows[0]["Body"] = "Pens"  # one text that is short
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    path = write(f"a.{suffix}", lines(rows) if suffix == "jsonl" else text.getvalue())
    role, warning = [text for text in prepared(path).report["warnings"] if "--set" in text]
    assert role.endswith("it could also be 'Body': --set data.source_column=Body")
    assert "'Body'" in warning
    (word,) = shlex.split(warning.partition("--set ")[2])
    assert word == "data.template={Body} {Question}"
    data = prepared(path, template=word.partition("=")[2])
    assert data.train.sources()[1] == "Ann has 1 red pens and finds 2 more How many now?"
    assert data.report["warnings"] == []
    assert data.report["several_targets"] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "row {} of the old table"),
        ("source_name", "the same words in every row"),
        ("score", "{}"),
        ("code", "x{}"),
        ("when", "{} Mar 2026 at 10:00"),
        ("customer", "Ann Miller{}"),
        ("rare", ""),
    ],
)
def test_what_is_no_text_of_its_own_is_no_warning(
    name: str, value: str, write: Write, prepared: Prepare
) -> None:
    rows = [
        {name: value.format(n), "question": f"what is {n}", "answer": f"it is {n}"}
        for n in range(20)
    ]
    report = prepared(write("a.jsonl", lines(rows))).report
    assert f"; not used: '{name}'" in report["columns_line"]
    assert report["warnings"] == []


def test_where_all_columns_are_used_that_is_said(write: Write, prepared: Prepare) -> None:
    rows = [{"question": f"what is {n}", "answer": f"it is {n}"} for n in range(4)]
    assert prepared(write("a.jsonl", lines(rows))).report["columns_line"] == (
        "columns: source 'question', target 'answer'; all columns are used"
    )


def test_duplicates_are_equal_in_every_column_but_an_identifier(
    write: Write, prepared: Prepare
) -> None:
    one = {"Body": "two cats and a dog", "Question": "how many?", "Answer": "3"}
    rows = [
        {"id": 1, **one},
        {"id": 2, **one},
        {"id": 3, **one, "Body": "three dogs and no cat"},
        {"id": 4, **one},
    ]
    report = prepared(write("a.jsonl", lines(rows))).report
    assert (report["duplicates"], report["splits"]["train"], report["repeated_pairs"]) == (2, 2, 1)
    assert report["near_duplicates"] == 0  # the repeated pair is reported once
    assert (
        "1 row with the source and target of another row: kept, as unused columns ('Body') differ"
        in report["advice"]
    )
    assert not any("dropped" in text for text in report["warnings"])
    more = prepared(write("b.jsonl", lines(rows + 2 * rows[:1]))).report
    assert (
        "4 examples dropped (duplicate), more than are left to train on: is it the right file? All "
        "its columns but identifiers are equal in these rows" in more["warnings"]
    )
    held_out = write("c.jsonl", lines([{**one, "Question": f"which {n}?"} for n in range(4)]))
    train = [{**one, "Question": f"which {n}?"} for n in range(1, 5)]
    leaked = prepared(write("d.jsonl", lines(train)), validation=held_out).report
    assert (
        "3 examples dropped (source is held out), more than are left to train on: do the training "
        "and the held-out data name the same rows?" in leaked["warnings"]
    )
    wrong = [{**one, "Body": f"{n} cats and a dog"} for n in range(9)]
    assert any(
        text.startswith("8 rows with the source and target of another row")
        for text in prepared(write("e.jsonl", lines(wrong))).report["warnings"]
    )


def test_several_right_answers_are_a_note(write: Write, prepared: Prepare) -> None:
    rows = [{"mr": f"name[{n // 3}]", "ref": f"a place called {n}"} for n in range(30)]
    report = prepared(write("a.jsonl", lines(rows))).report
    assert report["warnings"] == []
    assert report["advice"][0].startswith(
        "30 training rows (100%) have the same source as rows with other targets"
    )
