"""Which size of base a machine trains: memory by the plan of the run, time by its operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from lora_s2s.hub import is_local, only_cache
from lora_s2s.machine import sized
from lora_s2s.models.known_bases import known_settings
from lora_s2s.models.precision import device_name
from lora_s2s.pipeline.plan_base import PlannedBase, planned_base
from lora_s2s.pipeline.planned import Device, Planned, Rows, peak_of
from lora_s2s.recipe.amounts import bytes_of
from lora_s2s.recipe.bases import Base
from lora_s2s.recipe.defaults import Facts, expected_steps, resolve
from lora_s2s.recipe.schema import ModelSection, Recipe
from lora_s2s.training.duration import Load, Speed, step_load, step_seconds

CPU, GPU = "cpu", "cuda"
# Seconds of training that a larger base may take: a first adapter while one waits.
_MOST_SECONDS = {CPU: 600, GPU: 3_600}
_SHARE_OF_MEMORY = {CPU: 0.6, GPU: 0.9}  # a CPU's memory has other users
# FLOP a second of products, and values a second through memory, not measured on the machine (`plan`
# does): a core in float32 (docs/SPEED.md), a small GPU in 16 bits (a T4); and the share of the
# products' speed that decoding reaches (benchmarks/results/decode-cpu.json; assumed on a GPU).
_FLOP = {CPU: 1e11, GPU: 6.5e13}
_VALUES = {CPU: 2.5e9, GPU: 4e10}
_DECODED = {CPU: 1.0, GPU: 0.05}
_LIBRARIES = 600_000_000
_BYTES = {CPU: 4.0, GPU: 2.0}
_SIMPLE = 1.8  # memory over the weights', for a base whose sizes are unknown
_UNKNOWN_MEMORY = 8 * 10**9


@dataclass(frozen=True)
class Machine:
    """Where a recipe will be trained; ``cores`` are those that training uses, on a CPU."""

    device: Device
    memory: int
    cores: int
    name: str

    def __str__(self) -> str:
        return f"{self.name}, {sized(self.memory)}"

    @property
    def speed(self) -> Speed:
        """Of a usual device of this kind."""
        times = self.cores if self.device.kind == CPU else 1
        return Speed(_FLOP[self.device.kind] * times, _VALUES[self.device.kind] * times)


@dataclass(frozen=True)
class Need:
    """What training on a base takes, and seconds to decode one source."""

    memory: float
    seconds: float
    decode: float

    def __str__(self) -> str:
        return f"about {sized(self.memory)} and {in_time(self.seconds)}"


def this_machine() -> Machine:
    """The GPU of this machine, or its CPU."""
    device = Device.found()
    name = device_name(device.here or torch.device(device.kind))
    memory = device.memory or _UNKNOWN_MEMORY
    threads = torch.get_num_threads()
    if device.kind == CPU:
        name += f", {threads} thread{'s' * (threads > 1)}"
    return Machine(replace(device, memory=memory), memory, threads, name)


def machine_with(gpu_memory: str) -> Machine:
    """A machine whose GPU has so much memory, such as ``8GB``.

    Raises:
        UsageError: that is no amount of memory.
    """
    memory = bytes_of(gpu_memory, "--gpu-memory")
    return Machine(Device(GPU, memory), memory, 1, "a GPU")


def sizes_known(model: ModelSection) -> PlannedBase | None:
    """A base as its config describes it, without the network; None if that is not here."""
    with only_cache():
        if is_local(model.name, model.revision) or known_settings(model.name):
            return planned_base(model)
    return None


def needed(
    recipe: Recipe, base: PlannedBase | None, facts: Facts, rows: Rows, machine: Machine
) -> Need:
    """What training and decoding take.

    Decoding computes 2 FLOP a parameter and token.

    Args:
        recipe: with the base and its quantization.
        base: its sizes; None: memory follows from the weights alone.
        facts, rows: of the data in the base's tokens; the rows may be a sample.
    """
    settled = resolve(recipe, facts)
    training = settled.training
    tokens = float(rows.sources.sum() + rows.targets.sum())
    steps = expected_steps(training, facts)
    passes = training.epochs if training.max_steps is None else None
    if isinstance(passes, int | float):
        seen = facts.tokens * passes
    else:
        batch = training.tokens_per_batch
        seen = steps * (batch if isinstance(batch, int) else 1_000)
    each = 2 * facts.parameters * facts.tokens / facts.rows
    decode = each / (machine.speed.flop * _DECODED[machine.device.kind])
    if base is None:
        memory = _SIMPLE * facts.parameters * _BYTES[machine.device.kind]
        return Need(memory, 8 * facts.parameters * seen / machine.speed.flop, decode)
    planned = Planned(settled, base, rows, machine.device, _LIBRARIES)
    _, _, work = base.adapted(recipe.lora)
    again = training.gradient_checkpointing
    kind, lengths = machine.device.kind, (rows.sources, rows.targets)
    once = step_load(work, planned.sizes, *lengths, device=kind, checkpointing=again)
    epochs = seen / tokens
    seconds = step_seconds(
        Load(once.flop * epochs, once.values * epochs),
        planned.sizes,
        machine.speed,
        device=kind,
        bytes_each=planned.setting.bytes_each,
        batches=steps * training.gradient_accumulation,
    )
    return Need(peak_of(planned).total_bytes, seconds, decode)


class Weighed(NamedTuple):
    """One size of a family, and what it takes."""

    base: Base
    need: Need


def choose_size(sizes: Sequence[Weighed], machine: Machine) -> list[Weighed]:
    """The largest base that fits into memory and trains within :data:`_MOST_SECONDS`, else the
    smallest; then the larger ones that fit into memory.
    """
    seconds = _MOST_SECONDS[machine.device.kind]
    good = [one for one in sizes if fits(one.need, machine) and one.need.seconds <= seconds]
    chosen = good[-1] if good else sizes[0]
    larger = sizes[sizes.index(chosen) + 1 :]
    return [chosen, *(one for one in larger if fits(one.need, machine))]


def fits(need: Need, machine: Machine) -> bool:
    """Whether a machine has the memory."""
    return need.memory <= _SHARE_OF_MEMORY[machine.device.kind] * machine.memory


def in_time(seconds: float) -> str:
    """Returns ``40 s``, ``12 min`` or ``1.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3600:.1f} h"
