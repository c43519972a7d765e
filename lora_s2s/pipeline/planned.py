"""A run as its recipe, base, data and device describe it, and its memory. No weight is loaded."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.machine import resident_memory
from lora_s2s.models.precision import resolve_device, resolve_dtype
from lora_s2s.models.row_memory import device_memory
from lora_s2s.pipeline.choices import gather_facts
from lora_s2s.pipeline.lengths import with_lengths
from lora_s2s.pipeline.plan_base import OURS, PlannedBase, planned_base
from lora_s2s.recipe.defaults import resolve
from lora_s2s.recipe.fields import FULL
from lora_s2s.recipe.schema import Recipe, TrainingSettings
from lora_s2s.training import footprint
from lora_s2s.training.footprint import Lengths, Setting
from lora_s2s.training.plan import StepPlan, shares

# What an allocator holds beyond the tensors in it: measured on a CPU (benchmarks/plan.py), assumed
# on a GPU, as is what CUDA itself takes there.
_HELD = {"cpu": 1.14, "cuda": 1.08}
# The same while forwards are compared on a CPU: dequantised weights leave holes in the heap.
_HELD_QUANTIZED = 1.5
_CUDA_BYTES = 600_000_000
# What the first steps touch of the libraries on a CPU: a run of a base of a few thousand weights.
_RUNNING_BYTES = 38_000_000
_STATE_BYTES = {
    "adamw": 8.0,
    "adamw-paged": 8.0,
    "adamw-8bit": 2.1,
    "adamw-paged-8bit": 2.1,
    "adafactor": 0.1,  # a row and a column of each matrix
}


@dataclass(frozen=True)
class Device:
    """The device that is planned for; ``here`` is None where it is not on this machine.

    Attributes:
        memory: that each process has.
        processes: how many train together, each on a GPU of its own, or all on one CPU.
    """

    kind: str
    memory: int | None
    here: torch.device | None = None
    processes: int = 1

    @classmethod
    def found(cls, processes: int = 1) -> Device:
        """The device that a run on this machine takes."""
        device = resolve_device()
        memory = device_memory(device)
        if memory is not None and device.type == "cpu":
            memory //= processes
        return cls(device.type, memory, device, processes)

    @classmethod
    def of_memory(cls, size: int, processes: int = 1) -> Device:
        """A GPU of so many bytes; this machine's if there is one."""
        device = resolve_device()
        return cls("cuda", size, device if device.type == "cuda" else None, processes)

    def bytes_each(self, dtype: str) -> int:
        """Bytes of a value: a GPU computes in 16 bits by ``auto``."""
        if dtype == "auto" and self.kind == "cuda":
            return 2
        return resolve_dtype(dtype, torch.device("cpu")).itemsize


@dataclass(frozen=True)
class Rows:
    """Tokens of each training row, and of all validation rows."""

    sources: Lengths
    targets: Lengths
    held_out: int

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def source_lengths(self) -> Lengths:
        """As a split's table has them."""
        return self.sources

    @property
    def target_lengths(self) -> Lengths:
        """As a split's table has them."""
        return self.targets


@dataclass(frozen=True)
class Memory:
    """Bytes of a run at its peak, by what takes them.

    Attributes:
        peaks_before_steps: whether the peak is the comparison of the first batch, and not a step.
    """

    weights_bytes: int
    adapter_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    temporary_bytes: int
    comparison_bytes: int
    decoding_bytes: int
    libraries_bytes: int
    total_bytes: int
    peaks_before_steps: bool


@dataclass(frozen=True)
class Planned:
    """Everything a plan is computed from: recipe (no key ``auto``), base, rows and device."""

    recipe: Recipe
    base: PlannedBase
    rows: Rows
    device: Device
    libraries: int

    @property
    def settings(self) -> TrainingSettings:
        """The training section as a run takes it."""
        return self.recipe.training.settled()

    @property
    def setting(self) -> Setting:
        """What of the run decides its memory."""
        model, training = self.recipe.model, self.recipe.training
        quantized = model.quantization != "none"
        # Weights that train are float32 on every device.
        dtype = "float32" if self.recipe.lora.method == FULL else model.dtype
        return Setting(
            self.device.bytes_each(dtype),
            self.device.kind,
            training.gradient_checkpointing,
            training.dropout > 0,
            self.base.largest if quantized else 0,
        )

    @property
    def divided(self) -> bool:
        """Whether the processes divide the base's weights."""
        return self.settings.sharding == "full" and self.device.processes > 1

    @property
    def sizes(self) -> footprint.Sizes:
        """The base's sizes, with the kind of forward that this adapter's method takes."""
        sizes, ours = self.base.sizes, self.recipe.lora.method in OURS and not self.divided
        return sizes if ours or sizes.kind != "fast" else replace(sizes, kind="t5")

    def batches(self) -> Sequence[Sequence[int]]:
        """The micro-batches of the first epoch, as the processes share them."""
        plan, processes = StepPlan(self.rows, self.settings), self.device.processes
        dealt = (shares(step, processes) for step in plan.steps(0))
        return [batch for step in dealt for share in step for batch in share]

    @cached_property
    def batch_count(self) -> int:
        """The number of these micro-batches."""
        return len(self.batches())


