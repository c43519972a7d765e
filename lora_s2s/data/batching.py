"""Which rows go together: batches of like lengths, on both sides, under a bound of padded tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_s2s.errors import UsageError

Lengths = npt.NDArray[np.int64]

# Source lengths within this ratio share a bucket; inside it rows are ordered by target length. The best ratio depends
# on the data, so each is tried on a sample.
_RATIOS = (1.04, 1.08, 1.15, 1.3, 1.6)
_SAMPLE = 20_000


def token_budget_batches(
    source_lengths: Sequence[int] | npt.NDArray[Any],
    target_lengths: Sequence[int] | npt.NDArray[Any],
    *,
    tokens_per_batch: int | None = None,
    batch_size: int | None = None,
    seed: int,
    epoch: int,
) -> list[list[int]]:
    """Returns an epoch's micro-batches as row numbers: every row once, the order set by ``seed`` and ``epoch`` alone.

    Args:
        source_lengths: tokens of each source.
        target_lengths: tokens of each target.
        tokens_per_batch: upper bound on rows × (longest source + longest target); a row above it is alone.
        batch_size: instead, rows in a batch.

    Raises:
        UsageError: both bounds, or none.
    """
    if (tokens_per_batch is None) == (batch_size is None):
        raise UsageError("a batch is bounded either by tokens_per_batch or by batch_size")
    sources, targets = np.asarray(source_lengths, dtype=np.int64), np.asarray(target_lengths, dtype=np.int64)
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(sources))
    offset = float(rng.random())  # moves the buckets' edges, so that neighbours differ between epochs
    if batch_size is not None:
        rows = _by_length(order, sources, targets, _RATIOS[2], offset)
        batches = [rows[start : start + batch_size].tolist() for start in range(0, len(rows), batch_size)]
    else:
        budget = int(tokens_per_batch or 0)
        ratio = _best_ratio(order[:_SAMPLE], sources, targets, budget, offset)
        batches = list(_filled(_by_length(order, sources, targets, ratio, offset), sources, targets, budget))
    return [batches[index] for index in rng.permutation(len(batches))]


def _by_length(order: Lengths, sources: Lengths, targets: Lengths, ratio: float, offset: float) -> Lengths:
    """Orders rows by source bucket, then target length up and down in turn: no jump at the edge of a bucket."""
    buckets = np.floor(np.log(np.maximum(sources[order], 1)) / np.log(ratio) + offset).astype(np.int64)
    turned = np.where(buckets % 2 == 1, targets[order], -targets[order])
    return order[np.lexsort((turned, buckets))]  # stable: equal lengths stay in the epoch's random order


def _filled(rows: Lengths, sources: Lengths, targets: Lengths, budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    longest_source = longest_target = 0
    for row, source, target in zip(rows.tolist(), sources[rows].tolist(), targets[rows].tolist(), strict=True):
        width = max(longest_source, source) + max(longest_target, target)
        if batch and (len(batch) + 1) * width > budget:
            yield batch
            batch, longest_source, longest_target = [], 0, 0
        batch.append(row)
        longest_source, longest_target = max(longest_source, source), max(longest_target, target)
    if batch:
        yield batch


def _best_ratio(rows: Lengths, sources: Lengths, targets: Lengths, budget: int, offset: float) -> float:
    def padded(ratio: float) -> int:
        batches = _filled(_by_length(rows, sources, targets, ratio, offset), sources, targets, budget)
        return sum(len(batch) * int(sources[batch].max() + targets[batch].max()) for batch in batches)

    return min(_RATIOS, key=padded)
