"""Which reader a file gets: by its ending, or by its content where that differs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from lora_s2s.errors import DataError
from lora_s2s.readers import parquet
from lora_s2s.readers.json_rows import read_json, read_jsonl
from lora_s2s.readers.parquet import read_parquet
from lora_s2s.readers.rows import Items, Parsing
from lora_s2s.readers.streams import COMPRESSED, head_of
from lora_s2s.readers.tables import agreed_delimiter, read_csv, read_tsv
from lora_s2s.readers.translations import read_tmx, two_columns

Reader = Callable[[Path, Parsing], Items]
SPREADSHEETS = (".xlsx", ".xls", ".ods")
READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
    ".tmx": read_tmx,
}
# Binary formats by their first bytes (those beyond ASCII as lone surrogates), each with its hint.
_BINARY = {
    "BZh91AY&SY": ("compressed by bzip2", "unpack it (bunzip2), or compress it with gzip"),
    "\udcfd7zXZ": ("compressed by xz", "unpack it (unxz), or compress it with gzip"),
    "7z\udcbc\udcaf": ("a 7z archive", "unpack it and name the files"),
    "ARROW1": (
        "Arrow or Feather",
        "write it as Parquet: pyarrow.parquet.write_table(pyarrow.feather.read_table(…), …)",
    ),
    "SQLite format 3": ("an SQLite database", "export the table as CSV"),
    "%PDF-": ("a PDF", "export its text"),
    "\udcd0\udccf\x11\udce0": ("an old Office file", "save it as CSV (UTF-8)"),
}
_INVALID = re.compile("[\udc80-\udcff]")
_NO_CONTROLS = dict.fromkeys({*range(32)} - {*b"\t\n\f\r\x1b"})


def ending(path: Path) -> str:
    """Returns the ending that names the format, below that of a compression: ``.csv`` of
    ``a.CSV.gz``.
    """
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def endings() -> str:
    """Returns the known endings in words."""
    return f"{', '.join(READERS)}, each also with {', '.join(COMPRESSED)}"


def reader_of(path: Path, *, parallel: bool = False) -> Reader:
    """Returns the reader for a file; content wins over the name.

    Args:
        path: the file.
        parallel: a file of lines, or under ``.tsv``, is two columns without a header.

    Raises:
        DataError: a web page, a git-lfs pointer, a binary file, or neither ending nor content is
            known.
    """
    text = head_of(path)
    if text.startswith(parquet.MAGIC):
        return read_parquet
    refuse_what_is_no_data(path, text)
    named = READERS.get(ending(path))
    if parallel and named in (None, read_tsv):
        return two_columns
    reader = _reader_of_content(text) if named in (None, read_parquet) else named
    if reader is None and named is None:
        hint = "two files of parallel lines: name both, [train.en, train.de]"
        raise DataError(
            f"no reader for {path.name}; files end in {endings()}", hint=hint, where=str(path)
        )
    if reader is None:
        raise DataError(f"{path} cannot be read: neither Parquet nor another known format")
    return reader


def is_lines(path: Path, *, parallel: bool = False) -> bool:
    """Whether a file is one text per line: neither its name nor its content is of another format.

    Args:
        parallel: lines are what is expected, under ``.tsv`` too where it has no tab.

    Raises:
        DataError: it is not text.
    """
    text, named = head_of(path), READERS.get(ending(path))
    if text.startswith(parquet.MAGIC):
        return False
    refuse_what_is_no_data(path, text)
    if parallel and named in (None, read_tsv):
        return "\t" not in text.partition("\n")[0]
    return named is None and _reader_of_content(text) is None


def refuse_what_is_no_data(path: Path, head: str) -> None:
    """Raises DataError where a file's first text is a web page's, a git-lfs pointer's, or no text
    at all.
    """
    start = head[:1024].lstrip().lower()
    if start.startswith(("<!doctype html", "<html")):
        raise DataError(f"{path} is a web page, not data", hint="download the file itself")
    if start.startswith("version https://git-lfs"):
        raise DataError(f"{path} is a git-lfs pointer, not the data", hint="git lfs pull")
    entries = (entry for magic, entry in _BINARY.items() if head.startswith(magic))
    kind, hint = next(entries, ("", ""))
    if kind:
        raise DataError(f"{path} is {kind}, which is not supported", hint=hint)
    controls = len(head) - len(head.translate(_NO_CONTROLS))
    broken = _INVALID.search(head, 0, len(head) - 3)  # the last character may be cut
    if 10 * head.count("\0") > 3 * len(head) or (broken and 100 * controls > 3 * len(head)):
        raise DataError(f"{path} is a binary file, not text", hint=f"files end in {endings()}")


def _reader_of_content(text: str) -> Reader | None:
    start = text.lstrip()
    if start.startswith(("{", "[")):
        return read_json
    if start.startswith(("<?xml", "<tmx", "<!DOCTYPE tmx")):
        return read_tmx
    return read_csv if agreed_delimiter(text)[1] else None