def memory_of(planned: Planned, rows: Sequence[Lengths]) -> Memory:
    """The memory of a run whose largest micro-batches are ``rows``."""
    recipe, base, setting, sizes = planned.recipe, planned.base, planned.setting, planned.sizes
    count, adapted, _ = base.adapted(recipe.lora)
    sources, targets = planned.rows.sources, planned.rows.targets
    peaks = [
        footprint.step_peak(
            footprint.Batch.of(sources[some], targets[some], setting.device),
            sizes,
            adapted,
            setting,
        )
        for some in rows
    ]
    peak = max(peaks, key=lambda one: one.total)
    first = rows[0]
    compared = footprint.comparison_peak(sources[first], targets[first], sizes, adapted, setting)
    model, evaluation = recipe.model, recipe.evaluation
    answer = evaluation.answer_tokens(int(targets.max()))
    beams, tokens = evaluation.num_beams, evaluation.batch_tokens
    at_once = max(1, tokens // max(1, int(np.median(sources)))) * beams
    decoding = footprint.decoding_bytes(
        sizes, batch_tokens=tokens, rows=at_once, answer=answer, bytes_each=setting.bytes_each
    )
    weights = base.weights_bytes(
        model.quantization, setting.bytes_each, tuple(model.skip_quantization)
    )
    full, processes = recipe.lora.method == FULL, planned.device.processes
    if planned.divided:
        weights = base.divided_bytes(setting.bytes_each, processes, blocks_only=not full)
        count //= processes if full else 1
    # Weights and gradients are float32 whatever the base's dtype; a base that trains is counted.
    adapter = (4 if full else 8) * count
    optimizer = _STATE_BYTES[recipe.training.optimizer] * count
    held = _HELD[setting.device]
    leaves_holes = setting.largest_weight and setting.device == "cpu"
    comparing = compared * (_HELD_QUANTIZED if leaves_holes else held)
    stepping = held * (peak.total + optimizer)
    total = planned.libraries + held * (weights + adapter) + max(stepping, comparing)
    return Memory(
        weights_bytes=weights,
        adapter_bytes=adapter,
        optimizer_bytes=round(optimizer),
        activations_bytes=round(peak.kept),
        logits_bytes=round(peak.logits),
        temporary_bytes=round(peak.temporary),
        comparison_bytes=round(compared),
        decoding_bytes=round(decoding),
        libraries_bytes=planned.libraries,
        total_bytes=round(total),
        peaks_before_steps=comparing > stepping,
    )


def peak_of(planned: Planned) -> Memory:
    """The memory of a run as its recipe says."""
    rows = planned.rows
    return memory_of(planned, footprint.largest(planned.batches(), rows.sources, rows.targets))


def planned_run(
    recipe: Recipe, data: PreparedDataset, device: Device, base: PlannedBase | None = None
) -> Planned:
    """What a plan is computed from."""
    libraries = _libraries(device)  # before a base's weights pass through memory
    base = base or planned_base(recipe.model)
    recipe = with_lengths(recipe, data)
    facts = gather_facts(data, parameters=base.parameters, device=device.kind)
    sources, targets = (
        side.astype(np.int64) for side in (data.train.source_lengths, data.train.target_lengths)
    )
    held_out = facts.validation_tokens
    rows = Rows(sources, targets, held_out)
    return Planned(resolve(recipe, facts), base, rows, device, libraries)


def _libraries(device: Device) -> int:
    """Bytes of the interpreter and the libraries, once this process has loaded what a run does."""
    if device.kind == "cuda":
        return _CUDA_BYTES
    importlib.import_module("lora_s2s.pipeline.train")
    return resident_memory() + _RUNNING_BYTES
