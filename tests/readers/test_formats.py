"""The formats, as users' files come: dialects, JSON of every shape, TMX; and what is rejected or
refused, and where.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import gzip
import io
import json
import tracemalloc
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_s2s.errors import DataError
from lora_s2s.readers import streams
from lora_s2s.readers.choose import READERS
from lora_s2s.readers.origins import Origin
from lora_s2s.readers.rows import Rejected, Row

Write = Callable[[str, str], str]
many = settings(
    max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def rows(path: str | Path) -> list[Row | Rejected]:
    return list(Origin(str(path), Path(path)).rows())


def found(path: str | Path) -> list[Any]:
    """The fields of each row, the reason of each rejection."""
    return [item.fields if isinstance(item, Row) else item.reason for item in rows(path)]


def refusal(path: str | Path) -> DataError:
    with pytest.raises(DataError) as caught:
        rows(path)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        "source,target\na;b,c\nd;e,f\n",
        "source;target\na;b,c\nd,e;f\n",
        "source\ttarget\na, b; c\td\n",
        "source|target\na,b|c\n",
        '"source, or; text";target\n"a;b";c,d\n',
        "source;target,2\na;b\nc;d\n",
        'sep=;\nsource,x;target\n"a;b";c\n',
        '"sep=|"\r\nsource|target\r\na|b\r\n',
    ],
)
def test_the_delimiter_is_the_one_that_header_and_records_agree_on(text: str, write: Write) -> None:
    expected = {
        "source,target\na;b,c\nd;e,f\n": [
            {"source": "a;b", "target": "c"},
            {"source": "d;e", "target": "f"},
        ],
        "source;target\na;b,c\nd,e;f\n": [
            {"source": "a", "target": "b,c"},
            {"source": "d,e", "target": "f"},
        ],
        "source\ttarget\na, b; c\td\n": [{"source": "a, b; c", "target": "d"}],
        "source|target\na,b|c\n": [{"source": "a,b", "target": "c"}],
        '"source, or; text";target\n"a;b";c,d\n': [{"source, or; text": "a;b", "target": "c,d"}],
        "source;target,2\na;b\nc;d\n": [
            {"source": "a", "target,2": "b"},
            {"source": "c", "target,2": "d"},
        ],
        'sep=;\nsource,x;target\n"a;b";c\n': [{"source,x": "a;b", "target": "c"}],
        '"sep=|"\r\nsource|target\r\na|b\r\n': [{"source": "a", "target": "b"}],
    }
    path = write("a.csv", text)
    assert found(path) == expected[text]
    assert rows(path)[0].line == (3 if "sep=" in text else 2)


def test_csv_rows_that_would_lose_text_are_rejected_with_their_lines(write: Write) -> None:
    text = 'source,target,\na,b,c,d\ne,f,g,,\n"h" i,j,\nonly,two\n\n"k\nk",l,m\nn,"never closed\n'
    path = write("a.csv", text)
    assert [
        (item.line, item.fields if isinstance(item, Row) else item.reason) for item in rows(path)
    ] == [
        (2, "more fields than the header: 4, expected 3 (is a text with the delimiter unquoted?)"),
        (3, {"source": "e", "target": "f", "": "g"}),
        (4, "broken quoting: ',' expected after '\"', lines 4 to 4"),
        (5, "fewer fields than the header: 2, expected 3"),
        (7, {"source": "k\nk", "target": "l", "": "m"}),
        (9, "broken quoting: unexpected end of data, lines 9 to 9"),
    ]


def test_the_rows_that_an_open_quote_swallows_are_counted(write: Write) -> None:
    path = write("a.csv", 'source,target\na,b\n"open quote,c\nd,e\nf,"g, h"\ni,j\n')
    items = rows(path)
    assert [item.line for item in items] == [2, 3, 4, 5, 6]
    reasons = [item.reason for item in items if isinstance(item, Rejected)]
    assert reasons[0] == "broken quoting: ',' expected after '\"', lines 3 to 5"
    assert reasons[1:] == ["broken quoting: taken into the quotes of line 3"] * 2


def test_a_column_named_twice_is_refused_and_unnamed_ones_are_not(
    write: Write, tmp_path: Path
) -> None:
    error = refusal(write("a.csv", "id,text,x,y, text\n1,2,3,4,5\n"))
    assert error.message == "a column named twice: 'text' (columns 2 and 5)"
    assert str(error.where).endswith("a.csv:1")
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "(columns 1 and 2)" in refusal(tmp_path / "a.parquet").message
    assert found(write("b.csv", ",a,\n1,2,3\n")) == [{"": "1", "a": "2", ".3": "3"}]


def test_a_header_that_cannot_be_read(write: Write) -> None:
    error = refusal(write("a.csv", '"source" x,target\na,b\n'))
    assert "the header cannot be read (broken quoting" in error.message


def test_tsv_quotes_are_quoting_only_where_all_of_them_are(write: Write) -> None:
    assert found(write("a.tsv", 's\tt\n"a\tb"\tc\n')) == [{"s": "a\tb", "t": "c"}]
    assert found(write("a.tsv", 's\tt\n"a" b\tc\n"d"\t"e\n')) == [
        {"s": '"a" b', "t": "c"},
        {"s": '"d"', "t": '"e'},
    ]
    assert found(write("a.tsv", "s,t\na,b\n")) == [{"s": "a", "t": "b"}]


def test_nul_characters_do_not_stop_a_csv_file(write: Write) -> None:
    path = write("a.csv", "source,target\n" + "a longer row,with text\n" * 3 + "a\0b,c\nd,e\n")
    assert found(path)[-1] == {"source": "d", "target": "e"}
    assert len(rows(path)) == 5


def test_a_record_of_many_lines_is_bounded_too(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LONGEST_RECORD", 1000)
    path = write("a.csv", 'source,target\na,b\n"' + "text\n" * 1000 + '",c\nd,e\n')
    first, too_long, *fragments = rows(path)
    assert isinstance(first, Row)
    assert isinstance(too_long, Rejected)
    assert (too_long.line, too_long.reason) == (3, "longer than 32 MiB")
    assert all(isinstance(item, Rejected) for item in fragments)


OBJECTS = [{"source": "a", "target": "1"}, {"source": "b", "target": "2"}]
LINES = '{"source": "a", "target": 1}\n\n{"source": "b", "target": 2}\n'
ARRAY = '[\n{"source": "a",\n "target": 1},\n\n{"source": "b", "target": 2}]'


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (LINES, [1, 3]),
        (ARRAY, [2, 5]),
        ('{"data": ' + ARRAY + "}", [2, 5]),
        (
            '{"version": [1, {"x": 2.5}], "n": 1.5, "s": "]",\n "data": ' + ARRAY + ', "more": 1}',
            [3, 6],
        ),
        ('{"examples": ' + ARRAY + ', "n": 12.5, "tags": ["x"], "none": []}\n', [2, 5]),
        (" \n" + ARRAY + "\n ", [3, 6]),
    ],
)
@pytest.mark.parametrize("block", [1, 3, 1 << 20])
def test_json_of_every_shape_with_the_lines_of_its_records(
    block: int, text: str, lines: list[int], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("a.json", text)
    monkeypatch.setattr(streams, "BLOCK", block if text is not LINES else 1 << 20)
    monkeypatch.setattr(streams, "_MAGIC", {})
    if block < 1 << 20 and text is not LINES:
        from lora_s2s.readers.json_rows import read_json
        from lora_s2s.readers.rows import Parsing

        monkeypatch.setattr("lora_s2s.readers.json_rows.head_of", lambda path: path.read_text())
        items = list(read_json(Path(path), Parsing()))
    else:
        items = rows(path)
    assert [item.fields for item in items if isinstance(item, Row)] == OBJECTS
    assert [item.line for item in items] == lines


@pytest.mark.parametrize(
    "document",
    [
        {"Definition": ["Say it."], "Instances": [{"input": "a", "output": ["b"]}]},
        {
            "id": "7",
            "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
        },
        {"messages": [{"role": "user", "content": "a"}]},
        {"input": "a", "output": "b"},
        {},
        {"one": [{"a": "b"}], "two": [{"a": "b"}]},
    ],
)
def test_a_json_object_that_is_one_record(document: dict[str, Any], write: Write) -> None:
    assert found(write("a.json", json.dumps(document, indent=1))) == [document]
    assert found(write("a.json", json.dumps(document))) == [document]


def test_json_under_the_other_name(write: Write) -> None:
    assert found(write("a.jsonl", ARRAY)) == found(
        write("b.jsonl", '[{"source": "a", "target": "1"}, {"source": "b", "target": "2"}]')
    )
    assert found(write("a.jsonl", ARRAY)) == OBJECTS
    assert found(write("a.json", LINES)) == OBJECTS
    assert found(write("a.json", '{"s": "' + "x" * 99_999 + '"}\n{"s": "y"}\n'))[1] == {"s": "y"}
    assert found(write("a.jsonl", '["a"]\n["b"]\n')) == ["not a JSON object", "not a JSON object"]
    assert found(write("a.jsonl", '{"data": [{"a": 1}]}\n')) == [{"data": [{"a": "1"}]}]


BAD_JSON = [
    ('{"s": "a", "s": "b"}', "duplicate key: 's'"),
    ('{"x": [{"s": 1, "t": 2, "s": 3}]}', "duplicate key: 's'"),
    ('"text"', "not a JSON object"),
    ("[1]", "not a JSON object"),
    ("null", "not a JSON object"),
]
BROKEN_JSON = [
    ('{"s": }', "not valid JSON: Expecting value at column 9"),
    ("{'s': 1}", "not valid JSON: Expecting property name"),
    ('{"s": "a"} x', "not valid JSON: Extra data at column 13"),
    ('{"s": "a\tb"}', "not valid JSON: Invalid control"),
    ("[" * 100_000, "nested too deeply"),
    ('{"s": ' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_JSON + BROKEN_JSON)
def test_a_bad_json_line_is_rejected(bad: str, reason: str, write: Write) -> None:
    items = rows(write("a.jsonl", '{"s": "a"}\n  ' + bad + '\r\n{"s": "b"}\n'))
    assert [item.line for item in items] == [1, 2, 3]
    assert isinstance(items[1], Rejected)
    assert items[1].reason.startswith(reason)


@pytest.mark.parametrize(("bad", "reason"), BAD_JSON)
def test_a_bad_element_of_an_array_is_rejected(bad: str, reason: str, write: Write) -> None:
    items = rows(write("a.json", '[{"s": "a"},\n' + bad + ',\n{"s": "b"}]'))
    assert [item.line for item in items] == [1, 2, 3]
    assert isinstance(items[1], Rejected)
    assert items[1].reason == reason


BROKEN_ARRAYS = [
    ('[{"s": "a"},\n {"s": }]', "not valid JSON: Expecting value", "2:8"),
    ('[{"s": "a"},\n {"s": "b"', "not valid JSON: Expecting ',' delimiter", "2:11"),
    ('[{"s": "a"}\n {"s": "b"}]', "expected ',' or ']'", "2:2"),
    ('[{"s": "a"},\n]', "not valid JSON: Expecting value", "2:1"),
    ('[{"s": "a"}]\n\nmore', "expected the end", "3:1"),
    ('[{"s": "a"},\n' + "[" * 100_000, "a value is nested too deeply", "2:1"),
    ('{"data": [{"s": "a"},\n  oops]}', "not valid JSON: Expecting value", "2:3"),
    ('{"a": 1,\n 2: 3}', "expected a key in double quotes", "2:2"),
    ('{"a"\n 2: 3}', "expected ':'", "2:2"),
    ('{"a": 1', "expected ',' or '}'", "1:8"),
]


@pytest.mark.parametrize(("text", "message", "where"), BROKEN_ARRAYS)
def test_a_broken_document_says_where(text: str, message: str, where: str, write: Write) -> None:
    path = write("a.json", text)
    error = refusal(path)
    assert error.message == message
    assert error.where == f"{path}:{where}"
    assert "write one object per line" in str(error.hint)


def test_numbers_stay_as_written_however_large(write: Write) -> None:
    huge = "9" * 100_000
    text = '{"a": 1e5, "b": 0.10, "c": -0, "d": NaN, "e": true, "f": null, "g": ' + huge + "}"
    assert found(write("a.jsonl", text)) == [
        {"a": "1e5", "b": "0.10", "c": "-0", "d": "NaN", "e": True, "f": None, "g": huge}
    ]


def test_an_array_is_read_in_the_memory_of_an_element(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    with path.open("w") as stream:
        stream.write('{"name": "x", "rows": [')
        stream.writelines('{"s": "' + "x" * 1000 + '"},' for _ in range(20_000))
        stream.write('{"s": "last"}]}')
    tracemalloc.start()
    (last,) = deque(Origin("a", path).rows(), maxlen=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(last, Row)
    assert last.fields == {"s": "last"}
    assert peak < 12 << 20
    monkeypatch.setattr(streams, "LONGEST_RECORD", 1 << 20)
    path.write_text('[{"s": "a"},\n{"s": "' + "x" * (5 << 20) + '"}]')
    error = refusal(path)
    assert (error.message, error.where) == ("a value longer than 32 MiB", f"{path}:2:1")


def test_parquet_by_its_magic_under_every_name(tmp_path: Path) -> None:
    table = pa.table({"source": ["a", "b"], "target": [datetime.date(2024, 1, 2), None]})
    expected = [
        {"source": "a", "target": datetime.date(2024, 1, 2)},
        {"source": "b", "target": None},
    ]
    for name in ("a.parquet", "a.csv", "a.json", "a.bin"):
        pq.write_table(table, tmp_path / name)
        assert found(tmp_path / name) == expected
        (tmp_path / "z.parquet.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        assert found(tmp_path / "z.parquet.gz") == expected
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.csv").read_bytes()[:-30])
    assert "cannot be read" in refusal(tmp_path / "a.parquet").message
    (tmp_path / "a.parquet").write_text("source,target\nc,d\n")
    assert found(tmp_path / "a.parquet") == [{"source": "c", "target": "d"}]


TMX = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en"/><body>
<tu><tuv xml:lang="en"><seg>Fish &amp; <hi>chips</hi></seg></tuv>
<tuv xml:lang="de"><seg>Füsch<bpt i="1">&lt;b></bpt></seg></tuv></tu>
<tu>
 <note>skip</note><tuv lang="en"><seg>two</seg></tuv><tuv lang="fr"><seg>deux</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>a</seg></tuv><tuv xml:lang="en"><seg>b</seg></tuv></tu>
</body></tmx>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
@pytest.mark.parametrize("name", ["a.tmx", "a.xml", "a"])
def test_tmx(name: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(TMX.format(encoding=encoding).encode(encoding))
    assert [
        (item.line, item.fields if isinstance(item, Row) else item.reason)
        for item in rows(tmp_path / name)
    ] == [
        (4, {"en": "Fish & chips", "de": "Füsch"}),
        (6, {"en": "two", "fr": "deux"}),
        (8, "two texts in one language: 'en'"),
    ]


def test_tmx_that_is_refused(write: Write) -> None:
    bomb = '<!DOCTYPE tmx [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><tmx>&b;</tmx>'
    error = refusal(write("a.tmx", bomb))
    assert (error.message, str(error.where)[-2:]) == ("the file defines the XML entity 'a'", ":1")
    outside = (
        '<!DOCTYPE tmx SYSTEM "x.dtd">\n<tmx><tu><tuv '
        'xml:lang="en"><seg>caf&eacute;</seg></tuv></tu></tmx>'
    )
    assert refusal(write("a.tmx", outside)).message == "the file defines the XML entity 'eacute'"
    assert (
        "XML of the type 'rss', expected 'tmx'"
        in refusal(write("a.xml", "<?xml version='1.0'?><rss/>")).message
    )
    error = refusal(write("a.tmx", "<tmx>\n<tu></tmx>"))
    assert (error.message, str(error.where)[-4:]) == ("not well-formed XML: mismatched tag", ":2:7")
    for encoding in ("utf-17", "big5", "hex"):
        error = refusal(write("a.tmx", f'<?xml version="1.0" encoding="{encoding}"?><tmx/>'))
        assert "a.tmx has an encoding that cannot be read" in error.message
    assert "no element found" in refusal(write("a.tmx", "<tmx><tu>")).message


def test_a_long_tmx_segment_is_rejected(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LONGEST_RECORD", 1000)
    unit = '<tu><tuv xml:lang="en"><seg>{}</seg></tuv></tu>'
    path = write(
        "a.tmx",
        "<tmx>" + unit.format("a") + unit.format("x<hi/>" * 1001) + unit.format("b") + "</tmx>",
    )
    assert found(path) == [{"en": "a"}, "longer than 32 MiB", {"en": "b"}]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.dat", "a.tsv.gz"])
def test_what_is_saved_in_the_place_of_data(name: str, tmp_path: Path) -> None:
    for content, message, hint in (
        (
            b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
            "is a web page, not data",
            "download the file",
        ),
        (b"<html lang=en>", "is a web page, not data", "download the file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a git-lfs pointer, not the data",
            "git lfs pull",
        ),
        (
            b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9,
            "is a binary file, not text",
            "files end in",
        ),
        (b"\0" * 9999, "is a binary file, not text", "files end in"),
    ):
        (tmp_path / name).write_bytes(content)
        error = refusal(tmp_path / name)
        assert message in error.message
        assert hint in str(error.hint)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source\ttarget\na\tb\n", [{"source": "a", "target": "b"}]),
        (LINES, OBJECTS),
        (ARRAY, OBJECTS),
        ("s;t\na;b\n", [{"s": "a", "t": "b"}]),
        (f"{'s' * 9000};t\na;b\n", [{"s" * 9000: "a", "t": "b"}]),
    ],
)
def test_unknown_endings_are_read_by_their_content(
    text: str, expected: list[Any], write: Write
) -> None:
    for name in ("a.txt", "b.dat", "c"):
        assert found(write(name, text)) == expected
    for prose in ("just text\nwith, a comma\n", "a,b\n", ""):
        error = refusal(write("notes.txt", prose))
        assert error.message.startswith("no reader for notes.txt; files end in .csv, .tsv")


def test_empty_files_hold_no_rows(write: Write) -> None:
    for name, text in (
        ("a.csv", ""),
        ("b.tsv", "s\tt\n"),
        ("c.json", "[]"),
        ("d.jsonl", "\n"),
        ("e.json", " "),
        ("f.json", '{"data": []}'),
    ):
        assert rows(write(name, text)) == []


texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=12)
tables = st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


@pytest.mark.slow
@many
@given(
    table=tables,
    delimiter=st.sampled_from(",;\t|"),
    # Between bare line feeds csv leaves a carriage return unquoted unless all is.
    style=st.sampled_from(
        [("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]
    ),
)
def test_csv_comes_back_as_written(
    folder: Path, table: list[tuple[str, ...]], delimiter: str, style: tuple[str, Any]
) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=style[0], quoting=style[1])
    writer.writerows([("source", "target", "three"), *table])
    (folder / "a.csv").write_bytes(stream.getvalue().encode())
    assert found(folder / "a.csv") == [
        dict(zip(("source", "target", "three"), row, strict=True)) for row in table
    ]


@pytest.mark.slow
@many
@given(table=tables, plain=st.booleans(), indent=st.sampled_from([None, 1]))
def test_json_comes_back_as_written(
    folder: Path, table: list[tuple[str, ...]], plain: bool, indent: int | None
) -> None:
    objects = [{"one": one, "two": {"x": [two, None]}, three: True} for one, two, three in table]
    lines = "\n".join(json.dumps(row, ensure_ascii=plain) for row in objects)
    (folder / "a.jsonl").write_text(lines, encoding="utf-8", newline="")
    assert found(folder / "a.jsonl") == objects
    (folder / "a.json").write_text(
        json.dumps(objects, ensure_ascii=plain, indent=indent), encoding="utf-8", newline=""
    )
    assert found(folder / "a.json") == objects


SEEDS = (
    b"source,target\na,b\n",
    b'{"source": "a"}\n',
    b'[{"s": 1}, {"s": 2}]',
    b'{"data": [{"s": 1}]}',
    b"PAR1",
    b"PK\x03\x04",
    b"<tmx><tu><seg>a</seg></tu></tmx>",
    b"\xff\xfea\0,\0b\0",
    gzip.compress(b"a,b\nc,d\n"),
    bytes(pa.compress(b"a,b\nc,d\n", codec="zstd", asbytes=True)),
)


@pytest.mark.slow
@many
@given(
    start=st.sampled_from((b"", *SEEDS)),
    junk=st.binary(max_size=60),
    at=st.integers(0, 60),
    name=st.sampled_from(["", ".txt", *READERS]),
)
def test_any_bytes_give_rows_rejections_or_one_error(
    folder: Path, start: bytes, junk: bytes, at: int, name: str
) -> None:
    path = folder / f"junk{name}"
    path.write_bytes(start[:at] + junk + start[at:])
    for parallel in (False, True):
        with contextlib.suppress(DataError):
            items = list(Origin(str(path), path, parallel=parallel).rows())
            assert all(isinstance(item, Row | Rejected) for item in items)
