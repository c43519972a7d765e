"""What a run takes in memory and time, and what to change so that it fits, each with its cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.errors import ResourceError
from lora_s2s.hub import locate_model
from lora_s2s.machine import sized
from lora_s2s.models.known_bases import KNOWN
from lora_s2s.models.precision import is_emulated, resolve_device, resolve_dtype
from lora_s2s.models.row_memory import read_config, row_cost
from lora_s2s.pipeline.notices import beside_others
from lora_s2s.pipeline.plan_base import base_of
from lora_s2s.pipeline.plan_data import known_data
from lora_s2s.pipeline.planned import (
    Device,
    Memory,
    Planned,
    memory_of,
    peak_of,
    planned_run,
)
from lora_s2s.recipe.fields import FULL
from lora_s2s.recipe.schema import Recipe
from lora_s2s.training import duration
from lora_s2s.training.plan import StepPlan
from lora_s2s.training.processes import process_count

# A run is refused only if even its longest row needs this much more than there is.
_SURELY = 1.1
# How much of N times the speed N GPUs reach together, by training.sharding: assumed.
_EFFICIENCY = {"none": 0.9, "full": 0.7}
_VALIDATION_SHARE = 0.35  # of a training step's compute, for as many tokens
# A change that saves less is not worth its cost.
_WORTH = 0.02
# Of a bound that no model is built for: the libraries, and the largest rank with a small adapter.
_LIBRARIES, _PLAIN_RANK = 10**9, 128
_CARDS = (4, 6, 8, 12, 16, 24, 40, 80)
_GB = 10**9


@dataclass(frozen=True)
class Advice:
    """One change: what to set, what it leaves of memory together with those before it, its cost."""

    setting: str
    total_bytes: int
    cost: str


@dataclass(frozen=True)
class Plan(Memory):
    """A run's memory and time; times are None where the device is not on this machine.

    Attributes:
        flop_per_second, values_per_second: of the device's products, and of what memory bounds,
            by a probe.
        fits: whether the device has so much memory; None if it does not say.
        advice: changes in order of least harm, until the run fits.
        notes: what the plan could not know.
    """

    device: str
    device_bytes: int | None
    processes: int
    parameters: int
    trainable_parameters: int
    steps: int
    tokens_per_batch: int | None
    longest_row: tuple[int, int]
    seconds_per_step: float | None
    seconds: float | None
    flop_per_second: float | None
    values_per_second: float | None
    fits: bool | None
    advice: Sequence[Advice]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """The object of ``plan --json``."""
        return asdict(self)


def plan(
    recipe: Recipe,
    prepared: PreparedDataset | None = None,
    *,
    gpu_memory: int | None = None,
    processes: int = 1,
) -> Plan:
    """Plans a run; loads no weight.

    Args:
        prepared: the data, prepared with this recipe; None takes what an earlier run prepared, or
            prepares it in a temporary folder.
        gpu_memory: bytes of the GPU to plan for; None plans for this machine's device.
        processes: how many train together; memory is that of each.
    """
    device = (
        Device.found(processes) if gpu_memory is None else Device.of_memory(gpu_memory, processes)
    )
    with known_data(recipe, prepared) as (data, notes):
        planned = planned_run(recipe, data, device)
        memory = peak_of(planned)
        fits = None if device.memory is None else memory.total_bytes <= device.memory
        steps = StepPlan(planned.rows, planned.settings).total_steps
        speed, remarks = _measured_speed(planned)
        each = whole = None
        if speed is not None:
            faster, remark = _speed_up(planned)
            each = seconds_per_step(planned, speed) / faster
            whole = each * steps * (1 + _validations(planned, steps))
            remarks += remark
        count, _, _ = planned.base.adapted(planned.recipe.lora)
        rows = planned.rows
        longest = int(np.argmax(rows.sources + rows.targets))
        return Plan(
            **vars(memory),
            device=device.kind,
            device_bytes=device.memory,
            processes=processes,
            parameters=planned.base.parameters,
            trainable_parameters=count,
            steps=steps,
            tokens_per_batch=planned.settings.tokens_per_batch,
            longest_row=(int(rows.sources[longest]), int(rows.targets[longest])),
            seconds_per_step=each,
            seconds=whole,
            fits=fits,
            advice=[] if fits is not False else list(_advice(planned, memory.total_bytes)),
            flop_per_second=None if speed is None else speed.flop,
            values_per_second=None if speed is None else speed.values,
            notes=[*notes, *remarks],
        )


def seconds_per_step(planned: Planned, speed: duration.Speed) -> float:
    """Seconds of a mean step in one process on a device of this speed."""
    setting, sizes, rows = planned.setting, planned.sizes, planned.rows
    _, _, work = planned.base.adapted(planned.recipe.lora)
    batches, again = planned.batch_count, setting.checkpointing
    quantized = batches if setting.largest_weight else 0
    kind, each = setting.device, setting.bytes_each
    load = duration.step_load(
        work,
        sizes,
        rows.sources,
        rows.targets,
        device=kind,
        checkpointing=again,
        dequantized=quantized,
    )
    epoch = duration.step_seconds(load, sizes, speed, device=kind, bytes_each=each, batches=batches)
    return epoch / len(StepPlan(rows, planned.settings).steps(0))


def _measured_speed(planned: Planned) -> tuple[duration.Speed | None, list[str]]:
    """The speed of this device's products by a probe, and remarks on it."""
    here, setting, rows = planned.device.here, planned.setting, planned.rows
    if here is None:
        return None, ["no time: it follows from a probe of the device, which is not here"]
    dtype = {4: torch.float32, 2: torch.bfloat16}[setting.bytes_each]
    tokens = (rows.sources.sum() + rows.targets.sum()) / planned.batch_count
    speed = duration.probe(planned.sizes, int(tokens), dtype, here)
    remarks, recipe = [], planned.recipe
    if speed.bfloat16 and recipe.model.dtype == "auto" and recipe.lora.method != FULL:
        remarks.append(
            "bfloat16 products are at least twice as fast as float32 on this CPU: "
            "--set model.dtype=bfloat16 trains faster, with a little less precision"
        )
    if line := beside_others(here.type)[1]:
        remarks.append(line)
    return speed, remarks


