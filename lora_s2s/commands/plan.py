"""``plan``: memory and time of a run before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lora_s2s.commands._options import (
    BaseName,
    Data,
    Json,
    RecipeOrFolder,
    Sets,
    count_option,
)
from lora_s2s.recipe.amounts import bytes_of

if TYPE_CHECKING:
    from lora_s2s.pipeline.plan import Plan


def plan(
    recipe: RecipeOrFolder = "",
    data: Data = None,
    model: BaseName = None,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            "--gpu-memory",
            metavar="SIZE",
            help="Plan for a GPU of this size (8GB); by default for the device of this machine.",
        ),
    ] = None,
    table: Annotated[
        bool,
        typer.Option("--table", help="Show sizes of the base and common cards: what fits where."),
    ] = False,
    processes: Annotated[
        int, count_option("--processes", "Plan for N processes: each one's part.")
    ] = 1,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Show what training takes in memory and time; load no weights.

    Prints what to change so that it fits, in order of least harm, each change on top of those
    before. Lengths are those of the prepared data, or the data is prepared in a temporary folder.
    """
    size = None if gpu_memory is None else bytes_of(gpu_memory, "--gpu-memory")
    from lora_s2s.console import table as show_table
    from lora_s2s.console import write_json
    from lora_s2s.pipeline import plan as planning
    from lora_s2s.pipeline.run_input import asked_run, refuse_data

    refuse_data(recipe)
    loaded, prepared = asked_run(recipe, data or (), model, sets or (), resume=False)
    if table:
        cells = planning.table(loaded, prepared)
        if json:
            names = planning.TABLE_COLUMNS
            write_json({"table": [dict(zip(names, row, strict=True)) for row in cells]})
        else:
            show_table("Training in 16 bits with this data", planning.TABLE_COLUMNS, cells)
        return
    planned = planning.plan(loaded, prepared, gpu_memory=size, processes=processes)
    _show(planned, str(loaded.output.name))
    if json:
        write_json(planned.to_dict())


def _show(planned: Plan, name: str) -> None:
    from lora_s2s.console import say, table, warn
    from lora_s2s.machine import sized

    parts = {
        "weights": planned.weights_bytes,
        "adapter and its gradients": planned.adapter_bytes,
        "optimizer": planned.optimizer_bytes,
        "activations": planned.activations_bytes,
        "logits": planned.logits_bytes,
        "temporary": planned.temporary_bytes,
        "libraries": planned.libraries_bytes,
        "total at the peak": planned.total_bytes,
        "(check of the first batch)": planned.comparison_bytes,
        "(decoding, in eval)": planned.decoding_bytes,
    }
    rows = [[what, sized(size)] for what, size in parts.items()]
    have = "" if planned.device_bytes is None else f" of {sized(planned.device_bytes)}"
    device = "GPU" if planned.device == "cuda" else "CPU"
    if planned.processes > 1:
        device = f"{device} in each of {planned.processes} processes"
    table(f"Plan of {name} on a {device}{have}", ["memory", "at most"], rows)
    source, target = planned.longest_row
    say(
        f"{planned.trainable_parameters:,} of {planned.parameters:,} parameters train; longest "
        f"row: {source:,} source and {target:,} target tokens; {planned.steps:,} steps"
    )
    if planned.seconds is not None and planned.seconds_per_step is not None:
        say(f"about {_duration(planned.seconds)}, {planned.seconds_per_step:.2g} s a step")
    if planned.fits is False:
        warn(f"it does not fit: {sized(planned.total_bytes)}{have}")
    for one in planned.advice:
        sets = " ".join(f"--set {word}" for word in one.setting.split())
        say(f"  {sets}: {sized(one.total_bytes)}; cost: {one.cost}")
    for note in planned.notes:
        say(f"note: {note}")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
