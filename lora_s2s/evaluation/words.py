"""Words of any script, for metrics that compare words: combining marks belong to their letter, and
scripts without spaces are split into characters.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

# Scripts that are written without spaces between words, by code point.
_UNSPACED = re.compile(
    "["
    # Han
    "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
    "\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # Kana, Bopomofo
    # Thai to Khmer
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff\u19e0-\u19ff"
    "]"
)
UNSPACED_NAMES = "Han,Kana,Thai,Lao,Khmer,Myanmar"
_IN_WORDS = ("L", "M", "N")  # Unicode's letters, marks and numbers


def beyond_ascii(texts: Iterable[str]) -> bool:
    """Whether a text has a letter, mark or number outside ASCII."""
    return any(not text.isascii() and any(_is_beyond(char) for char in text) for text in texts)


@lru_cache(maxsize=100_000)
def _is_beyond(char: str) -> bool:
    return not char.isascii() and unicodedata.category(char)[0] in _IN_WORDS


def canonical(text: str) -> str:
    """Composes characters (NFC), so that both encodings of é are equal."""
    return unicodedata.normalize("NFC", text)


def without_punctuation(text: str) -> str:
    """Removes punctuation of any script and ASCII symbols, also inside words."""
    return "".join(char for char in text if not _is_punctuation(char))


@lru_cache(maxsize=100_000)
def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char)[0] == "P"


def words(text: str) -> list[str]:
    """Splits a text into lower-case words: runs of letters, marks and numbers; single characters
    in scripts without spaces.

    >>> words("Größe: नमस्ते 你好")
    ['größe', 'नमस्ते', '你', '好']
    """
    normal = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    parts: list[str] = []
    last = ""  # the kind of the previous character
    for char in normal:
        kind = _kind(char)
        if (kind == "mark" and last) or kind == last == "word":
            parts[-1] += char
        elif kind in ("word", "mark", "single"):
            parts.append(char)
            last = "single" if kind == "single" else "word"
        elif kind == "break":
            last = ""
    return parts


@lru_cache(maxsize=100_000)
def _kind(char: str) -> str:
    """The kind of a character: part of a word, a mark, a word by itself, a break, or ignored."""
    category = unicodedata.category(char)
    if category[0] == "M":
        return "mark"
    if category[0] in _IN_WORDS:
        return "single" if _UNSPACED.match(char) else "word"
    # Zero-width joiners and direction marks are invisible and do not end a word.
    return "nothing" if category == "Cf" else "break"
