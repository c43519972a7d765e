"""Batches: every row once, under the bound, little padding, the same for the same seed and
epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_s2s.errors import UsageError
from lora_s2s.training.batching import packed_batches, token_budget_batches

LENGTHS = st.lists(st.tuples(st.integers(1, 600), st.integers(1, 130)), max_size=120)


def lognormal(rows: int, mean: float, longest: int, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.round(rng.lognormal(np.log(mean) - 0.245, 0.7, rows)), 2, longest).astype(int)


@given(LENGTHS, st.integers(1, 2000), st.integers(0, 3))
def test_every_row_once_and_no_batch_above_the_bound(
    lengths: list[tuple[int, int]], budget: int, epoch: int
) -> None:
    sources, targets = [pair[0] for pair in lengths], [pair[1] for pair in lengths]
    batches = token_budget_batches(sources, targets, tokens_per_batch=budget, seed=1, epoch=epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        slots = len(batch) * (
            max(sources[row] for row in batch) + max(targets[row] for row in batch)
        )
        assert slots <= budget or len(batch) == 1


@given(LENGTHS, st.integers(1, 50))
def test_every_row_once_by_rows(lengths: list[tuple[int, int]], size: int) -> None:
    sources, targets = [pair[0] for pair in lengths], [pair[1] for pair in lengths]
    batches = token_budget_batches(sources, targets, batch_size=size, seed=1, epoch=0)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert sum(len(batch) < size for batch in batches) <= 1
    assert all(len(batch) <= size for batch in batches)


@pytest.mark.parametrize("make", [token_budget_batches, packed_batches])
def test_deterministic_and_different_by_epoch_and_seed(
    make: Callable[..., Sequence[list[int]]],
) -> None:
    rng = np.random.default_rng(0)
    sources, targets = lognormal(2000, 60, 512, rng), lognormal(2000, 20, 128, rng)

    def batches(seed: int, epoch: int) -> list[list[int]]:
        return list(make(sources, targets, tokens_per_batch=2048, seed=seed, epoch=epoch))

    assert batches(1, 0) == batches(1, 0)
    composed = [
        {tuple(sorted(batch)) for batch in batches(seed, epoch)}
        for seed, epoch in ((1, 0), (1, 1), (2, 0))
    ]
    assert len(composed[0] & composed[1]) < len(composed[0]) / 10
    assert len(composed[0] & composed[2]) < len(composed[0]) / 10


def test_padding_is_small_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    sources, targets = lognormal(20_000, 150, 512, rng), lognormal(20_000, 25, 128, rng)

    def slots_per_token(batches: Sequence[list[int]]) -> float:
        slots = sum(len(rows) * (sources[rows].max() + targets[rows].max()) for rows in batches)
        return float(slots / (sources.sum() + targets.sum()))

    assert (
        slots_per_token(
            token_budget_batches(sources, targets, tokens_per_batch=4096, seed=0, epoch=0)
        )
        < 1.08
    )
    assert (
        slots_per_token(token_budget_batches(sources, targets, batch_size=16, seed=0, epoch=0))
        < 1.15
    )


@given(LENGTHS, st.integers(2, 2000), st.integers(0, 3))
def test_packed_every_row_once_and_never_above_both_shares(
    lengths: list[tuple[int, int]], budget: int, epoch: int
) -> None:
    sources, targets = [pair[0] for pair in lengths], [pair[1] for pair in lengths]
    batches = packed_batches(sources, targets, tokens_per_batch=budget, seed=1, epoch=epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    source_share = budget * sum(sources) / max(1, sum(sources) + sum(targets))
    for batch in batches:
        source, target = sum(sources[row] for row in batch), sum(targets[row] for row in batch)
        assert len(batch) == 1 or source + target <= budget
        assert len(batch) == 1 or (
            source <= source_share + 1 and target <= budget - source_share + 1
        )


def test_packed_batches_are_full_and_of_mixed_lengths() -> None:
    rng = np.random.default_rng(0)
    sources, targets = lognormal(20_000, 150, 512, rng), lognormal(20_000, 25, 128, rng)
    batches = packed_batches(sources, targets, tokens_per_batch=4096, seed=0, epoch=0)
    assert (sources.sum() + targets.sum()) / (4096 * len(batches)) > 0.95
    # Batches drawn at random would differ by the spread of a row ÷ √rows.
    spread = np.std([float(sources[batch].mean()) for batch in batches])
    assert spread < 2 * sources.std() / np.sqrt(len(sources) / len(batches))


def test_a_few_rows_are_packed_into_one_batch_and_a_long_one_is_alone() -> None:
    assert [
        sorted(batch)
        for batch in packed_batches([9, 8, 7], [3, 2, 1], tokens_per_batch=64, seed=0, epoch=0)
    ] == [[0, 1, 2]]
    batches = packed_batches([9, 80, 7], [3, 2, 1], tokens_per_batch=64, seed=0, epoch=0)
    assert sorted(map(sorted, batches)) == [[0, 2], [1]]


@pytest.mark.parametrize("make", [token_budget_batches, packed_batches])
def test_the_order_of_batches_does_not_follow_length(
    make: Callable[..., Sequence[list[int]]],
) -> None:
    lengths = np.arange(1, 4001) % 400 + 1
    batches = make(lengths, lengths // 4 + 1, tokens_per_batch=2000, seed=0, epoch=0)
    means = [float(lengths[batch].mean()) for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_exactly_one_bound_is_given() -> None:
    for bounds in ({}, {"tokens_per_batch": 10, "batch_size": 2}):
        with pytest.raises(UsageError):
            token_budget_batches([1], [1], seed=0, epoch=0, **bounds)
