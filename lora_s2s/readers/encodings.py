"""Which encoding a file that is not UTF-8 may be in: a guess from its bytes, with what they read in
it.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_s2s.errors import DataError, with_settings
from lora_s2s.readers.streams import UTF8, BadLine, text_lines
from lora_s2s.remote import fetched_file, is_url

_HIGH = re.compile(rb"[\x80-\xff]+")
_IN_A_WORD = re.compile(rb"[A-Za-z][\x80-\xff]{2}[A-Za-z]")  # as in Größe
_ALONE = re.compile(rb"(?<=[A-Za-z])[\x80-\xff](?=[A-Za-z])")
_WRONG = re.compile("[\udc80-\udcff]")
_MULTIBYTE = (
    ("shift_jis", ("HIRAGANA", "KATAKANA")),
    ("euc_kr", ("HANGUL",)),
    ("gb18030", ("CJK",)),
)
_WESTERN = ("cp1252", "mac_roman", "cp850")  # of Windows, of Macs, of DOS
# Inside words of languages that cp1252 writes, and beside them; a text of another code page has
# others.
_USUAL = "äöüßåæøœéèêëàâçîïôùñáíóúã’"
_BESIDE = f"{_USUAL.upper()}‘“”„«»–—…•¿¡°§€£©®²½"
_MOST, _FEW = 0.95, 0.05
_AROUND = 24
_LONGEST = 4096
_LINES, _SAMPLE = 100_000, 50


@dataclass(frozen=True)
class Guess:
    """The likely encoding of a file that is not UTF-8.

    Attributes:
        evidence: what the first wrong byte reads in it.
        hint: this, and what to do.
        sure: the text is as usual in this encoding, and no lines are UTF-8.
    """

    encoding: str
    evidence: str
    hint: str
    sure: bool


class WrongEncoding(DataError):
    """Lines that are not in the encoding in which a file is read.

    Attributes:
        guess: what it looks like.
    """

    def __init__(self, file: str, reason: str, what: str, where: str) -> None:
        name = reason.partition(":")[0].removeprefix("invalid ")
        self.guess = guess_of(file)
        super().__init__(f"{file} is not {name}: {what}", hint=self.guess.hint, where=where)


def guess_of(file: str, named: str = "") -> Guess:
    """Returns the likely encoding of a file by the first lines that are not UTF-8: Excel's if there
    are none.

    Args:
        named: the encoding, if it is known.
    """
    path = fetched_file(file) if is_url(file) else Path(file)
    wrong, others = list[tuple[int, str, bytes]](), 0
    lines = itertools.islice(text_lines(path), _LINES) if path.is_file() else ()
    for number, line in enumerate(lines, start=1):
        found = _WRONG.search(line) if isinstance(line, BadLine) else None
        others += found is None and not line.isascii()
        if found and len(wrong) < _SAMPLE:
            at = found.start()
            after = line[at : at + _LONGEST].encode("utf-8", "surrogateescape")
            wrong.append((number, line[max(0, at - _AROUND) : at], after))
    if not wrong:
        excel = with_settings("data.encoding=cp1252")
        return Guess("cp1252", "", f"name its encoding, such as that of Excel: {excel}", False)
    encoding, sure = guess_encoding(b"\n".join(b.encode() + after for _, b, after in wrong))
    encoding = named or encoding
    number, before, after = wrong[0]
    word = _word(before, after[:_AROUND].decode(encoding, "replace"))
    evidence = f"byte 0x{after[0]:02X} in line {number} reads '{word}' in {encoding}"
    cure = with_settings(f"data.encoding={encoding}")
    if others > _FEW * len(wrong):
        cure, sure = "other lines are UTF-8, so save the file in one encoding", False
    return Guess(encoding, evidence, f"{evidence}: {cure}", sure)


def checked_lines(path: Path, encoding: str | None = None) -> Iterator[str]:
    """Yields a file's lines.

    Args:
        encoding: that of the recipe's data, if the file is to be read like these; else it is UTF-8.

    Raises:
        DataError: a line cannot be used.
    """
    for number, line in enumerate(text_lines(path, encoding or UTF8), start=1):
        if isinstance(line, BadLine):
            hint = None
            if line.reason.startswith("invalid"):
                hint = guess_of(str(path)).hint if encoding else "save it as UTF-8"
            raise DataError(line.reason, hint=hint, where=f"{path}:{number}")
        yield line.removesuffix("\r")


def _word(before: str, after: str) -> str:
    """Returns the word that one text ends with and the other goes on with."""
    first, rest = re.search(r"\w*$", before), re.match(r"\W?\w*", after)
    return (first[0] if first else "") + (rest[0] if rest else "")


def guess_encoding(text: bytes) -> tuple[str, bool]:
    """Returns the likely encoding of a text that is not UTF-8, by the lengths of its runs of bytes
    beyond ASCII and the letters that they give; also whether these are as usual in it.
    """
    runs = _HIGH.findall(text)
    letters = b"".join(runs)
    # Letters with accents are single, or two of them are inside a word.
    if runs and len(letters) >= 2 * len(runs) + bool(_IN_A_WORD.search(text)):
        for encoding, scripts in _MULTIBYTE:
            decoded = _decoded(text, encoding)
            marked = [char for char in decoded if ord(char) > 127]
            in_script = sum(unicodedata.name(char, "").startswith(scripts) for char in marked)
            # Japanese mixes two scripts with Chinese characters.
            share = 0.3 if encoding == "shift_jis" else 0.8
            if marked and in_script > share * len(marked) and _plausible(encoding, letters):
                return encoding, True
        lower = sum(byte >= 0xE0 for byte in letters)
        if len(letters) > 2.5 * len(runs) and 2 * lower > len(letters):
            return "cp1251", False
    alone = b"".join(_ALONE.findall(text))
    best = max(_WESTERN, key=lambda encoding: _count(alone, encoding, _USUAL))
    return best, _count(letters, best, _USUAL + _BESIDE) >= _MOST * len(letters)


def _count(letters: bytes, encoding: str, usual: str) -> int:
    return sum(char in usual for char in letters.decode(encoding, "replace"))


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
