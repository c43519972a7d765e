"""Decides, by hashes of all rows at once, which rows to drop from train and which to hold out.

Splits by source, never by row: texts that share a source or conversation stay in one split. A row's
place between 0 and 1 is a hash of its source or conversation, so new rows do not move old ones.
Legend: n rows.
"""

from __future__ import annotations

import hashlib
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_s2s.errors import DataError
from lora_s2s.examples.example import Example, hash64

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]
SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST, DUPLICATE, LEAKED, SET_ASIDE = range(6)
# The meaning of codes beyond the splits: why a row is dropped.
REASONS = {
    DUPLICATE: "duplicate",
    LEAKED: "source is held out",
    SET_ASIDE: "set aside by its file's weight",
}
# Targets are classes if there are few distinct ones, each with many rows.
_MOST_CLASSES, _LEAST_ROWS = 1000, 5


@dataclass
class Keys:
    """What the decisions depend on, (n,) each: hashes of source, target and unused columns, place
    (of 2^64), split code and weight.
    """

    source: Hashes
    target: Hashes
    rest: Hashes
    place: Hashes
    split: npt.NDArray[np.uint8]
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.split)


def place_of(key: str, seed: int) -> int:
    """The place of a text in the order of splitting, from 0 to 2^64."""
    digest = hashlib.blake2b(
        f"{seed}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8
    ).digest()
    return int.from_bytes(digest, "big")


def keys_of(examples: list[Example], splits: list[int], seed: int) -> Keys:
    """The keys of rows with their split codes."""
    places = np.array([place_of(example.split_key, seed) for example in examples], np.uint64)
    # For a row that is split by source, the place is a hash of the source already.
    sources = places
    if grouped := [row for row, example in enumerate(examples) if example.group is not None]:
        sources = places.copy()
        sources[grouped] = [hash64(examples[row].source) for row in grouped]
    return Keys(
        source=sources,
        target=np.array([hash64(example.target) for example in examples], np.uint64),
        rest=np.array([example.rest for example in examples], np.uint64),
        place=places,
        split=np.array(splits, np.uint8),
        weight=np.array([example.weight for example in examples], np.float32),
    )


def joined(parts: list[Keys]) -> Keys:
    """The keys of all rows, in order; frees the parts column by column."""
    columns = {name: [getattr(part, name) for part in parts] for name in Keys.__dataclass_fields__}
    parts.clear()
    by_source = all(map(operator.is_, columns["source"], columns["place"]))
    if by_source:
        del columns["place"]
    whole: dict[str, npt.NDArray[Any]] = {}
    for name, column in columns.items():
        whole[name] = np.concatenate(column)
        column.clear()
    return Keys(**whole, place=whole["source"]) if by_source else Keys(**whole)


@dataclass
class Decisions:
    """The decisions on all rows.

    Attributes:
        code: (n,) one of the codes above.
        copies: (n,) how often a row is in its split; more than once in train if its file has a
            weight.
        leaked: number of held-out rows whose source is also in train.
        classes: number of distinct targets if there are few, else 0.
        repeated: number of training rows that repeat a pair with other values in unused columns.
        ambiguous: number of training rows whose source also has other targets in train.
    """

    code: npt.NDArray[np.uint8]
    copies: npt.NDArray[np.int16]
    leaked: int
    classes: int
    repeated: int = 0
    ambiguous: int = 0

    @property
    def kept(self) -> float:
        """The fraction of rows that go to a split."""
        return float(np.isin(self.code, list(REASONS), invert=True).mean())


def decide(keys: Keys, fraction: float) -> Decisions:
    """Drops duplicates and leaks from train, and holds out validation rows if none are given.

    Args:
        fraction: fraction of train's sources to hold out.

    Raises:
        DataError: no row is left to train on.
    """
    code = keys.split.copy()
    train, held_out = code == TRAIN, code != TRAIN
    leaked = 0
    if held_out.any():
        leaking = train & np.isin(keys.source, keys.source[held_out])
        leaked = int(np.isin(keys.source[held_out], keys.source[leaking]).sum())
        code[leaking] = LEAKED
    duplicates = _repeats(keys, train, keys.rest)
    repeated = len(_repeats(keys, train, None)) - len(duplicates) if keys.rest.any() else 0
    code[duplicates] = DUPLICATE
    rows = np.flatnonzero(code == TRAIN)
    classes = _classes(keys.target[rows])
    if not (keys.split == VALIDATION).any():
        code[rows[held_out_rows(keys.place[rows], fraction, classes)]] = VALIDATION
    weighted = _copies(keys)
    copies = np.where(code == TRAIN, weighted, np.int16(1))
    # A weight below 1 selects a part of validation or test data.
    copies = np.where(keys.split != TRAIN, np.minimum(weighted, 1), copies)
    code[copies == 0] = SET_ASIDE
    if not (code == TRAIN).any():
        raise DataError(
            "nothing is left to train on: every source of the training data is also in the "
            "validation or test data, or the split column assigns every row to these",
            hint="name other files, or omit data.validation to hold out a fraction of train",
        )
    class_count = 0 if classes is None else int(classes.max(initial=-1)) + 1
    ambiguous = _ambiguous(keys, np.flatnonzero(code == TRAIN))
    return Decisions(code, copies, leaked, class_count, repeated, ambiguous)


