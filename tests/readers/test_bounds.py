"""Files made to take time or memory out of all proportion to their size."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from resident_memory import rise

from lora_s2s import limits
from lora_s2s.errors import DataError, nearest
from lora_s2s.readers.origins import Origin
from lora_s2s.readers.rows import Rejected, Row

Write = Callable[[str, str], str]
LONG = "x y " * 1_000_000
TURNS = [[{"from": "human", "value": LONG}, {"from": "gpt", "value": "b"}]] * 80


def rows(path: str | Path) -> list[Row | Rejected]:
    return list(Origin(str(path), Path(path)).rows())


def read_through(path: Path) -> str:
    """Reads a file to its end, or to a refusal, and holds nothing of it; returns the refusal."""
    try:
        for _ in Origin(str(path), path).rows():
            pass
    except DataError as error:
        return error.message
    return ""


PARQUET: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dictionary": (
        {"source": pa.DictionaryArray.from_arrays([0] * 300, [LONG])},
        {"store_schema": False},
    ),
    "plain pages": ({"source": [LONG] * 100, "target": ["b"] * 100}, {"use_dictionary": False}),
    "nested dictionary": ({"conversations": TURNS}, {}),
    "delta": (
        {"source": [LONG] * 100},
        {"use_dictionary": False, "column_encoding": {"source": "DELTA_BYTE_ARRAY"}},
    ),
    "lists": ({"source": ["a"] * 40, "target": [["b" * 100_000] * 100] * 40}, {}),
}


@pytest.mark.parametrize("kind", PARQUET)
def test_a_small_parquet_file_that_stands_for_much_is_read_in_bounded_memory(
    kind: str, tmp_path: Path
) -> None:
    columns, settings = PARQUET[kind]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd", **settings)
    risen = rise()
    message = read_through(path)
    assert risen() < 700 * limits.MIB
    assert not message or "expands" in message


def test_parquet_pages_are_measured_by_their_own_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"source": ["a" * 100_000] * 50}), path, use_dictionary=False, compression="zstd"
    )
    assert len(rows(path)) == 50
    monkeypatch.setattr(limits, "LARGEST_PARQUET_PAGES", limits.MIB)
    with pytest.raises(DataError, match="expands to more than 1 MiB of memory at once"):
        rows(path)


def test_parquet_values_are_those_written_however_they_are_stored(tmp_path: Path) -> None:
    texts = [f"text {number % 7}" * (5000 if number == 3 else 1) for number in range(3000)]
    turns = [[{"from": "human", "value": text}, {"from": "gpt", "value": None}] for text in texts]
    table = pa.table(
        {"text": texts, "turns": turns, "number": list(range(3000)), "list": [[t] for t in texts]}
    )
    for settings in (
        {},
        {"use_dictionary": False},
        {"data_page_version": "2.0"},
        {"row_group_size": 700},
    ):
        pq.write_table(table, tmp_path / "a.parquet", compression="gzip", **settings)  # type: ignore[arg-type]
        found = rows(tmp_path / "a.parquet")
        assert [item.fields for item in found if isinstance(item, Row)] == table.to_pylist()
        assert [item.line for item in found] == list(range(1, 3001))


def test_one_value_that_is_too_long_is_rejected_and_the_rest_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_s2s.readers.streams.LONGEST_RECORD", limits.MIB)
    monkeypatch.setattr(limits, "PARQUET_BATCH", limits.MIB)
    pq.write_table(pa.table({"source": ["a", "b" * 2_000_000, "c"]}), tmp_path / "a.parquet")
    first, second, third = rows(tmp_path / "a.parquet")
    assert (first.line, second.line, third.line) == (1, 2, 3)
    assert isinstance(second, Rejected)
    assert second.reason == "longer than 32 MiB"


WIDE = 60_000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.csv",
            ",".join(f"c{n}" for n in range(WIDE))
            + ",source,target\n"
            + ",".join("1" * WIDE)
            + ",a,b\n",
        ),
        ("b.csv", "\n".join([",".join("1" * WIDE)] * 3)),
        ("c.tsv", "\t".join(["same"] * WIDE) + "\na\tb\n"),
        ("d.jsonl", json.dumps({**{f"k{n}": 1 for n in range(100_000)}, "source": "a"})),
        ("e.json", "[{" + ", ".join(f'"k{n}": 1' for n in range(100_000)) + ', "k7": 2}]'),
        (
            "f.jsonl",
            "{" + ", ".join(f'"{"k" * 300}{n}": 1' for n in range(50_000)) + ', "a": 2, "a": 3}',
        ),
    ],
    ids=lambda text: text[:6],
)
def test_wide_rows_take_time_in_proportion(name: str, text: str, write: Write) -> None:
    path, start = write(name, text), time.process_time()
    if name.endswith("sv"):
        assert "columns, at most 4,096 are read" in read_through(Path(path))
    else:
        (item,) = rows(path)
        assert isinstance(item, Rejected)
        assert item.kind in ("more than 4,096 fields", "duplicate key")
        assert len(item.reason) < 200
    assert time.process_time() - start < 4


@pytest.mark.parametrize("line", [b"," * (20 << 20), b"a," * (10 << 20)])
def test_a_header_of_very_many_columns_takes_little_memory(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(line + b"\na,b\n")
    risen = rise()
    assert "columns, at most 4,096 are read" in read_through(tmp_path / "a.csv")
    assert risen() < 900 * limits.MIB


def test_the_first_rows_are_held_up_to_a_size(tmp_path: Path) -> None:
    from read_and_prepare import read_examples

    def first_format(name: str) -> str:
        examples = read_examples(str(tmp_path / name))
        next(iter(examples))
        return examples.reading.format

    turns = json.dumps(
        {
            "conversations": [
                {"from": "human", "value": "x" * 4_000_000},
                {"from": "gpt", "value": "y"},
            ]
        }
    )
    (tmp_path / "a.jsonl").write_text(f"{turns}\n" * 40)
    (tmp_path / "b.csv").write_text("source,target\n" + f"{'x' * 4_000_000},y\n" * 40)
    risen = rise()
    assert first_format("a.jsonl") == "conversations"
    assert first_format("b.csv") == "pairs"
    assert risen() < 120 * limits.MIB


def test_the_nearest_name_is_not_looked_for_among_texts() -> None:
    start = time.process_time()
    assert (
        nearest("sorce", ["x" * 100_000, "source", *("y" * 90_000 for _ in range(50))])
        == " (did you mean 'source'?)"
    )
    assert nearest("x" * 100_000, ["x" * 90_000] * 9) == ""
    assert time.process_time() - start < 1


def test_a_zip_of_very_many_names_is_refused_before_they_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(50):
            archive.writestr(f"{number}{'f' * 60_000}", "")
    with pytest.raises(DataError, match="its directory is too large"):
        rows(tmp_path / "a.zip")


def test_replies_of_one_conversation_repeat_it_only_so_far(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from read_and_prepare import read_examples

    turns = [{"from": ("human", "gpt")[n % 2], "value": "x" * 1000} for n in range(40)]
    path = write("a.jsonl", json.dumps({"conversations": turns}) + "\n")
    assert len(list(read_examples(path))) == 20
    monkeypatch.setattr(limits, "LARGEST_CONVERSATION", 100_000)
    found = list(read_examples(path))
    assert isinstance(found[-1], Rejected)
    assert found[-1].kind.startswith("more than")
    assert len(found) < 12
