"""Bytes on disk to lines of text: compression and encoding found by content, memory bounded
whatever a file holds.
"""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from lora_s2s import limits
from lora_s2s.errors import DataError

LONGEST_RECORD = limits.LONGEST_RECORD
TOO_LONG = f"longer than {limits.in_words(LONGEST_RECORD)}"
BLOCK = 1 << 20
COMPRESSED = (".gz", ".zst", ".zip")
_HEAD = 1 << 16
_OFFICE = ("xl/workbook.xml", "META-INF/manifest.xml")  # Excel's, LibreOffice's
_EXCERPT = 200
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
# All that the unpacking libraries raise; zipfile also stumbles over the names in a damaged folder.
_DAMAGE = (
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    LookupError,
    ValueError,
    RuntimeError,
)
_BOM = codecs.BOM_UTF8
UTF8 = "utf-8"


class BadLine(str):
    """A line that cannot be used, its invalid bytes as lone surrogates; empty if too long."""

    reason: str


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what a damaged or foreign file raises while it is read into one DataError."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(
            f"no such file: {path}", hint="check the path; it is relative to the current folder"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is damaged: {error.reason} in its text", hint="download it again"
        ) from error
    except (pa.ArrowException, OSError, OverflowError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", hint="check that it is complete and of this type"
        ) from error


def blocks(path: Path) -> Iterator[bytes]:
    """Yields a file's bytes in blocks of at most 1 MiB, unpacked where it is gzip, zstd or a zip of
    one file.

    Raises:
        DataError: it is damaged, expands without end, or is a zip of several files or with a
            password.
    """
    with path.open("rb") as raw:
        magic, _ = raw.read(4), raw.seek(0)
        kind = next((kind for start, kind in _MAGIC.items() if magic.startswith(start)), "")
        size, expanded = path.stat().st_size, 0
        try:
            with _unpacked(raw, kind, path) as stream:
                while block := stream.read(BLOCK):
                    expanded += len(block)
                    if kind:
                        refuse_endless(path, expanded, size)
                    yield block
        except _DAMAGE as error:
            if not kind:
                raise
            raise DataError(
                f"{path} is a damaged {kind} file ({error})", hint="download or compress it again"
            ) from error


def refuse_endless(path: Path, expanded: int, size: int) -> None:
    """Raises DataError where a file of ``size`` bytes has given more than any real text."""
    if expanded > max(limits.MOST_EXPANDED, limits.MOST_FOLD * size):
        raise DataError(f"{path} expands without end: more than {expanded:,} bytes from {size:,}")


def refuse_columns(names: Sequence[str], where: str) -> None:
    """Raises DataError where a table has too many columns, or two of one name."""
    if len(names) > limits.MOST_COLUMNS:
        raise DataError(
            f"{len(names):,} columns, at most {limits.MOST_COLUMNS:,} are read",
            hint="keep the columns that make the source and the target",
            where=where,
        )
    first: dict[str, int] = {}
    for index, name in enumerate(names, start=1):
        if name and name in first:
            both = f"columns {first[name]} and {index}"
            message = f"a column named twice: '{name:.100}' ({both})"
            raise DataError(message, hint="rename one of them", where=where)
        first.setdefault(name, index)


def _unpacked(raw: IO[bytes], kind: str, path: Path) -> AbstractContextManager[Any]:
    if kind == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if kind == "zstd":
        return pa.CompressedInputStream(raw, "zstd")  # type: ignore[no-any-return]
    return raw if not kind else _only_member(zipfile.ZipFile(_SmallReads(raw)), path)


class _SmallReads(io.BufferedReader):
    """A file of which no more is read at once than a zip's directory may have: zipfile reads it
    all.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        super().__init__(raw.raw)  # type: ignore[attr-defined]

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads as a file does; raises ValueError where that is too much at once."""
        most = max(limits.LARGEST_ZIP_DIRECTORY, 2 * BLOCK)
        data = super().read(most + 1 if size is None or size < 0 else size if size <= most else 0)
        if len(data) > most or (size or 0) > most:
            raise ValueError("its directory is too large")
        return data


