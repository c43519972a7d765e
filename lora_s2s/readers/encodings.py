"""Which encoding a line that is not UTF-8 may be in: a guess from its bytes, to be named, never
used for reading.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from lora_s2s.errors import DataError, quoted
from lora_s2s.readers.streams import BadLine, text_lines

_HIGH = re.compile(rb"[\x80-\xff]+")
_IN_A_WORD = re.compile(rb"[A-Za-z][\x80-\xff]{2}[A-Za-z]")  # as in Größe
_MULTIBYTE = (
    ("shift_jis", ("HIRAGANA", "KATAKANA")),
    ("euc_kr", ("HANGUL",)),
    ("gb18030", ("CJK",)),
)
_AROUND = 24
_LONGEST = 4096
_LINES = 100_000


def _first_wrong_bytes(path: Path) -> tuple[str, str] | None:
    """Returns the likely encoding of the first line that is not UTF-8, and what its first wrong
    byte reads there; None if there is none in the first lines.
    """
    for number, line in enumerate(itertools.islice(text_lines(path), _LINES), start=1):
        if isinstance(line, BadLine) and line:
            raw = line.encode("utf-8", "surrogateescape")
            found = re.search("[\udc80-\udcff]", line)
            if found is None:
                continue
            start = len(line[: found.start()].encode())
            encoding = guess_encoding(raw[max(0, start - _LONGEST) : start + _LONGEST])
            before = raw[max(0, start - _AROUND) : start].decode(encoding, "replace")
            after = raw[start : start + _AROUND].decode(encoding, "replace")
            word = _word(before, after)
            return (
                encoding,
                f"byte 0x{raw[start]:02X} in line {number} reads '{word}' in {encoding}",
            )
    return None


def conversion_hint(path: Path) -> str:
    """Returns what a file that is not UTF-8 probably is, and the command that converts it."""
    guess = _first_wrong_bytes(path) if path.is_file() else None
    if guess is None:
        return "convert the file to UTF-8: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
    name, new = (quoted(file) for file in (path, path.with_name(f"utf8-{path.name}")))
    convert = f"iconv -f {guess[0].upper()} -t UTF-8 {name} > {new}"
    return f"{guess[1]}: convert it ({convert}) or save it as UTF-8 (in a spreadsheet: CSV UTF-8)"


def checked_lines(path: Path) -> Iterator[str]:
    """Yields a file's lines.

    Raises:
        DataError: a line cannot be used.
    """
    for number, line in enumerate(text_lines(path), start=1):
        if isinstance(line, BadLine):
            hint = conversion_hint(path) if line.reason.startswith("invalid UTF-8") else None
            raise DataError(line.reason, hint=hint, where=f"{path}:{number}")
        yield line.removesuffix("\r")


def _word(before: str, after: str) -> str:
    """Returns the word that one text ends with and the other goes on with."""
    first, rest = re.search(r"\w*$", before), re.match(r"\W?\w*", after)
    return (first[0] if first else "") + (rest[0] if rest else "")


def guess_encoding(text: bytes) -> str:
    """Returns the likely encoding of a text that is not UTF-8, by the lengths of its runs of bytes
    beyond ASCII.
    """
    runs = _HIGH.findall(text)
    letters = b"".join(runs)
    # Letters with accents are single, or two of them are inside a word.
    if not runs or len(letters) < 2 * len(runs) + bool(_IN_A_WORD.search(text)):
        return "windows-1252"
    for encoding, scripts in _MULTIBYTE:
        decoded = _decoded(text, encoding)
        marked = [char for char in decoded if ord(char) > 127]
        in_script = sum(unicodedata.name(char, "").startswith(scripts) for char in marked)
        share = (
            0.3 if encoding == "shift_jis" else 0.8
        )  # Japanese mixes two scripts with Chinese characters
        if marked and in_script > share * len(marked) and _plausible(encoding, letters):
            return encoding
    lower = sum(byte >= 0xE0 for byte in letters)
    return (
        "windows-1251"
        if len(letters) > 2.5 * len(runs) and 2 * lower > len(letters)
        else "windows-1252"
    )


def _plausible(encoding: str, letters: bytes) -> bool:
    """False for Cyrillic in one byte, which decodes as rare Chinese or Korean characters too."""
    return encoding == "shift_jis" or sum(byte >= 0xE0 for byte in letters) < 0.6 * len(letters)


def _decoded(text: bytes, encoding: str) -> str:
    # The text may begin and end inside a character.
    for cut in (text, text[1:], text[:-1], text[1:-1]):
        try:
            return cut.decode(encoding)
        except UnicodeDecodeError:
            continue
    return ""
