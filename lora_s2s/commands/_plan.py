"""What ``plan`` shows. Imports the console: import it inside functions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from lora_s2s.console import say, table, warn
from lora_s2s.machine import sized
from lora_s2s.pipeline.base_choice import in_time
from lora_s2s.pipeline.plan import TABLE_COLUMNS, Plan

# Ways to train in few letters, so that all cards fit a terminal.
_SHORT = {"checkpointing": "ckpt", "nf4, checkpointing": "both"}


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Shows what each base takes, and the least change by which it fits each card."""
    short = [
        [row[0].rpartition("/")[2], *(_SHORT.get(cell, cell) for cell in row[1:])] for row in rows
    ]
    needs, cards = [row[:5] for row in short], [[row[0], *row[5:]] for row in short]
    heads = [TABLE_COLUMNS[0], *TABLE_COLUMNS[5:]]
    table("GPU memory needed, in 16 bits with this data", TABLE_COLUMNS[:5], needs, whole=True)
    table("What fits a card (ckpt: checkpointing; both: nf4 with it)", heads, cards, whole=True)


def show_plan(planned: Plan, name: str) -> None:
    """Shows memory, time and advice of the run of this name: the parts of the total, which add up
    to it, apart from those of other times.
    """
    have = "" if planned.device_bytes is None else f" of {sized(planned.device_bytes)}"
    each = 8 * planned.weights_bytes / planned.parameters
    bits = f" ({each:.0f} bits each)" if planned.processes == 1 else ""
    steps = {
        "optimizer": planned.optimizer_bytes,
        "activations": planned.activations_bytes,
        "logits": planned.logits_bytes,
        "temporary buffers": planned.temporary_bytes,
    }
    check = {"check of the first batch": planned.comparison_bytes}
    others = steps if planned.peaks_before_steps else check
    parts = {
        f"weights{bits}": planned.weights_bytes,
        "adapter and its gradients": planned.adapter_bytes,
        **(check if planned.peaks_before_steps else steps),
        "libraries": planned.libraries_bytes,
    }
    parts["held by the allocator beyond these"] = planned.total_bytes - sum(parts.values())
    device = "GPU" if planned.device == "cuda" else "CPU"
    if planned.processes > 1:
        device += f" in each of {planned.processes} processes"
    heads = ["memory", "at most"]
    table(
        f"Plan of {name} on a {device}{have}",
        heads,
        [*_added(parts), ["= total at the peak", f"{planned.total_bytes / 1e6:,.0f} MB"]],
        whole=True,
    )
    others["decoding in eval, beside the weights"] = planned.decoding_bytes
    table("At other times, not in this total", heads, _added(others), whole=True)
    source, target = planned.longest_row
    say(
        f"{planned.trainable_parameters:,} parameters train, the base has {planned.parameters:,}; "
        f"longest row: {source:,} source and {target:,} target tokens; {planned.steps:,} steps"
    )
    if planned.seconds is not None and planned.seconds_per_step is not None:
        say(f"about {in_time(planned.seconds)}, {planned.seconds_per_step:.2g} s a step")
    need = sized(planned.total_bytes) + have
    if planned.fits is False:
        warn(f"it does not fit: {need}")
    elif have:
        say(f"it fits: {need}")
    for one in planned.advice:
        sets = " ".join(f"--set {word}" for word in one.setting.split())
        say(f"  {sets}: {sized(one.total_bytes)}; cost: {one.cost}")
    for note in planned.notes:
        say(f"note: {note}")


def _added(parts: Mapping[str, int]) -> list[list[str]]:
    """Rows of parts in megabytes, each rounded such that what is shown adds up."""
    ends = [round(end / 1e6) for end in itertools.accumulate(parts.values())]
    sizes = [end - start for start, end in itertools.pairwise([0, *ends])]
    return [[part, f"{size:,} MB"] for part, size in zip(parts, sizes, strict=True)]
