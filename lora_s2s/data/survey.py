"""Statistics of tokenised data in bounded memory: lengths, near duplicates, classes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

SIDES = ("source", "target")
Counts: TypeAlias = npt.NDArray[np.int64]
LIMITS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
_MOST_CLASSES_SHOWN = 20
_BARS = 24
_POINTS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
# Fraction of the rows that a suggested limit does not cut.
_UNCUT = 0.99


@dataclass
class Tally:
    """Statistics of tokenised rows; can be added up.

    Attributes:
        lengths: how many rows have 0, 1, 2, … tokens with special tokens, before truncation; rows
            dropped for their length are included.
        truncated, tokens, unknown: counts over the rows kept.
        alike: hashes of the pairs, ignoring case, spaces and punctuation.
        forms: such hashes of the sources, of train and of held-out rows.
        identical: number of rows whose target equals their source.
        copied: number of rows whose source contains their target.
        kept: number of rows in splits, without copies.
        systems: system texts of the training conversations, at most two; empty for none.
    """

    lengths: dict[str, Counts] = field(
        default_factory=lambda: {side: np.zeros(0, np.int64) for side in SIDES}
    )
    truncated: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    alike: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    copied: int = 0
    identical: int = 0
    kept: int = 0
    systems: set[str] = field(default_factory=set)
    forms: dict[str, list[npt.NDArray[np.uint64]]] = field(
        default_factory=lambda: {"train": [], "held": []}
    )

    def add(self, other: Tally) -> None:
        """Adds the statistics of further rows."""
        for side in SIDES:
            short, long = sorted((self.lengths[side], other.lengths[side]), key=len)
            self.lengths[side] = long + np.pad(short, (0, len(long) - len(short)))
        for name in ("truncated", "tokens", "unknown", "classes"):
            getattr(self, name).update(getattr(other, name))
        self.alike += other.alike
        self.copied += other.copied
        self.identical += other.identical
        for side, hashes in other.forms.items():
            self.forms[side] += hashes
        self.kept += other.kept
        self.systems = {*islice(self.systems | other.systems, 2)}


def tokens_report(tally: Tally) -> dict[str, Any]:
    """The part of the report on tokens and pairs."""
    lengths = tally.lengths
    return {
        **{f"{side}_tokens": _quantiles(lengths[side]) for side in SIDES},
        "truncated": {side: tally.truncated[side] for side in SIDES},
        "unknown_tokens": {
            side: round(tally.unknown[side] / max(1, tally.tokens[side]), 6) for side in SIDES
        },
        "near_duplicates": _near_duplicates(tally),
        "near_leaks": _near_leaks(tally),
        "identical": tally.identical,
        "labels": _labels(tally.classes),
        "target_in_source": round(tally.copied / max(1, tally.kept), 4),
        "classes": dict(tally.classes.most_common(_MOST_CLASSES_SHOWN)),
        "histogram": {side: histogram(lengths[side]) for side in SIDES},
        "longer_than": {side: _longer(lengths[side]) for side in SIDES},
        "system": "".join(tally.systems) if len(tally.systems) == 1 else "",
        "suggested": {f"max_{side}_tokens": suggested_limit(tally, side) for side in SIDES},
    }


def _near_duplicates(tally: Tally) -> int:
    """Counts pairs that repeat another, ignoring case, spaces and punctuation."""
    hashes = np.concatenate([*tally.alike, np.zeros(0, np.uint64)])
    hashes.sort()
    return int((hashes[1:] == hashes[:-1]).sum())


def _near_leaks(tally: Tally) -> int:
    """Counts held-out rows whose source is in train, ignoring case, spaces and punctuation."""
    train, held = (
        np.concatenate([*tally.forms[side], np.zeros(0, np.uint64)]) for side in ("train", "held")
    )
    return int(np.isin(held, train).sum()) if len(held) else 0


def _labels(classes: Counter[str]) -> dict[str, int]:
    """The number of labels and of rows of the most and least frequent; empty if there are none."""
    if not classes:
        return {}
    return {"count": len(classes), "most": max(classes.values()), "least": min(classes.values())}


def _quantiles(counts: Counts) -> dict[str, int]:
    return {name: quantile(counts, share) for name, share in _POINTS.items()}


def quantile(counts: Counts, share: float) -> int:
    """The length that at least this fraction of the rows does not exceed."""
    below = np.cumsum(counts)
    # The quantile of n sorted rows is at index (n - 1) · share, rounded up.
    place = math.ceil((below[-1] - 1) * share) + 1 if below.size and below[-1] else 0
    return int(np.searchsorted(below, place)) if place else 0


def histogram(counts: Counts) -> list[list[int]]:
    """[first length, rows] of equally wide bars; the last one includes all longer rows."""
    if not counts.any():
        return []
    width = max(1, -(-quantile(counts, 0.995) // _BARS))
    bars = np.bincount(np.minimum(np.arange(len(counts)) // width, _BARS), weights=counts)
    return [[index * width, int(count)] for index, count in enumerate(bars)]


def _longer(counts: Counts) -> dict[str, float]:
    limits = [limit for limit in LIMITS if limit < len(counts) - 1]
    return {
        str(limit): round(float(counts[limit + 1 :].sum() / counts.sum()), 6) for limit in limits
    }


def suggested_limit(tally: Tally, side: str) -> int:
    """The smallest usual limit that leaves 99 % of the rows uncut, else their length."""
    needed = max(1, quantile(tally.lengths[side], _UNCUT))
    return next((limit for limit in LIMITS if limit >= needed), needed)
