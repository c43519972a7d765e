"""Which rows form a micro-batch: similar lengths up to a number of padded tokens, or rows packed
without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_s2s.errors import UsageError

Numbers = npt.NDArray[np.integer[Any]]
Lengths = Sequence[int] | npt.NDArray[Any]

# Source lengths within one of these ratios share a bucket, in which rows are ordered by target
# length. The best ratio depends on the data, so each is tried on a sample.
_RATIOS = (1.04, 1.08, 1.15, 1.3, 1.6)
_SAMPLE = 20_000
_PACKED_AT_ONCE = 1 << 17  # rows; bounds the memory that packing takes
# Cost of a padded target token relative to a padded source token: it also passes through
# cross-attention and the head.
TARGET_COST = 1.75
# Packed micro-batches filled at the same time: with more of them rows fit better and mix more.
_OPEN = 64


class Groups(Sequence[Any]):
    """Slices of a sequence, made on access: an epoch of small lists takes five times the memory."""

    def __init__(self, items: Any, starts: Numbers, stops: Numbers) -> None:
        self._items, self._starts, self._stops = items, starts, stops

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        part = self._items[int(self._starts[index]) : int(self._stops[index])]
        return part.tolist() if isinstance(part, np.ndarray) else part


def token_budget_batches(
    source_lengths: Lengths,
    target_lengths: Lengths,
    *,
    tokens_per_batch: int | None = None,
    batch_size: int | None = None,
    seed: int,
    epoch: int,
) -> Sequence[list[int]]:
    """Returns an epoch's micro-batches as row numbers: every row once, in an order that depends on
    ``seed`` and ``epoch`` only.

    Args:
        source_lengths: tokens of each source.
        target_lengths: tokens of each target.
        tokens_per_batch: upper bound on rows × (longest source + longest target); a longer row is a
            batch of its own.
        batch_size: alternatively, rows per batch.

    Raises:
        UsageError: both bounds or neither are given.
    """
    if (tokens_per_batch is None) == (batch_size is None):
        raise UsageError("set either tokens_per_batch or batch_size")
    sources = np.asarray(source_lengths, dtype=np.int32)
    targets = np.asarray(target_lengths, dtype=np.int32)
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(np.arange(len(sources), dtype=np.int32))
    # Shifts the bucket edges, so that neighbours differ between epochs.
    offset = float(rng.random())
    if batch_size:
        rows = _by_length(order, sources, targets, _RATIOS[2], offset)
        return _shuffled(rows, np.arange(0, len(rows), batch_size), rng)
    budget = int(tokens_per_batch or 0)
    ratio = _best_ratio(order[:_SAMPLE], sources, targets, budget, offset)
    rows = _by_length(order, sources, targets, ratio, offset)
    return _shuffled(rows, _starts(sources[rows], targets[rows], budget), rng)


def _shuffled(rows: Numbers, starts: Numbers, rng: np.random.Generator) -> Groups:
    turn = rng.permutation(len(starts))
    return Groups(rows, starts[turn], np.append(starts[1:], len(rows))[turn])


def _by_length(
    order: Numbers, sources: Numbers, targets: Numbers, ratio: float, offset: float
) -> Numbers:
    """Orders rows by source bucket, then by target length, which falls and rises in turn so that it
    does not jump between buckets.
    """
    bucket_of = np.floor(
        np.log(np.maximum(np.arange(sources.max(initial=0) + 1), 1)) / np.log(ratio) + offset
    )
    buckets = bucket_of.astype(np.int32)[sources[order]]
    turned = np.where(buckets % 2 == 1, targets[order], -targets[order])
    # lexsort is stable: equal lengths stay in the epoch's random order.
    return order[np.lexsort((turned, buckets))]


def _starts(sources: Numbers, targets: Numbers, budget: int) -> Numbers:
    """Returns where each batch starts if rows are added in order up to the token budget."""
    starts: list[int] = []
    longest_source = longest_target = 0
    for row, (source, target) in enumerate(zip(sources.data, targets.data, strict=True)):
        longest_source, longest_target = max(longest_source, source), max(longest_target, target)
        if not starts or (row + 1 - starts[-1]) * (longest_source + longest_target) > budget:
            starts.append(row)
            longest_source, longest_target = source, target
    return np.array(starts, dtype=np.int64)


def _best_ratio(
    order: Numbers, sources: Numbers, targets: Numbers, budget: int, offset: float
) -> float:
    def cost(ratio: float) -> float:
        rows = _by_length(order, sources, targets, ratio, offset)
        starts = _starts(sources[rows], targets[rows], budget)
        longest = [np.maximum.reduceat(lengths[rows], starts) for lengths in (sources, targets)]
        return float(np.diff(starts, append=len(rows)) @ (longest[0] + TARGET_COST * longest[1]))

    return min(_RATIOS, key=cost)


def packed_batches(
    source_lengths: Lengths,
    target_lengths: Lengths,
    *,
    tokens_per_batch: int,
    seed: int,
    epoch: int,
) -> Sequence[list[int]]:
    """Returns an epoch's micro-batches of rows that are concatenated without padding.

    Every row occurs once; which rows share a batch is random and depends on ``seed`` and ``epoch``
    only. ``tokens_per_batch`` is split between sources and targets in the data's proportion; a row
    that exceeds its share is a batch of its own.
    """
    tokens = np.array([source_lengths, target_lengths], dtype=np.float64)
    share = np.clip(
        round(tokens_per_batch * tokens[0].sum() / max(1.0, tokens.sum())), 1, tokens_per_batch - 1
    )
    tokens /= [[share], [tokens_per_batch - share]]
    rng = np.random.default_rng([seed, epoch])
    # At first every row is a batch of its own; packed ones get higher numbers.
    batch_of = np.arange(tokens.shape[1], dtype=np.int32)
    left = rng.permutation(batch_of[tokens.max(axis=0, initial=0.0) <= 1])
    while len(left):
        some, left = left[:_PACKED_AT_ONCE], left[_PACKED_AT_ONCE:]
        numbers = _packed(tokens[:, some])
        placed = numbers >= 0
        batch_of[some[placed]] = batch_of.max() + 1 + numbers[placed]
        left = np.append(left, some[~placed])
    rows = np.argsort(batch_of, kind="stable").astype(np.int32)
    return _shuffled(rows, np.flatnonzero(np.diff(batch_of[rows], prepend=-1)), rng)


def _packed(loads: npt.NDArray[np.float64]) -> Numbers:
    """Returns a batch number for each row, -1 if none has room; ``loads`` (2, N) are fractions of a
    batch.

    Rows are dealt to lanes of about 64 batches. In each, the longest row comes first and goes to
    the emptiest batch: batches become full, and each mixes lengths.
    """
    ideal, count = float(loads.sum(axis=1).max()), loads.shape[1]
    lanes = max(1, round(ideal / _OPEN))
    depth, batches, lane = -(-count // lanes), max(1, int(np.ceil(ideal / lanes))), np.arange(lanes)
    dealt = np.pad(loads, ((0, 0), (0, depth * lanes - count))).reshape(2, depth, lanes)
    filled, numbers = np.zeros((2, lanes, batches)), np.empty((depth, lanes), dtype=np.int64)
    for place in np.argsort(-dealt.max(axis=0), axis=0, kind="stable"):
        row = dealt[:, place, lane]
        fullest = (filled + row[:, :, None]).max(axis=0)
        best = fullest.argmin(axis=1)
        fits = fullest[lane, best] <= 1
        filled[:, lane, best] += row * fits
        numbers[place, lane] = np.where(fits, lane * batches + best, -1)
    return numbers.ravel()[:count]
