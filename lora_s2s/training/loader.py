"""A run's micro-batches: this process's share of each step, collated ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from lora_s2s.data.collate import Batch, collate
from lora_s2s.data.prepared import SplitTable
from lora_s2s.fast_t5.choose import with_layout
from lora_s2s.recipe.schema import TrainingSettings
from lora_s2s.training.encoder_cache import EncoderCache, check_cacheable, encoder_cache
from lora_s2s.training.plan import StepPlan, shares
from lora_s2s.training.prefetch import ahead
from lora_s2s.training.sharding import is_sharded
from lora_s2s.training.state import TrainState

NextBatches = Callable[[], list[Batch]]


@dataclass
class BatchLoader:
    """Collates the rows of a table in the order of a plan."""

    model: nn.Module
    table: SplitTable
    pad_token_id: int
    settings: TrainingSettings
    plan: StepPlan
    accelerator: Accelerator
    cache: EncoderCache | None = None

    def __post_init__(self) -> None:
        if self.settings.cache_encoder:
            check_cacheable(self.model, self.settings.dropout)

    @contextmanager
    def loading(self, state: TrainState, run_dir: Path) -> Iterator[NextBatches]:
        """Yields a function that returns the micro-batches of the next step, from ``state`` on.

        With ``training.cache_encoder`` the encoder's states of all rows are computed first, into a
        file in ``run_dir`` that is deleted on leaving.
        """
        # On a CPU a second thread competes with torch's own threads: a step takes twice as long.
        count = 2 if self._on_gpu() else 0
        with (
            self._encoder_cache(run_dir) as self.cache,
            ahead(self._steps(state), count) as next_batches,
        ):
            yield next_batches

    def _encoder_cache(self, run_dir: Path) -> AbstractContextManager[EncoderCache | None]:
        if not self.settings.cache_encoder:
            return nullcontext()
        epoch = (rows for step in self.plan.steps(0) for rows in step)
        batches = ((rows, self._collate(rows).to(self.accelerator.device)) for rows in epoch)
        return encoder_cache(self.model, self.table.source_lengths, batches, run_dir)

    def _steps(self, state: TrainState) -> Iterator[list[Batch]]:
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        epoch, position = state.epoch, state.position
        for _ in range(state.step, self.plan.total_steps):
            dealt = shares(self.plan.steps(epoch)[position], processes)
            batches = [self._collate(rows) for rows in dealt[rank]]
            if is_sharded(self.model):  # all processes gather the same blocks equally often
                missing = max(map(len, dealt)) - len(batches)
                batches += [self._collate(dealt[0][0]).uncounted()] * missing
            yield batches
            position += 1
            if position >= len(self.plan.steps(epoch)):
                epoch, position = epoch + 1, 0

    def _collate(self, rows: Sequence[int]) -> Batch:
        batch = collate([self.table.features(row) for row in rows], self.pad_token_id)
        batch = with_layout(self.model, batch)
        if self.cache is not None:
            batch.memory_ND = self.cache.read(rows[place] for place in batch.layout.row_order)
        return batch.pinned() if self._on_gpu() else batch

    def _on_gpu(self) -> bool:
        return bool(self.accelerator.device.type == "cuda")
