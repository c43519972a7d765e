"""``plan``: memory and time of a run before anything is loaded."""

from __future__ import annotations

from typing import Annotated

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


def plan(
    recipe: RecipeOrFolder = "",
    data: Data = None,
    model: BaseName = None,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Plan for a GPU of this size (8GB); by default for the device of this machine.",
        ),
    ] = None,
    table: Annotated[
        bool,
        typer.Option("--table", help="Show sizes of the base and common cards: what fits where."),
    ] = False,
    processes: Annotated[int, count_option(help="Plan for N processes: each one's part.")] = 1,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Show what training takes in memory and time; load no weights.

    Prints what to change so that it fits, in order of least harm, each change on top of those
    before. Lengths are those of the prepared data, or the data is prepared in a temporary folder.
    """
    size = None if gpu_memory is None else bytes_of(gpu_memory, "--gpu-memory")
    from lora_s2s.pipeline.run_input import asked_run

    loaded, prepared = asked_run(recipe, data, model, sets, command="plan")
    from lora_s2s.commands._plan import show_plan, show_table
    from lora_s2s.console import write_json
    from lora_s2s.pipeline import plan as planning

    if table:
        cells = planning.table(loaded, prepared)
        if json:
            names = planning.TABLE_COLUMNS
            write_json({"table": [dict(zip(names, row, strict=True)) for row in cells]})
        else:
            show_table(cells)
        return
    planned = planning.plan(loaded, prepared, gpu_memory=size, processes=processes)
    show_plan(planned, str(loaded.output.name))
    if json:
        write_json(planned.to_dict())
