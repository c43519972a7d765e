"""What is in tokenised data, counted in bounded memory: lengths, copies, classes; and a guess at its language."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

SIDES = ("source", "target")
LIMITS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
_MOST_CLASSES_SHOWN = 20
_BARS = 24
# Of the rows, how many a suggested limit leaves whole: a cut source loses a part, a cut target its end.
_WHOLE = {"source": 0.99, "target": 0.999}

_COMMON_WORDS = {
    "en": "the of and to is that for with are you this have", "de": "der die und das ist nicht ein ich mit sie auf den",
    "fr": "le la les des est une que pour dans pas vous qui", "es": "el los las una que por para con del es como está",
    "it": "il di che per una sono della non con le gli è", "pt": "os um uma que não para com do da em é você",
    "nl": "de het een van en dat niet ik met op zijn voor", "sv": "och att det som en på är av för inte jag med",
    "pl": "nie się na jest że do to jak za od po są", "tr": "bir ve bu için ile çok ne de mi var daha olarak",
}  # fmt: skip
_LANGUAGE_OF_SCRIPT = {
    "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CJK": "zh", "CYRILLIC": "ru", "ARABIC": "ar", "GREEK": "el",
    "HEBREW": "he", "DEVANAGARI": "hi", "THAI": "th", "BENGALI": "bn", "TAMIL": "ta",
}  # fmt: skip


def guess_language(texts: Iterable[str]) -> str | None:
    """Returns the language whose script or commonest words stand out; a guess, by counting."""
    text = " ".join(texts)
    letters = Counter(char for char in text if char.isalpha())
    foreign = Counter[str]()
    for char, count in letters.items():
        foreign[unicodedata.name(char, "").split(" ")[0]] += count
    foreign = Counter({name: count for name, count in foreign.items() if name in _LANGUAGE_OF_SCRIPT})
    if foreign.total() > 0.3 * letters.total():
        # Japanese mixes Chinese characters with its own: a few of its own decide.
        own = {name: count * (5 if name in ("HIRAGANA", "KATAKANA") else 1) for name, count in foreign.items()}
        return _LANGUAGE_OF_SCRIPT[max(own, key=lambda name: own[name])]
    words = Counter(text.lower().split())
    hits = {code: sum(words[word] for word in common.split()) for code, common in _COMMON_WORDS.items()}
    best = max(hits, key=lambda code: hits[code])
    return best if hits[best] > 0.02 * words.total() else None


@dataclass
class Tally:
    """What was counted of tokenised rows; two of them add up.

    Attributes:
        lengths: tokens of every row kept or left out for its length, in their frames, before any cut.
        truncated, tokens, unknown: of the rows kept.
        alike: hashes of the pairs without case, spacing and punctuation.
        copied: rows whose target stands in their source.
        kept: rows that went into a split, each once.
    """

    lengths: dict[str, list[npt.NDArray[np.int32]]] = field(default_factory=lambda: {side: [] for side in SIDES})
    truncated: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    alike: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    copied: int = 0
    kept: int = 0

    def add(self, other: Tally) -> None:
        """Adds another's counts."""
        for side in SIDES:
            self.lengths[side] += other.lengths[side]
        for name in ("truncated", "tokens", "unknown", "classes"):
            getattr(self, name).update(getattr(other, name))
        self.alike += other.alike
        self.copied += other.copied
        self.kept += other.kept


def tokens_report(tally: Tally) -> dict[str, Any]:
    """Returns the part of the report that is about tokens and pairs."""
    lengths = {side: np.concatenate([*tally.lengths[side], np.zeros(0, np.int32)]) for side in SIDES}
    alike = np.concatenate([*tally.alike, np.zeros(0, np.uint64)])
    return {
        **{f"{side}_tokens": _quantiles(lengths[side]) for side in SIDES},
        "truncated": {side: tally.truncated[side] for side in SIDES},
        "unknown_tokens": {side: round(tally.unknown[side] / max(1, tally.tokens[side]), 6) for side in SIDES},
        "near_duplicates": len(alike) - len(np.unique(alike)),
        "target_in_source": round(tally.copied / max(1, tally.kept), 4),
        "classes": dict(tally.classes.most_common(_MOST_CLASSES_SHOWN)),
        "histogram": {side: histogram(lengths[side]) for side in SIDES},
        "longer_than": {side: _longer(lengths[side]) for side in SIDES},
        "suggested": {f"max_{side}_tokens": _suggested(lengths[side], _WHOLE[side]) for side in SIDES},
    }


def _quantiles(lengths: npt.NDArray[np.int32]) -> dict[str, int]:
    points = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}
    values = np.percentile(lengths if len(lengths) else [0], [*points.values()], method="higher")
    return {name: int(value) for name, value in zip(points, values, strict=True)}


def histogram(lengths: npt.NDArray[np.int32]) -> list[list[int]]:
    """Returns [first length, rows] of bars of one width; the last bar holds everything from there on."""
    if not len(lengths):
        return []
    width = max(1, -(-int(np.percentile(lengths, 99.5)) // _BARS))
    counts = np.bincount(np.minimum(lengths // width, _BARS))
    return [[index * width, int(count)] for index, count in enumerate(counts)]


def _longer(lengths: npt.NDArray[np.int32]) -> dict[str, float]:
    if not len(lengths):
        return {}
    most = int(lengths.max())
    shown = [limit for limit in LIMITS if limit < most]
    return {str(limit): round(float((lengths > limit).mean()), 6) for limit in shown}


def _suggested(lengths: npt.NDArray[np.int32], share: float) -> int:
    wanted = int(np.quantile(lengths, share, method="higher")) if len(lengths) else 1
    return next((limit for limit in LIMITS if limit >= wanted), wanted)
