"""What a throughput benchmark trains on: seeded rows of a length profile, and a fair sample of an
epoch's batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lora_s2s.training.batching import TARGET_COST

Numbers = npt.NDArray[Any]
Lengths = Callable[[Numbers], Numbers]
"""Standard normal draws to lengths in tokens, not yet rounded."""

ROWS = 4096
LONGEST = (512, 128)
_SEED = 11


def log_normal(mean: float, sigma: float, least: int, most: int) -> Lengths:
    """Returns lengths whose logarithm is normal with spread ``sigma``, clipped to ``least`` …
    ``most``.
    """
    return lambda draws: np.clip(np.exp(math.log(mean) - sigma**2 / 2 + sigma * draws), least, most)


def quantiles(*lengths: int) -> Lengths:
    """Returns lengths with these quantiles (0, 5, 10, 25, 50, 75, 90, 95, 99, 100 %), straight
    lines between.
    """
    shares = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
    return lambda draws: np.interp(
        torch.special.ndtr(torch.from_numpy(draws)).numpy(), shares, lengths
    )


# Sources, targets, and the correlation of the normals that both are drawn from; T5's tokenizer
# counted, with `</s>`, cut at 512 and 128:
# - lognormal: no data set; means of 150 and 25 tokens and a long tail, as summaries and questions
# with a context have;
# - e2e: the E2E NLG challenge's training set, 42,061 rows, meaning representation to sentence
# (means 37.2 and 26.6);
# - conversations: the Schema-Guided Dialogue set, 638 dialogues, all turns before a reply to the
# reply: 6,413 rows (means 165 and 16.1).
PROFILES: dict[str, tuple[Lengths, Lengths, float]] = {
    "lognormal": (log_normal(150, 0.7, 8, 512), log_normal(25, 0.7, 2, 128), 0.0),
    "e2e": (
        quantiles(15, 23, 26, 31, 36, 44, 50, 53, 56, 59),
        quantiles(2, 14, 16, 20, 26, 32, 38, 41, 48, 81),
        0.66,
    ),
    "conversations": (
        quantiles(9, 17, 30, 79, 155, 238, 308, 348, 434, 512),
        quantiles(2, 6, 7, 9, 14, 22, 28, 33, 43, 90),
        -0.18,
    ),
}


class ProfileRows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Seeded rows of a profile: ids 3 and up, then ``</s>``. What HF's Trainer and this package's
    plan both take.

    Attributes:
        source_lengths: tokens of each source, ``</s>`` included.
        target_lengths: tokens of each target.
    """

    def __init__(self, profile: str, vocabulary: int, rows: int = ROWS) -> None:
        sources, targets, correlation = PROFILES[profile]
        rng = np.random.default_rng(_SEED)
        first, second = rng.standard_normal((2, rows))
        second = correlation * first + math.sqrt(1 - correlation**2) * second
        self.source_lengths: Numbers = np.rint(sources(first)).astype(np.int64)
        self.target_lengths: Numbers = np.rint(targets(second)).astype(np.int64)
        self._ids = [
            [np.append(rng.integers(3, vocabulary, length - 1), 1) for length in lengths]
            for lengths in (self.source_lengths, self.target_lengths)
        ]

    def __len__(self) -> int:
        return len(self.source_lengths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        source, target = (torch.from_numpy(ids[index]) for ids in self._ids)
        return {"input_ids": source, "attention_mask": torch.ones_like(source), "labels": target}

    def features(self, index: int) -> Any:
        """Returns a row as this package's collate takes it."""
        source, target = (ids[index] for ids in self._ids)
        return SimpleNamespace(input_ids=source, labels=target)

    def real_tokens(self, batches: Sequence[Sequence[int]]) -> int:
        """Returns how many tokens of source and target the batches hold, without padding."""
        rows = [row for batch in batches for row in batch]
        return int(self.source_lengths[rows].sum() + self.target_lengths[rows].sum())


def hf_batches(rows: ProfileRows, order: str, size: int) -> list[list[int]]:
    """Returns an epoch of ``size`` rows a batch in the order HF's Trainer would take: random, or
    grouped by source.
    """
    from transformers.trainer_pt_utils import get_length_grouped_indices

    if order == "grouped":
        generator = torch.Generator().manual_seed(5)
        indices = get_length_grouped_indices(
            rows.source_lengths.tolist(), size, generator=generator
        )
    else:
        indices = np.random.default_rng(5).permutation(len(rows)).tolist()
    return [indices[start : start + size] for start in range(0, len(rows) - size + 1, size)]


def sample(rows: ProfileRows, batches: Sequence[Sequence[int]], tokens: float) -> list[list[int]]:
    """Returns a stratified sample of an epoch with about ``tokens`` real tokens, after one batch to
    warm up with.

    The batches stand at the quantiles (j + ½) / k of the cost, in the epoch's order; the first is
    the median one.
    """

    def cost(number: int) -> float:
        batch = batches[number]
        longest = rows.source_lengths[batch].max() + TARGET_COST * rows.target_lengths[batch].max()
        return float(len(batch) * longest)

    by_cost = sorted(range(len(batches)), key=cost)
    count = min(len(batches), max(1, round(tokens / mean_tokens(rows, batches))))
    picked = sorted(by_cost[int((number + 0.5) / count * len(by_cost))] for number in range(count))
    return [list(batches[number]) for number in (by_cost[len(by_cost) // 2], *picked)]


def mean_tokens(rows: ProfileRows, batches: Sequence[Sequence[int]]) -> float:
    """Returns the real tokens of a batch on average."""
    return rows.real_tokens(batches) / len(batches)
