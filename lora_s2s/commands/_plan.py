"""What ``plan`` shows. Imports the console: import it inside functions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from lora_s2s.console import say, table, warn
from lora_s2s.machine import sized
from lora_s2s.pipeline.plan import CARDS, WAYS, Needs, Plan


def show_table(needs: Sequence[Needs]) -> None:
    """Shows what each base takes and the card for it: two tables, as one is too wide."""
    heads = ["base", *WAYS]
    # One series is of one organisation.
    short = {one.base.rpartition("/")[2]: one for one in needs}
    sizes = [[name, *one.sizes().values()] for name, one in short.items()]
    table("Memory at most, training in 16 bits with this data", heads, sizes, whole=True)
    title = f"Smallest GPU that is enough, of {', '.join(map(str, CARDS))} GB"
    smallest = [[name, *one.cards()] for name, one in short.items()]
    table(title, heads, smallest, whole=True)


def show_plan(planned: Plan, name: str) -> None:
    """Shows memory, time and advice of the run of this name: the parts of the total, which add up
    to it, apart from those of other times.
    """
    have = "" if planned.device_bytes is None else f" of {sized(planned.device_bytes)}"
    steps = {
        "optimizer": planned.optimizer_bytes,
        "activations": planned.activations_bytes,
        "logits": planned.logits_bytes,
        "temporary buffers": planned.temporary_bytes,
    }
    check = {"check of the first batch": planned.comparison_bytes}
    before = planned.peaks_before_steps(planned.device)
    at_peak, others = (check, steps) if before else (steps, check)
    parts = {
        f"weights ({planned.weights})": planned.weights_bytes,
        "adapter and its gradients": planned.adapter_bytes,
        **at_peak,
        "libraries": planned.libraries_bytes,
    }
    parts["held by the allocator beyond these"] = planned.total_bytes - sum(parts.values())
    device = "GPU" if planned.device == "cuda" else "CPU"
    if planned.processes > 1:
        device = f"{device} in each of {planned.processes} processes"
    when = "before the first step" if before else "in a step"
    title = f"Plan of {name} on a {device}{have}"
    total = [f"= total at the peak, {when}", f"{round(planned.total_bytes / 1e6):,} MB"]
    heads = ["memory", "at most"]
    table(title, heads, [*_added(parts), total], whole=True)
    others["decoding in eval, beside the weights"] = planned.decoding_bytes
    table("At other times, not in this total", heads, _added(others), whole=True)
    source, target = planned.longest_row
    say(
        f"{planned.trainable_parameters:,} of {planned.parameters:,} parameters train; longest "
        f"row: {source:,} source and {target:,} target tokens; {planned.steps:,} steps"
    )
    if planned.seconds is not None and planned.seconds_per_step is not None:
        say(f"about {_duration(planned.seconds)}, {planned.seconds_per_step:.2g} s a step")
    need = f"{sized(planned.total_bytes)}{have}"
    if planned.fits:
        say(f"it fits: {need}")
    elif planned.fits is False:
        warn(f"it does not fit: {need}")
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


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