def _only_member(archive: zipfile.ZipFile, path: Path) -> IO[bytes]:
    # A zip made on a Mac holds the file's icon data beside it.
    members = [
        item
        for item in archive.infolist()
        if not (item.is_dir() or item.filename.startswith("__MACOSX/"))
    ]
    if any(item.filename in _OFFICE for item in members):
        raise DataError(f"{path} is a spreadsheet, expected text", hint="save it as CSV (UTF-8)")
    if len(members) != 1:
        hint = "unpack it and name the files"
        raise DataError(f"{path} is a zip of {len(members)} files, expected one", hint=hint)
    if members[0].flag_bits & 1:
        raise DataError(f"{path} is a zip with a password", hint="unpack it first")
    if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{path} is a zip with an unusual compression",
            hint="unpack it, or compress it with gzip",
        )
    return archive.open(members[0])


def utf8(path: Path, encoding: str = UTF8) -> Iterator[bytes]:
    """Yields a text file's blocks in UTF-8; a byte-order mark stays.

    Args:
        encoding: of a file that is neither UTF-16 nor, beyond ASCII, UTF-8. What it cannot decode
            comes as invalid UTF-8.
    """
    content = blocks(path)
    first = next(content, b"")
    utf16 = _utf16(first[:_HEAD])
    chained: Iterator[bytes] = itertools.chain([first], content)
    if utf16 or not (encoding == UTF8 or _is_utf8(path)):
        # A lone surrogate passes, to be rejected with its line.
        errors = "surrogatepass" if utf16 else "surrogateescape"
        decoded = codecs.iterdecode(chained, utf16 or encoding, errors)
        chained = (text.encode(UTF8, "surrogatepass") for text in decoded)
    yield from chained


def _is_utf8(path: Path) -> bool:
    """Whether a file is valid UTF-8 with characters beyond ASCII."""
    try:
        return sum(not text.isascii() for text in codecs.iterdecode(blocks(path), UTF8)) > 0
    except UnicodeDecodeError:
        return False


def _utf16(head: bytes) -> str | None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16-le" if head.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    # Without a mark: of Western text every other byte is zero, at the start too (of Parquet's
    # numbers not there).
    even, odd = head[::2].count(0), head[1::2].count(0)
    seen = 0 in head[:4] and 20 * min(even, odd) < max(even, odd) and 6 * max(even, odd) > len(head)
    return ("utf-16-le" if odd > even else "utf-16-be") if seen else None


def excerpt(text: str) -> str:
    """Returns the start of a text for a report, bytes that are no text replaced."""
    return text[:_EXCERPT].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def head_of(path: Path) -> str:
    """Returns the start of a file's content as text without a byte-order mark, bytes that are not
    UTF-8 as lone surrogates.
    """
    head = next(utf8(path), b"")[:_HEAD]
    return head.decode(UTF8, "surrogateescape").removeprefix("\ufeff")


def text_lines(path: Path, encoding: str = UTF8) -> Iterator[str]:
    """Yields a file's lines without their line feed (a carriage return before it stays).

    A carriage return ends lines only where no line feed does. A line that is too long or not UTF-8
    comes as a BadLine.

    Raises:
        DataError: see :func:`blocks`.
    """
    offset = 0
    for line in _lines(utf8(path, encoding)):
        if isinstance(line, int):
            yield _bad("", TOO_LONG)
            offset += line + 1
            continue
        if not offset and line.startswith(_BOM):
            line, offset = line[len(_BOM) :], len(_BOM)
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            where = invalid(encoding, offset + error.start)
            yield _bad(line.decode("utf-8", "surrogateescape"), where)
        offset += len(line) + 1


def invalid(encoding: str, byte: int) -> str:
    """Says that a text is not in its encoding."""
    return f"invalid {encoding.upper()}: byte {byte} of the file"


def _bad(text: str, reason: str) -> BadLine:
    line = BadLine(text)
    line.reason = reason
    return line


def _lines(content: Iterator[bytes]) -> Iterator[bytes | int]:
    """Yields each line; of one that is too long only its length."""
    end, held, length = b"", list[bytes](), 0
    for block in content:
        end = end or (b"\r" if b"\r" in block and b"\n" not in block else b"\n")
        first, *lines = block.split(end)
        length += len(first)
        held = [*held, first] if length <= LONGEST_RECORD else []
        if lines:
            yield b"".join(held) if length <= LONGEST_RECORD else length
            last = lines.pop()
            yield from lines
            held, length = [last], len(last)
    if length:
        yield b"".join(held) if length <= LONGEST_RECORD else length
