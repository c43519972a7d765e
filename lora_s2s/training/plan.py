"""Which rows form each micro-batch of each optimizer step, known in advance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lora_s2s.console import counted, say
from lora_s2s.errors import DataError
from lora_s2s.recipe.schema import TrainingSettings
from lora_s2s.training.batching import Groups, packed_batches, token_budget_batches
from lora_s2s.training.state import TrainState

Rows = list[int]


class Lengths(Protocol):
    """What a plan needs of the rows; a split's table has it."""

    @property
    def source_lengths(self) -> npt.NDArray[np.integer[Any]]:
        """Tokens of each source."""

    @property
    def target_lengths(self) -> npt.NDArray[np.integer[Any]]:
        """Tokens of each target."""

    def __len__(self) -> int: ...


class StepPlan:
    """The steps of every epoch; they follow from the seed, so nothing has to be saved.

    An optimizer step takes ``gradient_accumulation`` micro-batches, by however many processes; the
    last step of an epoch takes the rest.

    Raises:
        DataError: the table is empty, or a row has no target token.
    """

    def __init__(self, table: Lengths, settings: TrainingSettings) -> None:
        if len(table) == 0:
            raise DataError(
                "there is nothing to train on: the training split has 0 rows",
                hint="prepare the data again",
            )
        if np.min(table.target_lengths) < 1:
            raise DataError(
                "a training row has no target token; its loss would be 0 / 0",
                hint="prepare the data again",
            )
        self._table = table
        self._settings = settings
        # Two, since the next epoch's batches are prefetched before this epoch ends.
        self.steps = lru_cache(maxsize=2)(self._steps)

    @cached_property
    def total_steps(self) -> int:
        """The number of optimizer steps of all epochs."""
        return self._settings.max_steps or self._steps_in(self._settings.epochs)

    def answer_probability(self, loss: float) -> float:
        """The geometric mean of the probabilities of whole targets, by the mean loss a token."""
        return math.exp(-loss * self._target_tokens)

    @cached_property
    def _target_tokens(self) -> float:
        return float(np.mean(self._table.target_lengths))

    def report_long_rows(self) -> None:
        """Reports how many rows are longer than ``tokens_per_batch``; they need more memory."""
        budget = self._settings.tokens_per_batch
        lengths = self._table.source_lengths + self._table.target_lengths
        if budget and (long := int(np.sum(lengths > budget))):
            rows = counted(long, "row")
            say(f"{rows} longer than training.tokens_per_batch={budget}: each a batch of its own")

    def _steps(self, epoch: int) -> Sequence[list[Rows]]:
        """Micro-batches (row numbers) of each optimizer step of an epoch."""
        batches, size = self._batches(epoch), self._settings.gradient_accumulation
        starts = np.arange(0, len(batches), size)
        return Groups(batches, starts, starts + size)

    def _batches(self, epoch: int) -> Sequence[Rows]:
        lengths = self._table.source_lengths, self._table.target_lengths
        budget, size, seed = (
            self._settings.tokens_per_batch,
            self._settings.batch_size,
            self._settings.seed,
        )
        if budget and self._settings.packing:
            return packed_batches(*lengths, tokens_per_batch=budget, seed=seed, epoch=epoch)
        return token_budget_batches(
            *lengths, tokens_per_batch=budget, batch_size=size, seed=seed, epoch=epoch
        )

    def epochs_at(self, state: TrainState) -> float:
        """How many epochs are done, with the fraction of the current one, to four digits."""
        part = state.position / len(self.steps(state.epoch)) if state.position else 0.0
        return round(state.epoch + part, 4)

    def begin_at(self, state: TrainState) -> None:
        """Moves a state that is past its epoch's end (the data changed) to the next epoch."""
        if state.position and state.position >= len(self.steps(state.epoch)):
            state.epoch, state.position = state.epoch + 1, 0

    def _steps_in(self, epochs: float) -> int:
        whole = int(epochs)
        count = sum(len(self.steps(epoch)) for epoch in range(whole))
        if epochs > whole:
            count += math.ceil((epochs - whole) * len(self.steps(whole)))
        return count


def shares(step: Sequence[Rows], processes: int) -> list[list[Rows]]:
    """Deals a step's micro-batches to processes: whole ones in turn; the rows of each that is left
    over go to a few processes, so that each takes at most one part more.

    A process has no part where there are too few rows.

    >>> shares([[1, 2], [3], [4, 5, 6]], processes=2)
    [[[1, 2], [4, 6]], [[3], [5]]]
    """
    whole = len(step) - len(step) % processes
    dealt = [list(step[rank:whole:processes]) for rank in range(processes)]
    left = len(step) - whole
    for place in range(left):
        ranks = [rank for rank in range(processes) if rank * left // processes == place]
        for first, rank in enumerate(ranks):
            if part := step[whole + place][first :: len(ranks)]:
                dealt[rank].append(part)
    return dealt