def _repeats(keys: Keys, among: Marks, rest: Hashes | None) -> Rows:
    """The rows ``among`` those given whose pair occurs earlier.

    Args:
        rest: hashes that must be equal too; None compares only the pairs.
    """
    rows = np.flatnonzero(among)
    # Sorting by a combined hash puts equal pairs next to each other; both hashes are then compared.
    mixed = keys.source[rows] * np.uint64(0x9E3779B97F4A7C15) ^ keys.target[rows]
    if rest is not None:
        mixed ^= rest[rows] * np.uint64(0xC2B2AE3D27D4EB4F)
    order = np.argsort(mixed, kind="stable")
    mixed = mixed[order]
    alike = np.flatnonzero(mixed[1:] == mixed[:-1])
    first, later = rows[order[alike]], rows[order[alike + 1]]
    same = (keys.source[first] == keys.source[later]) & (keys.target[first] == keys.target[later])
    if rest is not None:
        same &= rest[first] == rest[later]
    return np.asarray(later[same])


def _ambiguous(keys: Keys, rows: Rows) -> int:
    """The number of rows among some whose source has several targets in them."""
    if not len(rows):
        return 0
    rows = rows[np.argsort(keys.source[rows])]
    sources = keys.source[rows]
    starts = np.flatnonzero(np.concatenate([[True], sources[1:] != sources[:-1]]))
    del sources  # of millions of rows at once
    targets = keys.target[rows]
    several = np.minimum.reduceat(targets, starts) != np.maximum.reduceat(targets, starts)
    return int(np.diff(starts, append=len(rows))[several].sum())


def _classes(targets: Hashes) -> Rows | None:
    """Each row's class (0, 1, …), or None if there are many targets."""
    # Checking the first rows avoids sorting millions of targets.
    if len(np.unique(targets[: 100 * _MOST_CLASSES])) > _MOST_CLASSES:
        return None
    distinct, classes = np.unique(targets, return_inverse=True)
    few = len(distinct) <= _MOST_CLASSES and len(distinct) * _LEAST_ROWS <= len(targets)
    return classes if few else None


def held_out_rows(places: Hashes, fraction: float, classes: Rows | None = None) -> Marks:
    """Which rows go to validation: if ``fraction`` > 0 at least one source, and never all.

    Args:
        places: (n,) equal for rows of one source.
        classes: (n,) the class of each row; at least one source is held out of every class that has
            two or more.
    """
    if fraction <= 0 or not len(places) or places.min() == places.max():
        return np.zeros(len(places), bool)
    chosen = places < np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    if not chosen.any():
        chosen = places == places.min()
    if classes is not None:
        order = np.argsort(classes, kind="stable")
        starts = np.flatnonzero(np.diff(classes[order], prepend=-1))
        lowest, highest = (
            bound.reduceat(places[order], starts) for bound in (np.minimum, np.maximum)
        )
        lacking = ~np.logical_or.reduceat(chosen[order], starts) & (lowest != highest)
        chosen |= np.isin(places, lowest[lacking])
    return np.asarray(places != places.max() if chosen.all() else chosen)


def _copies(keys: Keys) -> npt.NDArray[np.int16]:
    """How often each row is in train: its weight, whose fractional part is decided by its hash."""
    if (keys.weight == 1).all():
        return np.ones(len(keys), np.int16)
    times = np.floor(keys.weight)
    chance = (keys.source ^ keys.target).astype(np.float64) / 2.0**64
    return np.asarray((times + (chance < keys.weight - times)).astype(np.int16))
