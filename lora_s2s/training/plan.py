"""Which rows form each micro-batch of each optimizer step, known before the step begins."""

from __future__ import annotations

import math

import numpy as np

from lora_s2s.data.batching import token_budget_batches
from lora_s2s.data.prepared import SplitTable
from lora_s2s.errors import DataError
from lora_s2s.recipe.schema import TrainingSection
from lora_s2s.training.result import TrainState

Rows = list[int]


class StepPlan:
    """The steps of every epoch, from the seed alone: nothing of it needs saving.

    An optimizer step takes ``gradient_accumulation`` micro-batches for each process; the last step of an epoch takes
    what is left.

    Raises:
        DataError: the table is empty, or a row has no target token.
    """

    def __init__(self, table: SplitTable, settings: TrainingSection, *, processes: int = 1) -> None:
        if len(table) == 0:
            raise DataError("there is nothing to train on: the training split has 0 rows", hint="lora-s2s prepare …")
        if np.min(table.target_lengths) < 1:
            raise DataError("a training row has no target token; its loss would be 0 / 0", hint="prepare the data anew")
        self._table = table
        self._settings = settings
        self._batches_a_step = settings.gradient_accumulation * processes
        self._cached: tuple[int, list[list[Rows]]] = (-1, [])
        self.total_steps = settings.max_steps or self._steps_in(settings.epochs)

    def steps(self, epoch: int) -> list[list[Rows]]:
        """Returns the micro-batches (row numbers) of each optimizer step of an epoch, over all processes."""
        if self._cached[0] != epoch:
            batches = token_budget_batches(
                self._table.source_lengths,
                self._table.target_lengths,
                tokens_per_batch=self._settings.tokens_per_batch,
                batch_size=self._settings.batch_size,
                seed=self._settings.seed,
                epoch=epoch,
            )
            size = self._batches_a_step
            self._cached = (epoch, [batches[start : start + size] for start in range(0, len(batches), size)])
        return self._cached[1]

    def epochs_at(self, state: TrainState) -> float:
        """Returns how many epochs are done, with the part of the current one."""
        return state.epoch + (state.position / len(self.steps(state.epoch)) if state.position else 0.0)

    def _steps_in(self, epochs: float) -> int:
        whole = int(epochs)
        count = sum(len(self.steps(epoch)) for epoch in range(whole))
        if epochs > whole:
            count += math.ceil((epochs - whole) * len(self.steps(whole)))
        return count
