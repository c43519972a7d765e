"""``sweep``: try settings, keep the best as a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_s2s.commands import _complete
from lora_s2s.commands._options import (
    BaseName,
    Data,
    Json,
    RecipeOrFolder,
    Sets,
    count_option,
    seconds_of,
)
from lora_s2s.console import say, table, write_json
from lora_s2s.errors import quoted

if TYPE_CHECKING:
    from lora_s2s.pipeline.swept import Sweep

Vary = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUES",
        help="Key of the recipe to vary, over a range (training.learning_rate=1e-4:3e-3:log) or "
        "values (lora.r=8,16,32); repeatable.",
        autocompletion=_complete.settings,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Train for TIME (3h, 30m, 45s) in all. The same command with more continues.",
    ),
]
TrialCount = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Number of trials, the recipe itself included."),
]
Workers = Annotated[int, count_option(help="Train N trials at a time, one for each GPU.")]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the sweep; sweeps/NAME by default."),
]


def sweep(
    recipe: RecipeOrFolder = "",
    vary: Vary = None,
    budget: Budget = None,
    trials: TrialCount = None,
    workers: Workers = 1,
    out: Out = None,
    data: Data = None,
    model: BaseName = None,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Try settings of a recipe; keep the best as a recipe.

    Trial 0 is the recipe itself. All trials have the same seed and order of data. Each is scored
    on the validation data after a ninth and a third of its steps, and stopped there unless it is
    among the best third so far. The same command continues a sweep that was stopped or killed.

    Writes best.yaml, report.html and the adapters of complete trials to sweeps/NAME. Needs
    pip install 'lora-s2s[sweep]'.
    """
    seconds = None if budget is None else seconds_of(budget)
    from lora_s2s.pipeline.run_input import asked_run

    loaded, prepared = asked_run(recipe, data, model, sets, command="sweep")
    from lora_s2s.pipeline.sweep_options import SweepOptions

    options = SweepOptions(vary or (), trials, seconds, workers, out)
    options.space(loaded)
    from lora_s2s.pipeline.sweep import run_sweep

    result = run_sweep(loaded, prepared, options)
    _show(result)
    if json:
        write_json(result.to_dict())


def _show(result: Sweep) -> None:
    from lora_s2s.reports.sweep_page import best_line, sweep_cells, sweep_heads

    content = result.to_dict()
    trials = content["trials"]
    table(f"Trials, by {result.metric}", sweep_heads(trials), sweep_cells(trials))
    if result.importance:
        shares = (f"{key} {share:.2f}" for key, share in result.importance.items())
        say(f"importance: {', '.join(shares)}")
    say(best_line(content))
    say(f"report: {result.report}")
    if result.best.adapter is not None:
        say(f"on test data: lora-s2s eval {quoted(result.best.adapter)} --baseline")
    say(f"next: lora-s2s train {quoted(result.recipe)}")
