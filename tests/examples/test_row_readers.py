"""Files to examples, as a user's files come: every format, every ending, and what is wrong with
them.
"""

from __future__ import annotations

import datetime
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from read_and_prepare import how_read, read_examples

from lora_s2s.demo import task
from lora_s2s.errors import DataError, UsageError
from lora_s2s.examples.causes import hint_for
from lora_s2s.examples.example import Example
from lora_s2s.examples.read import Examples
from lora_s2s.readers.origins import READERS
from lora_s2s.readers.rows import Rejected
from lora_s2s.recipe.schema import DataSection

Write = Callable[[str, str], str]


def pairs(path: str | list[str], **settings: str) -> list[tuple[str, str]]:
    return [
        (item.source, item.target)
        for item in read_examples(path, **settings)
        if isinstance(item, Example)
    ]


def rejections(path: str, **settings: str) -> list[Rejected]:
    return [item for item in read_examples(path, **settings) if isinstance(item, Rejected)]


TEXTS = [("a, b", 'say "hi"'), ("two\nlines", "007"), ("naïve", "2024-01-02"), ("x", "NA")]


def csv_of(rows: list[tuple[str, str]], delimiter: str = ",", end: str = "\r\n") -> str:
    quoted = [
        delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row)
        for row in [("source", "target"), *rows]
    ]
    return end.join(quoted) + end


def parquet_of(rows: list[tuple[str, str]], path: Path) -> None:
    pq.write_table(
        pa.table({"source": [row[0] for row in rows], "target": [row[1] for row in rows]}), path
    )


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("ending", sorted(set(READERS) - {".tmx"}))
def test_every_format_gives_the_same_texts(ending: str, zipped: bool, tmp_path: Path) -> None:
    objects = [{"source": source, "target": target} for source, target in TEXTS]
    lines = "\n".join(json.dumps(row) for row in objects)
    text = {
        ".csv": csv_of(TEXTS),
        ".tsv": csv_of(TEXTS, "\t", "\n"),
        ".json": json.dumps(objects, indent=1),
        ".jsonl": lines,
        ".ndjson": lines + "\n",
    }
    path = tmp_path / f"rows{ending}"
    if ending == ".parquet":
        parquet_of(TEXTS, path)
    else:
        path.write_bytes(b"\xef\xbb\xbf" + text[ending].encode())
    if zipped:
        path = path.with_name(path.name + ".gz")
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    assert pairs(str(path)) == TEXTS


def test_lines_are_those_where_a_csv_record_starts(write: Write) -> None:
    path = write("a.csv", 'source,target\n"one\nmore\nlines",1\n\ntwo,2\n')
    assert [item.where for item in read_examples(path) if isinstance(item, Example)] == [
        f"{path}:2",
        f"{path}:6",
    ]


def test_lines_of_a_json_array_and_of_data_inside_an_object(write: Write) -> None:
    array = '[\n{"source": "a",\n "target": "b"},\n\n{"source": "c", "target": "d"}]'
    for text, lines in (
        (array, [2, 5]),
        ('{"version": [1, {"x": 2}],\n "data": ' + array + "}", [3, 6]),
    ):
        path = write("a.json", text)
        assert [item.where for item in read_examples(path) if isinstance(item, Example)] == [
            f"{path}:{line}" for line in lines
        ]


def test_json_lines_under_the_name_json_and_a_single_object(write: Write) -> None:
    assert pairs(
        write("a.json", '{"input": "a", "output": "b"}\n{"input": "c", "output": "d"}')
    ) == [
        ("a", "b"),
        ("c", "d"),
    ]
    assert pairs(write("b.json", '{"input": "a",\n "output": "b"}\n')) == [("a", "b")]


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_csv_delimiter_is_the_headers(delimiter: str, write: Write) -> None:
    assert pairs(
        write("a.csv", delimiter.join(("source", "target")) + "\n" + delimiter.join(("x", "y")))
    ) == [("x", "y")]


def test_json_numbers_come_as_written_and_null_is_missing(write: Write) -> None:
    rows = (
        '{"source": 1e5, "target": 0.10}\n{"source": -0, "target": true}\n{"source": "null", '
        '"target": null}\n'
    )
    path = write("a.jsonl", rows)
    assert pairs(path) == [("1e5", "0.10"), ("-0", "true")]
    assert [(item.line, item.reason) for item in rejections(path)] == [(3, "missing target")]


