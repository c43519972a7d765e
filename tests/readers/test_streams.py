"""Bytes to lines: every compression and encoding a user's file comes in, and the ways in which one
is damaged.
"""

from __future__ import annotations

import gzip
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from lora_s2s import limits
from lora_s2s.errors import DataError
from lora_s2s.readers import streams
from lora_s2s.readers.origins import find_origins
from lora_s2s.readers.rows import Parsing, Rejected, Row
from lora_s2s.readers.streams import BadLine, reading, text_lines

TEXT = "source,target\r\nnaïve — 猫,ok\r\nb,c\r\n"
FIELDS = [{"source": "naïve — 猫", "target": "ok"}, {"source": "b", "target": "c"}]


def zipped(content: bytes, path: Path, names: tuple[str, ...] = ("a.csv",)) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return path.read_bytes()


def packed(kind: str, content: bytes, folder: Path) -> bytes:
    if kind == "gzip":
        return gzip.compress(content)
    if kind == "zstd":
        return bytes(pa.compress(content, codec="zstd", asbytes=True))
    return zipped(content, folder / "packed") if kind == "zip" else content


def rows(path: Path, encoding: str = "utf-8") -> list[Row | Rejected]:
    (origin,) = find_origins(str(path))
    return list(origin.rows(Parsing(encoding=encoding)))


