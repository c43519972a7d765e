"""Rows that ``prepare`` rejects, and files that changed since."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cli_parts import Invoke


def row(source: str = "a", target: str = "b") -> str:
    return f'{{"source": "{source}", "target": "{target}"}}\n'


def prepared(invoke: Invoke, data: str, out: str = "out") -> dict[str, Any]:
    """Runs ``prepare`` and returns what it printed."""
    report: dict[str, Any] = json.loads(
        invoke("prepare", "--data", data, "--model", "demo", "--out", out, "--json").stdout
    )
    return report


def rejected(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_one_bad_row_among_many_is_counted_and_listed(invoke: Invoke, here: Path) -> None:
    good = "".join(row(f"what {number}", f"it is {number}") for number in range(200)).encode()
    (here / "a.jsonl").write_bytes(good + row(source="café").encode("latin-1"))
    rows = prepared(invoke, "a.jsonl")["rows"]
    assert rows == {"read": 201, "kept": 200, "rejected": 1, "by_reason": {"invalid UTF-8": 1}}
    (item,) = rejected(here / "out")
    assert (item["file"], item["line"]) == ("a.jsonl", 201)
    assert item["reason"] == f"invalid UTF-8: byte {len(good) + 15} of the file"


def test_a_folder_of_different_columns_works_and_lists_the_omitted_file(
    invoke: Invoke, here: Path
) -> None:
    (here / "mixed").mkdir()
    (here / "mixed" / "a.jsonl").write_text(
        "".join(row(f"what {number}") for number in range(200)), encoding="utf-8"
    )
    (here / "mixed" / "b.csv").write_text("question,answer\nwho,me\n", encoding="utf-8")
    (here / "mixed" / "odd.csv").write_text("first,second\na,b\n", encoding="utf-8")
    rows = prepared(invoke, "mixed")["rows"]
    assert rows["kept"] == 201
    assert rows["by_reason"] == {"no known columns in this file": 1}
    (item,) = rejected(here / "out")
    assert item["file"] == "mixed/odd.csv"
    assert item["reason"].endswith("the file has 'first', 'second'")


def test_a_file_edited_within_the_second_and_of_the_same_size_is_prepared_again(
    invoke: Invoke, here: Path
) -> None:
    file = here / "a.jsonl"
    for number, answer in enumerate(("it is red", "it is tan")):
        file.write_text(
            "".join(row(f"what {place}", answer) for place in range(20)), encoding="utf-8"
        )
        os.utime(file, (1_700_000_000, 1_700_000_000))
        assert prepared(invoke, "a.jsonl")["classes"] == {answer: 19}, number
        page = (here / "out" / "report.html").read_text(encoding="utf-8")
        assert answer in page
