"""Which rows are dropped from train, and which are held out: decided on hashes, for all rows at
once.

Splits by source, never by row: texts that share a source (or a conversation) stay on one side. A
row's place between 0 and 1 is a hash of what it is split by, so rows that come later move nothing.
n rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora_s2s.errors import DataError
from lora_s2s.examples.example import Example

Hashes = npt.NDArray[np.uint64]
SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST, DUPLICATE, LEAKED, SET_ASIDE = range(6)
# What becomes of a row, by its code: the split it goes to, or why it goes nowhere.
REASONS = {DUPLICATE: "duplicate", LEAKED: "leaked", SET_ASIDE: "set aside by its file's weight"}
# Targets are classes where there are few of them, each with many rows.
_MOST_CLASSES, _LEAST_ROWS = 1000, 5


@dataclass
class Keys:
    """What decides about rows, (n,) each.

    Hashes of source, target and unused columns, the place (of 2^64), split code and weight.
    """

    source: Hashes
    target: Hashes
    rest: Hashes
    place: Hashes
    split: npt.NDArray[np.uint8]
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.split)


def _hash(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def place_of(key: str, seed: int) -> int:
    """Returns where a text lies in the order of splitting, from 0 to 2^64."""
    digest = hashlib.blake2b(
        f"{seed}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8
    ).digest()
    return int.from_bytes(digest, "big")


def keys_of(examples: list[Example], splits: list[int], seed: int) -> Keys:
    """Returns the keys of rows, each of its split."""
    places = [place_of(example.split_key, seed) for example in examples]
    # Where a row is split by its source, the place is a hash of the source already.
    sources = [
        place if example.group is None else _hash(example.source)
        for place, example in zip(places, examples, strict=True)
    ]
    return Keys(
        source=np.array(sources, np.uint64),
        target=np.array([_hash(example.target) for example in examples], np.uint64),
        rest=np.array([example.rest for example in examples], np.uint64),
        place=np.array(places, np.uint64),
        split=np.array(splits, np.uint8),
        weight=np.array([example.weight for example in examples], np.float32),
    )


def joined(parts: list[Keys]) -> Keys:
    """Returns the keys of all rows, in order; the parts are freed, column by column."""
    columns = [[getattr(part, name) for part in parts] for name in Keys.__dataclass_fields__]
    parts.clear()
    joined_columns = []
    for column in columns:
        joined_columns.append(np.concatenate(column))
        column.clear()
    return Keys(*joined_columns)


@dataclass
class Decisions:
    """What becomes of rows.

    Attributes:
        code: (n,) one of the codes above.
        copies: (n,) how often a row is in its split: in train more than once where its file has a
            weight.
        leaked: held-out rows whose source is in train too.
        classes: how many different targets there are, where they are few; else 0.
        repeated: training rows that repeat an earlier pair with other values in unused columns.
        ambiguous: training rows whose source has another target in train too.
    """

    code: npt.NDArray[np.uint8]
    copies: npt.NDArray[np.int16]
    leaked: int
    classes: int
    repeated: int = 0
    ambiguous: int = 0

    @property
    def kept(self) -> float:
        """The share of rows that go to a split."""
        return float(np.isin(self.code, list(REASONS), invert=True).mean())


def decide(keys: Keys, fraction: float) -> Decisions:
    """Drops duplicates and leaks from train, and holds out validation rows where none are named.

    Args:
        fraction: share of train's sources held out; 0 holds out none.

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
    ambiguous = _ambiguous(keys.source[rows], keys.target[rows])
    classes = _classes(keys.target[rows])
    if not (keys.split == VALIDATION).any():
        code[rows[held_out_rows(keys.place[rows], fraction, classes)]] = VALIDATION
    weighted = _copies(keys)
    copies = np.where(code == TRAIN, weighted, np.int16(1))
    # Of validation or test data with a weight below 1 a part is taken.
    copies = np.where(keys.split != TRAIN, np.minimum(weighted, 1), copies)
    code[copies == 0] = SET_ASIDE
    if not (code == TRAIN).any():
        raise DataError(
            "nothing is left to train on: every source of the training data also stands in the "
            "validation or test data, or its split column marks every row as one of these",
            hint="name other files, or omit data.validation to have a fraction split off",
        )
    classes_found = 0 if classes is None else int(classes.max(initial=-1)) + 1
    return Decisions(code, copies, leaked, classes_found, repeated, ambiguous)


def _repeats(
    keys: Keys, among: npt.NDArray[np.bool_], rest: Hashes | None
) -> npt.NDArray[np.int64]:
    """Returns the rows whose pair stands before them among those asked for.

    Args:
        rest: what must be equal too; None looks at the pair alone.
    """
    rows = np.flatnonzero(among)
    # One number a pair puts equal pairs side by side; whether they are equal is decided by both
    # hashes.
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


def _ambiguous(sources: Hashes, targets: Hashes) -> int:
    """Returns how many rows have a source that stands with several targets."""
    if not len(sources):
        return 0
    order = np.argsort(sources, kind="stable")
    sources, targets = sources[order], targets[order]
    starts = np.flatnonzero(np.concatenate([[True], sources[1:] != sources[:-1]]))
    several = np.minimum.reduceat(targets, starts) != np.maximum.reduceat(targets, starts)
    return int(np.diff([*starts.tolist(), len(sources)])[several].sum()) if several.any() else 0


def _classes(targets: Hashes) -> npt.NDArray[np.int64] | None:
    """Returns each row's class (0, 1, …), or None where targets are many."""
    # A look at the first rows spares sorting ten million texts.
    if len(np.unique(targets[: 100 * _MOST_CLASSES])) > _MOST_CLASSES:
        return None
    distinct, classes = np.unique(targets, return_inverse=True)
    few = len(distinct) <= _MOST_CLASSES and len(distinct) * _LEAST_ROWS <= len(targets)
    return classes if few else None


def held_out_rows(
    places: Hashes, fraction: float, classes: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.bool_]:
    """Returns which rows go to validation: at least one and not all, where there are two and
    ``fraction`` > 0.

    Args:
        places: (n,) of rows; those of one source have one place.
        classes: (n,) the class of each row: of every class with two sources or more, one is held
            out at least.
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
    """Returns how often each row is to stand in train: its weight, the part after the point by
    chance (its hash).
    """
    if (keys.weight == 1).all():
        return np.ones(len(keys), np.int16)
    times = np.floor(keys.weight)
    chance = (keys.source ^ keys.target).astype(np.float64) / 2.0**64
    return np.asarray((times + (chance < keys.weight - times)).astype(np.int16))