def fields(path: Path) -> list[object]:
    return [item.fields if isinstance(item, Row) else item.reason for item in rows(path)]


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.csv.zst", "a.csv.zip", "a.CSV.ZST", "a.dat", "a"]
)
@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd", "zip"])
def test_compression_is_found_by_content_whatever_the_name(
    kind: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(packed(kind, TEXT.encode(), tmp_path))
    assert fields(tmp_path / name) == FIELDS


ENCODED = {
    "utf-8": TEXT.encode(),
    "utf-8 with a mark": TEXT.encode("utf-8-sig"),
    "utf-16 le": b"\xff\xfe" + TEXT.encode("utf-16-le"),
    "utf-16 be": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "utf-16 le, no mark": TEXT.encode("utf-16-le"),
    "utf-16 be, no mark": TEXT.encode("utf-16-be"),
    "line feeds": TEXT.replace("\r", "").encode(),
    "carriage returns": TEXT.replace("\n", "").encode(),
}


@pytest.mark.parametrize("encoded", list(ENCODED.values()), ids=list(ENCODED))
def test_encodings_and_line_ends(encoded: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(encoded)
    assert fields(path) == FIELDS
    lines = (
        b'{"a": "x"}\n\n{"a": "y"}'
        if b"\0" not in encoded
        else '{"a": "x"}\n\n{"a": "y"}'.encode("utf-16")
    )
    path.with_suffix(".jsonl").write_bytes(lines)
    assert [item.line for item in rows(path.with_suffix(".jsonl"))] == [1, 3]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("kind", ["plain", "gzip"])
def test_a_row_with_invalid_utf8_is_rejected_at_its_byte_and_the_rest_read(
    kind: str, mark: bytes, tmp_path: Path
) -> None:
    for name, content, good in (
        (
            "a.csv",
            b'source,target\na,b\n"two\nlin\xe9s",c\nd,e\n',
            [{"source": "a", "target": "b"}, {"source": "d", "target": "e"}],
        ),
        ("a.jsonl", b'{"s": "a"}\n{"s": "\xc3\xa9\xe9"}\n{"s": "b"}\n', [{"s": "a"}, {"s": "b"}]),
        ("a.json", b'[{"s": "\xc3\xa9"},\n{"s": "\xe9"},\n{"s": "b"}]', [{"s": "é"}, {"s": "b"}]),
    ):
        content = mark + content
        (tmp_path / name).write_bytes(packed(kind, content, tmp_path))
        found = fields(tmp_path / name)
        at = content.index(b"\xe9", content.index(b"\xe9") if name != "a.jsonl" else 0)
        assert found == [good[0], f"invalid UTF-8: byte {at} of the file", good[1]]
        assert content[at] == 0xE9
        (bad,) = (item for item in rows(tmp_path / name) if isinstance(item, Rejected))
        bad.text.encode("utf-8")
        assert bad.kind == "invalid UTF-8"


@pytest.mark.parametrize("kind", ["plain", "gzip"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "source,target\nGröße,für\n"),
        ("a.tsv", "source\ttarget\nGröße\tfür\n"),
        ("a.jsonl", '{"source": "Größe", "target": "für"}\n'),
        ("a.json", '[{"source": "Größe", "target": "für"}]'),
        ("b.json", '{"data": [{"source": "Größe", "target": "für"}]}'),
        ("c.json", '{"source": ["Größe"], "target": ["für"]}'),
    ],
)
def test_a_named_encoding_is_that_of_files_that_are_not_utf8(
    kind: str, name: str, content: str, tmp_path: Path
) -> None:
    for encoding in ("cp1252", "utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / name).write_bytes(packed(kind, content.encode(encoding), tmp_path))
        (row,) = rows(tmp_path / name, "cp1252")
        assert isinstance(row, Row)
        assert row.fields == {"source": "Größe", "target": "für"}
    undefined = content.encode("cp1252").replace(b"\xf6", b"\x81")
    (tmp_path / name).write_bytes(packed(kind, undefined, tmp_path))
    if name != "c.json":
        (bad,) = rows(tmp_path / name, "cp1252")
        assert isinstance(bad, Rejected)
        assert bad.kind == "invalid CP1252"


def test_parallel_lines_in_a_named_encoding(tmp_path: Path) -> None:
    for name, text in (("a.de", "Größe\n"), ("a.fr", "où\n")):
        (tmp_path / name).write_bytes(text.encode("cp1252"))
    (row,) = rows(tmp_path, "cp1252")
    assert isinstance(row, Row)
    assert list(row.fields.values()) == ["Größe", "où"]


def test_a_utf16_file_cut_inside_a_character(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(TEXT.encode("utf-16")[:-1])
    with pytest.raises(DataError, match="is damaged: truncated data in its text"):
        rows(tmp_path / "a.csv")


@pytest.mark.parametrize("kind", ["gzip", "zstd", "zip"])
def test_a_damaged_compressed_file_is_named(kind: str, tmp_path: Path) -> None:
    content = b"source,target\n" + b"".join(
        b"%d,%d\n" % (number, number**3) for number in range(29_999)
    )
    whole = packed(kind, content, tmp_path)
    changed = whole[: len(whole) // 2] + b"damage" + whole[len(whole) // 2 + 6 :]
    # A zstd file need not hold a checksum.
    for damaged in (whole[:-100], whole[:20], *([changed] if kind != "zstd" else [])):
        (tmp_path / "a.csv").write_bytes(damaged)
        with pytest.raises(DataError, match=f"is a damaged {kind} file") as caught:
            rows(tmp_path / "a.csv")
        assert caught.value.hint == "download or compress it again"


def test_zips_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.zip"
    zipped(TEXT.encode(), path, ("a.csv", "__MACOSX/._a.csv", "../b/"))
    assert fields(path) == FIELDS
    zipped(TEXT.encode(), path, ("a.csv", "b.csv"))
    with pytest.raises(DataError, match="is a zip of 2 files, expected one") as caught:
        rows(path)
    assert caught.value.hint == "unpack it and name the files"
    for part in ("xl/workbook.xml", "META-INF/manifest.xml"):
        zipped(TEXT.encode(), path, ("styles.xml", part))
        with pytest.raises(DataError, match="is a spreadsheet, expected text") as caught:
            rows(path)
        assert "save it as CSV" in str(caught.value.hint)
    zipped(b"", path, ())
    with pytest.raises(DataError, match="is a zip of 0 files, expected one"):
        rows(path)
    locked = bytearray(zipped(TEXT.encode(), path))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    with pytest.raises(DataError, match="is a zip with a password"):
        rows(path)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "zip"])
def test_a_file_that_expands_without_end_is_stopped(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_EXPANDED", 4 << 20)
    monkeypatch.setattr(limits, "MOST_FOLD", 50)
    path = tmp_path / "a.csv"
    path.write_bytes(packed(kind, (b"a" * 1023 + b",b\n") * (8 << 10), tmp_path))
    with pytest.raises(DataError, match=r"expands without end: more than [0-9,]+ bytes from"):
        rows(path)
    # A file that is as large for its content may be of any size.
    monkeypatch.setattr(limits, "MOST_FOLD", 1 << 20)
    assert len(rows(path)) == (8 << 10) - 1


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt"])
def test_a_line_that_is_too_long_is_rejected_and_never_held(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LONGEST_RECORD", 1 << 20)
    path = tmp_path / name
    before, after = {
        "a.csv": ("source,target\na,b\n", "c,d\n"),
        "a.tsv": ("source\ttarget\na\tb\n", "c\td\n"),
        "a.jsonl": ('{"source": "a", "target": "b"}\n', '{"source": "c", "target": "d"}'),
        "a.txt": ("source,target\na,b\n", "c,d\n"),
    }[name]
    with path.open("w") as stream:
        stream.write(before)
        for _ in range(100):
            stream.write("x" * (1 << 20))
        stream.write("\n" + after)
    tracemalloc.start()
    found = fields(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [
        {"source": "a", "target": "b"},
        "longer than 32 MiB",
        {"source": "c", "target": "d"},
    ]
    assert peak < 16 << 20


def test_lines_across_blocks_and_without_a_last_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("é\r\n\r\nsecond\u2028still \rsecond\nlast".encode())
    for size in (1, 2, 7, 1 << 20):
        monkeypatch.setattr(streams, "BLOCK", size)
        # The first block decides what ends a line, so a carriage return must not stand alone in it.
        assert list(text_lines(path)) == ["é\r", "\r", "second\u2028still \rsecond", "last"]
    path.write_bytes(b"")
    assert list(text_lines(path)) == []
    path.write_bytes(b"a\xff")
    (line,) = text_lines(path)
    assert isinstance(line, BadLine)
    assert (line.reason, line) == ("invalid UTF-8: byte 1 of the file", "a\udcff")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"), reading(tmp_path / "absent"):
        list(text_lines(tmp_path / "absent"))
    with pytest.raises(DataError, match="cannot be read"), reading(tmp_path):
        list(text_lines(tmp_path))