def test_parquet_values_that_are_not_text(tmp_path: Path) -> None:
    table = pa.table({"source": [1, 2], "target": [datetime.date(2024, 1, 2), None]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert pairs(str(tmp_path / "a.parquet")) == [("1", "2024-01-02")]


BAD = [
    ('{"source": "a", "target": ""}', "empty target"),
    ('{"source": " ", "target": "b"}', "empty source"),
    ('{"source": "a"}', "missing target"),
    ('{"source": "a", "target": [["b"]]}', "target is not text"),
    ('{"source": "a", "target": []}', "empty target"),
    ('{"source": "a", "target": ["b", " "]}', "empty target"),
    ('{"source": ["a"], "target": "b"}', "source is not text"),
    ('{"source": {"x": 1}, "target": "b"}', "source is not text"),
    ('{"source": "a", "target": "\\ud800"}', "target is not valid Unicode"),
    ('{"source": "a", "target": ', "not valid JSON"),
    ('["a", "b"]', "not a JSON object"),
    ("[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_rejected_with_its_line_and_the_rest_is_read(
    line: str, reason: str, write: Write
) -> None:
    path = write(
        "a.jsonl",
        '{"source": "a", "target": "b"}\n\n' + line + '\n{"source": "c", "target": "d"}\n',
    )
    assert pairs(path) == [("a", "b"), ("c", "d")]
    (found,) = rejections(path)
    assert (found.file, found.line, found.kind) == (path, 3, reason)
    assert len(found.text) <= 200


def test_csv_rows_that_would_lose_text_are_rejected(write: Write) -> None:
    path = write("a.csv", 'source,target\na,b,c\nd,e\n"f" g,h\nonly\ni,"never closed\n')
    assert pairs(path) == [("d", "e")]
    assert [(item.line, item.kind) for item in rejections(path)] == [
        (2, "more fields than the header"),
        (4, "broken quoting"),
        (5, "fewer fields than the header"),
        (6, "broken quoting"),
    ]


def test_tsv_with_bare_quotes_is_read_as_plain_text(write: Write) -> None:
    assert pairs(write("a.tsv", 'source\ttarget\n"hi" she said\t"x\nb\t5" wide\n')) == [
        ('"hi" she said', '"x'),
        ("b", '5" wide'),
    ]


@pytest.mark.parametrize(
    ("header", "source", "target"),
    [
        (["Source", "TARGET"], "Source", "TARGET"),
        (["id", "mr", "ref"], "mr", "ref"),
        (["question", "answer", "id"], "question", "answer"),
        (["summary", "text"], "text", "summary"),
        (["input", "target", "template"], "input", "target"),
        (["article", "highlights"], "article", "highlights"),
        (["instruction", "output"], "instruction", "output"),
        (["dialogue", "summary"], "dialogue", "summary"),
    ],
)
def test_columns_are_found_by_name(
    header: list[str], source: str, target: str, write: Write
) -> None:
    path = write("a.csv", ",".join(header) + "\n" + ",".join(f"<{name}>" for name in header) + "\n")
    assert pairs(path) == [(f"<{source}>", f"<{target}>")]
    assert how_read(path).source_column == source


def test_two_columns_with_one_name_are_refused(write: Write) -> None:
    with pytest.raises(DataError, match="named twice: 'target'"):
        pairs(write("a.csv", "source,target,target\na,b,c\n"))


def test_named_columns_and_templates(write: Write) -> None:
    path = write("a.csv", "title,body,source,target\nT,{title},s,t\n")
    assert pairs(path, source_column="BODY", target_column="title") == [("{title}", "T")]
    assert pairs(path, source_column="body") == [("{title}", "t")]
    assert pairs(path, target_column="body") == [("s", "{title}")]
    # What a column holds is text: the braces in it are not filled in again.
    assert pairs(path, template="{title}: {body}") == [("T: {title}", "t")]


def test_rows_without_a_text_in_a_column_of_the_template(write: Write) -> None:
    rows = [{"title": "a", "body": None}, {"title": "b"}, {"title": "c", "body": ""}]
    path = write("a.jsonl", "".join(json.dumps({**row, "target": "x"}) + "\n" for row in rows))
    template = "{title}: {body}"
    assert pairs(path, template=template) == [("c: ", "x")]
    empty, missing = rejections(path, template=template)
    assert (empty.line, empty.reason) == (1, "empty cell in column 'body'")
    assert (missing.line, missing.reason) == (2, "missing column 'body'")
    assert "{{ COLUMN | default('') }}" in str(hint_for(empty))
    optional = "{{ title }}: {{ body | default('') }}"
    assert pairs(path, template=optional) == [("a: ", "x"), ("b: ", "x"), ("c: ", "x")]


def test_of_two_columns_the_one_that_is_not_named_is_the_other_side(write: Write) -> None:
    path = write("a.csv", "headline,body\na,b\n")
    for named in ({"source_column": "body"}, {"target_column": "headline"}):
        assert pairs(path, **named) == [("b", "a")]
    assert pairs(path, target_column="body", template="{headline}!") == [("a!", "b")]


def test_an_unknown_column_lists_those_that_exist(write: Write) -> None:
    path = write("a.csv", "article,headline\nx,y\n")
    for settings in (
        {"target_column": "headlin"},
        {"template": "{headlin}"},
        {"source_column": "headlin"},
    ):
        with pytest.raises(
            DataError, match=r"'headlin' \(did you mean 'headline'\?\).*'article', 'headline'"
        ) as caught:
            pairs(path, **settings)
        assert caught.value.exit_code == 3
    path = write("a.csv", "article,author,words\nx,y,z\n")
    with pytest.raises(
        DataError, match=r"cannot guess the target column.*'article', 'author', 'words'"
    ) as caught:
        pairs(path)
    assert "--set data.target_column" in str(caught.value.hint)


def test_as_pairs_instruction_input_output_needs_a_template(write: Write) -> None:
    path = write("a.jsonl", '{"instruction": "Add", "input": "1 1", "output": "2"}')
    for settings in ({"format": "pairs"}, {"target_column": "output"}):
        with pytest.raises(DataError, match="template") as caught:
            pairs(path, **settings)
        assert "--set data.format=alpaca" in str(caught.value.hint)
    assert pairs(path, template="{instruction} {input}") == [("Add 1 1", "2")]


def test_files_that_hold_nothing_usable(write: Write) -> None:
    for name, text in (
        ("a.csv", ""),
        ("b.csv", "source,target\n"),
        ("c.json", "[]"),
        ("d.jsonl", "\n"),
    ):
        with pytest.raises(DataError, match="is empty"):
            pairs(write(name, text))
    with pytest.raises(DataError, match="2 × empty target") as caught:
        pairs(write("e.jsonl", '{"input": "a", "target": ""}\n{"input": "b", "target": " "}\n'))
    assert caught.value.exit_code == 3
    assert "--set data.target_column=" in str(caught.value.hint)


def test_files_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file.*did you mean 'train.csv'"):
        write("train.csv", "source,target\n")
        pairs(str(tmp_path / "trian.csv"))
    (tmp_path / "latin.csv").write_bytes("source,target\nça,va\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.csv is not UTF-8: none of 1 rows"):
        pairs(str(tmp_path / "latin.csv"))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"source,target\n" + b"a,b\n" * 9999)[:-20])
    with pytest.raises(DataError, match="damaged gzip"):
        pairs(str(tmp_path / "cut.csv.gz"))
    with pytest.raises(DataError, match="cannot be read"):
        pairs(write("bad.parquet", "not parquet"))
    with pytest.raises(DataError, match="not valid JSON") as caught:
        pairs(write("bad.json", '[{"source": "a", "target": "b"},\n {"source": }]'))
    assert str(caught.value.where).endswith("bad.json:2:13")
    with pytest.raises(DataError, match=r"no reader for notes\.txt.*\.csv"):
        pairs(write("notes.txt", "x"))


def test_folders_globs_and_lists(write: Write, tmp_path: Path) -> None:
    write("d/b.csv", "source,target\nb,2\n")
    write("d/a.jsonl", '{"input": "a", "output": "1"}')
    write("d/readme.txt", "no data")
    other = write("c.tsv", "source\ttarget\nc\t3\n")
    assert pairs(str(tmp_path / "d")) == [("a", "1"), ("b", "2")]
    assert pairs([str(tmp_path / "d" / "*.csv"), other]) == [("b", "2"), ("c", "3")]
    with pytest.raises(DataError, match="contains no readable file"):
        pairs(str(tmp_path / "d" / "*.parquet"))


def test_the_demo_task_reads_like_a_file() -> None:
    assert pairs("demo:validation") == task.examples("validation")
    with pytest.raises(DataError, match="demo:train"):
        pairs("demo:nothing")


def test_a_function_of_the_users_own(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        "own_format.py",
        "def both(row):\n    return [(row['en'], row['de']), (row['de'], row['en'])]\nnumber = 1\n",
    )
    monkeypatch.chdir(tmp_path)
    path = write(
        "a.jsonl", '{"en": "one", "de": "eins"}\n{"en": "two"}\n{"en": "three", "de": ""}\n'
    )
    assert pairs(path, format="own_format:both") == [("one", "eins"), ("eins", "one")]
    assert [item.line for item in rejections(path, format="own_format:both")] == [2, 3]
    for name in ("own_format:nothing", "no_such_module:f", "own_format:number"):
        with pytest.raises(UsageError):
            pairs(path, format=name)
    with pytest.raises(ValueError, match=r"did you mean 'pairs'"):
        pairs(path, format="pair")
    newer = DataSection(train=path).model_copy(update={"format": "sqad"})
    with pytest.raises(UsageError, match=r"unknown format 'sqad' \(did you mean 'squad'"):
        list(Examples(newer))


def test_a_column_that_a_file_may_lack_does_not_decide_on_its_header(write: Write) -> None:
    rows = "word,sounds\nkat,k a t\nboot,b o t\nvis,v i s\nhuis,h u i s\n"
    numbered = DataSection(
        train=write("a.csv", rows), source_column="column1", target_column="column2"
    )
    found = Examples(numbered, optional=("source_column", "target_column"))
    assert [item.source for item in found if isinstance(item, Example)] == [
        "kat",
        "boot",
        "vis",
        "huis",
    ]
    assert (found.reading.source_column, found.reading.target_column) == ("word", "sounds")