def _speed_up(planned: Planned) -> tuple[float, list[str]]:
    """How much faster several processes are than one, and why."""
    processes, sharding = planned.device.processes, planned.settings.sharding
    if processes == 1:
        return 1.0, []
    if planned.setting.device == "cpu":
        return 1.0, [f"{processes} processes on one CPU share its cores: no step is faster"]
    share = _EFFICIENCY[sharding]
    return processes * share, [f"{processes} GPUs at {share:.0%} of {processes} times one's speed"]


def _validations(planned: Planned, steps: int) -> float:
    """What validations take, as a share of all steps."""
    every, rows = planned.settings.evaluate_every, planned.rows
    epoch = len(StepPlan(rows, planned.settings).steps(0))
    count = steps / (every or epoch)
    trained = steps / epoch * float(rows.sources.sum() + rows.targets.sum())
    return _VALIDATION_SHARE * count * rows.held_out / trained


def _advice(planned: Planned, total: int) -> Iterator[Advice]:
    """Changes in order of least harm, each on top of those before, until the run fits."""
    for sets, cost in _changes(planned):
        changed = _with(planned, sets)
        if not _is_valid(changed.recipe):
            continue
        left = peak_of(changed).total_bytes
        if left > (1 - _WORTH) * total:
            continue
        planned, total = changed, left
        yield Advice(" ".join(f"{key}={value}" for key, value in sets.items()), left, cost)
        if planned.device.memory is not None and left <= planned.device.memory:
            return
    yield from _smaller_bases(planned)


def _changes(planned: Planned) -> Iterator[tuple[dict[str, object], str]]:
    recipe, settings = planned.recipe, planned.settings
    rows = planned.rows
    longest = int((rows.sources + rows.targets).max())
    accumulation = settings.gradient_accumulation
    same = "none for the result: the same steps, a little slower"
    key = "tokens_per_batch" if settings.tokens_per_batch else "batch_size"
    size, least = getattr(settings, key), longest if settings.tokens_per_batch else 1
    while size and size // 2 >= least:
        # A step takes no more micro-batches than an epoch has rows.
        size, accumulation = size // 2, min(accumulation * 2, len(rows))
        yield {f"training.{key}": size, "training.gradient_accumulation": accumulation}, same
    if not settings.gradient_checkpointing:
        yield (
            {"training.gradient_checkpointing": True},
            "none for the result: a third to a half more time",
        )
    several = planned.device.processes > 1
    if several and recipe.model.quantization == "none" and not planned.divided:
        yield (
            {"training.sharding": "full"},
            "none for the result: weights are gathered block by block, slower steps",
        )
    if "8bit" not in settings.optimizer:
        yield {"training.optimizer": "adamw-8bit"}, "optimizer state rounded to 8 bits"
    if planned.setting.bytes_each == 4 and recipe.model.quantization == "none":
        emulated = is_emulated(torch.bfloat16, torch.device(planned.setting.device))
        slower = ", slower on this CPU" if emulated else ""
        yield {"model.dtype": "bfloat16"}, f"weights and activations rounded to 16 bits{slower}"
    for kind, cost in (
        ("int8", "weights rounded to 8 bits, slower steps"),
        ("nf4", "weights rounded to 4 bits, slower steps, a slightly higher loss"),
    ):
        if recipe.model.quantization not in (kind, "nf4"):
            divided = several or settings.sharding == "full"
            whole = {"training.sharding": "none"} if divided else {}
            yield {**whole, "model.quantization": kind}, cost
    limit = int(rows.sources.max())
    while limit // 2 >= 128:
        limit //= 2
        cut = float((rows.sources > limit).mean())
        yield {"data.max_source_tokens": limit}, f"{cut:.0%} of the sources are truncated"


