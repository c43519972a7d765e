"""Which size of base a machine trains: memory and time by simple bounds.

The bounds are stated in :func:`needed` alone. They are fitted to ``docs/SPEED.md`` (flan-t5-small
and -base on 2 CPU cores) and to published GPUs' figures, and good enough to choose among sizes that
differ by a factor of three.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lora_s2s.errors import UsageError
from lora_s2s.models.precision import device_name, resolve_device
from lora_s2s.models.row_memory import device_memory
from lora_s2s.recipe.bases import Base
from lora_s2s.recipe.defaults import Facts, expected_steps, resolve
from lora_s2s.recipe.schema import Recipe

CPU, GPU = "cpu", "cuda"
# Hours of training that are worth a larger base, by device.
_MOST_SECONDS = {CPU: 3_600, GPU: 3 * 3_600}
_SHARE_OF_MEMORY = {CPU: 0.6, GPU: 0.85}  # a CPU's memory has other users
# FLOP a second: a core in float32 (docs/SPEED.md), a small GPU in 16 bits (a T4 at 40 % of its
# peak).
_FLOP = {CPU: 7e10, GPU: 2.5e13}
_BYTES = {CPU: 4.0, GPU: 2.0}
_BYTES_OF_NF4 = 0.6
# Kept for the backward pass: bytes a token of a base of 77 M parameters in float32, and the power
# with which it grows.
_KEPT, _KEPT_AT, _KEPT_POWER = 205e3, 77e6, 0.72
_OTHER_BYTES = 0.6e9  # libraries, logits, the adapter and its optimizer
_GIGABYTES = re.compile(r"(\d{1,4}(?:\.\d{1,2})?)\s*(?:GB|GiB|G)", re.IGNORECASE)


@dataclass(frozen=True)
class Machine:
    """Where a recipe will be trained.

    Attributes:
        device: ``cpu`` or ``cuda``.
        memory: bytes, of the GPU or of the machine.
        cores: those that training uses, on a CPU.
    """

    device: str
    memory: int
    cores: int
    name: str

    def __str__(self) -> str:
        return f"{self.name}, {self.memory / 2**30:.0f} GiB"

    @property
    def flop(self) -> float:
        """Floating-point operations a second."""
        return _FLOP[self.device] * (self.cores if self.device == CPU else 1)


@dataclass(frozen=True)
class Need:
    """What training on a base takes."""

    memory: float
    seconds: float
    decode: float

    def __str__(self) -> str:
        return f"about {self.memory / 2**30:.1f} GiB and {in_time(self.seconds)}"


def this_machine() -> Machine:
    """The GPU of this machine, or its CPU."""
    device = resolve_device()
    memory = device_memory(device) or 8 * 2**30
    return Machine(device.type, memory, torch.get_num_threads(), device_name(device))


def machine_with(gpu_memory: str) -> Machine:
    """A machine whose GPU has so much memory, such as ``8GB``.

    Raises:
        UsageError: that is no amount of memory.
    """
    match = _GIGABYTES.fullmatch(gpu_memory.strip())
    if match is None or not float(match[1]):
        raise UsageError(f"not an amount of memory: '{gpu_memory}'", hint="such as 8GB")
    return Machine(GPU, int(float(match[1]) * 2**30), 1, "a GPU")


def needed(
    parameters: float, recipe: Recipe, facts: Facts, machine: Machine, *, four_bits: bool = False
) -> Need:
    """What training and decoding take, by simple bounds.

    Training computes 4 FLOP a parameter and token, decoding 2, and three times that for its single
    tokens.

    Args:
        parameters: the base's.
        facts: of the data, in the base's tokens.
    """
    training = resolve(recipe, facts).training
    batch = training.tokens_per_batch
    rows = training.batch_size or 0
    mean = facts.tokens / max(1, facts.rows)
    tokens = batch if isinstance(batch, int) else rows * (facts.source.p99 + facts.target.p99)
    weights = parameters * (_BYTES_OF_NF4 if four_bits else _BYTES[machine.device])
    kept = _KEPT * (parameters / _KEPT_AT) ** _KEPT_POWER * _BYTES[machine.device] / _BYTES[CPU]
    if isinstance(training.epochs, int | float) and training.max_steps is None:
        seen = facts.tokens * training.epochs
    else:
        seen = expected_steps(training, facts) * tokens
    return Need(
        memory=weights + tokens * kept + _OTHER_BYTES,
        seconds=4 * parameters * seen / machine.flop,
        decode=6 * parameters * mean / machine.flop,
    )


@dataclass(frozen=True)
class Sized:
    """A base that was chosen for a machine, what it takes, and why this size."""

    base: Base
    need: Need
    four_bits: bool
    reason: str


@dataclass(frozen=True)
class Weighed:
    """One size of a family, and what it takes in the device's precision and in 4 bits."""

    base: Base
    need: Need
    in_four_bits: Need


def choose_size(sizes: Sequence[Weighed], machine: Machine) -> Sized:
    """The largest base that fits into memory and trains within :data:`_MOST_SECONDS`; the smallest,
    in 4 bits if it must be, where none does.
    """
    most = _SHARE_OF_MEMORY[machine.device] * machine.memory
    seconds = _MOST_SECONDS[machine.device]
    fitting = [one for one in sizes if one.need.memory <= most and one.need.seconds <= seconds]
    chosen = fitting[-1] if fitting else sizes[0]
    larger = sizes[sizes.index(chosen) + 1] if chosen is not sizes[-1] else None
    if not fitting and chosen.need.memory > most and machine.device == GPU:
        need = chosen.in_four_bits
        return Sized(chosen.base, need, True, f"the smallest, in 4 bits to fit: {need}")
    if not fitting:
        return Sized(chosen.base, chosen.need, False, f"the smallest of its family: {chosen.need}")
    why = ""
    if larger is not None:
        bound = "memory" if larger.need.memory > most else "time"
        why = f"; {larger.base.name} takes {larger.need}, beyond the bound on {bound}"
    reason = f"the largest that fits into {machine}: {chosen.need}{why}"
    return Sized(chosen.base, chosen.need, False, reason)


def fits(need: Need, machine: Machine) -> bool:
    """Whether a machine has the memory."""
    return need.memory <= _SHARE_OF_MEMORY[machine.device] * machine.memory


def in_time(seconds: float) -> str:
    """Returns ``40 s``, ``12 min`` or ``1.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3600:.1f} h"