def _with(planned: Planned, sets: dict[str, object]) -> Planned:
    """The run with some keys changed."""
    recipe, rows = planned.recipe, planned.rows
    for key, value in sets.items():
        section, _, name = key.partition(".")
        changed = getattr(recipe, section).model_copy(update={name: value})
        recipe = recipe.model_copy(update={section: changed})
    limit = sets.get("data.max_source_tokens")
    if isinstance(limit, int):
        rows = type(rows)(np.minimum(rows.sources, limit), rows.targets, rows.held_out)
    return Planned(recipe, planned.base, rows, planned.device, planned.libraries)


def _is_valid(recipe: Recipe) -> bool:
    try:
        Recipe.model_validate(recipe.model_dump())
    except ValueError:
        return False
    return True


def _smaller_bases(planned: Planned) -> Iterator[Advice]:
    """The largest popular base of the same family that fits, with all changes before."""
    name, device = planned.base.name, planned.device
    for other in reversed(_siblings(name)):
        base = base_of(other, KNOWN[other])
        if base.parameters >= planned.base.parameters:
            continue
        left = peak_of(Planned(planned.recipe, base, planned.rows, device, planned.libraries))
        if device.memory is not None and left.total_bytes <= device.memory:
            yield Advice(f"model.name={other}", left.total_bytes, "a smaller base answers worse")
            return


def _siblings(name: str) -> list[str]:
    """Popular bases of the same series, smallest first; Flan-T5 for a base that is in none."""
    stem = name.rpartition("-")[0]
    return [key for key in KNOWN if stem and key.startswith(f"{stem}-")] or [
        key for key in KNOWN if key.startswith("google/flan-t5-")
    ]


# What the ways of the table begin with, whatever the recipe says: 16 bits on one GPU.
_PLAIN: dict[str, object] = {
    "model.dtype": "auto",
    "model.quantization": "none",
    "training.gradient_checkpointing": False,
    "training.sharding": "none",
}
_WAYS: tuple[tuple[str, dict[str, object]], ...] = (
    ("LoRA", {}),
    ("checkpointing", {"training.gradient_checkpointing": True}),
    ("nf4", {"model.quantization": "nf4"}),
    ("nf4, checkpointing", {"model.quantization": "nf4", "training.gradient_checkpointing": True}),
)


def table(recipe: Recipe, prepared: PreparedDataset | None = None) -> list[list[str]]:
    """For each size of the recipe's series: memory of four ways to train it in 16 bits with its
    lengths and batch, and the least change by which it fits common cards.
    """
    device = Device.of_memory(0)
    with known_data(recipe, prepared) as (data, _):
        rows = []
        for name in _siblings(recipe.model.name):
            planned = planned_run(recipe, data, device, base_of(name, KNOWN[name]))
            ways = {way: _with(planned, {**_PLAIN, **sets}) for way, sets in _WAYS}
            needs = {
                way: peak_of(run).total_bytes for way, run in ways.items() if _is_valid(run.recipe)
            }
            sizes = [sized(needs[way]) if way in needs else "–" for way in ways]
            cells = [next((w for w in needs if needs[w] <= gb * _GB), "–") for gb in _CARDS]
            rows.append([name, *sizes, *cells])
    return rows


TABLE_COLUMNS = ["base", *(way for way, _ in _WAYS), *(f"{gb} GB" for gb in _CARDS)]


def check_device(recipe: Recipe) -> None:
    """Refuses a dtype that this machine's device cannot compute in.

    Raises:
        UsageError: it cannot.
    """
    resolve_dtype(recipe.model.dtype, resolve_device())


def check_fits(recipe: Recipe, prepared: PreparedDataset) -> None:
    """Refuses a run whose longest row alone does not fit the device's memory, before the base is
    loaded. Micro-batches that do not fit are split while training.

    Raises:
        ResourceError: it cannot fit.
    """
    device = Device.found(process_count())
    if device.memory is None or _evidently_fits(recipe, prepared, device):
        return
    planned = planned_run(recipe, prepared, device)
    longest = np.array([np.argmax(planned.rows.sources + planned.rows.targets)])
    least = memory_of(planned, [longest]).total_bytes
    if least <= _SURELY * device.memory:
        return
    total = peak_of(planned).total_bytes
    changes = " ".join(
        f"--set {word}" for one in _advice(planned, total) for word in one.setting.split()
    )
    raise ResourceError(
        f"training {recipe.model.name} needs about {sized(least)} even for one row; this "
        f"{'GPU' if device.kind == 'cuda' else 'machine'} has {sized(device.memory)}",
        hint=f"{changes or 'choose a smaller base'} (lora-s2s plan shows each change's cost), or "
        "try it nevertheless with --no-memory-check",
    )


def _evidently_fits(recipe: Recipe, prepared: PreparedDataset, device: Device) -> bool:
    """Whether a rough bound, for which no model is built, is far below the memory."""
    cost = row_cost(read_config(recipe.model.name, recipe.model.revision), torch.device("cpu"))
    if cost is None or device.memory is None or recipe.lora.r > _PLAIN_RANK:
        return False
    train = prepared.train
    row = cost(int(train.source_lengths.max()), int(train.target_lengths.max()))
    folder = locate_model(recipe.model.name, recipe.model.revision)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return _LIBRARIES + 4 * weights + 4 * row < device.memory / 2
