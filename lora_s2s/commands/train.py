"""``train``: train an adapter by a recipe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_s2s.commands import _complete
from lora_s2s.commands._options import BaseName, Data, Json, Sets, count_option, seconds_of
from lora_s2s.console import say, table, warn, write_json, write_out
from lora_s2s.errors import Stopped, again, quoted

Processes = Annotated[
    int,
    count_option(
        help="Train in N processes on this machine, one for each GPU. They share the rows of each "
        "step, so that the result is that of one process.",
    ),
]
StopAfter = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Stop after TIME (3h, 90m, 45s), save a checkpoint and exit with code 1. Continue "
        "with --resume.",
    ),
]

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an adapter or run of this name.")
]
NoMemoryCheck = Annotated[
    bool, typer.Option("--no-memory-check", help="Start although it cannot fit by plan.")
]

if TYPE_CHECKING:
    from lora_s2s.data_report import TokenCounts
    from lora_s2s.pipeline.dry_run import DryRun
    from lora_s2s.pipeline.trained import TrainedAdapter
    from lora_s2s.recipe.schema import Recipe


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="[RECIPE|FILE|FOLDER]",
            help="YAML file, name of a shipped recipe, data file, or folder of prepared data.",
            autocompletion=_complete.runs,
        ),
    ] = "",
    data: Data = None,
    model: BaseName = None,
    sets: Sets = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an unfinished run of this name.")
    ] = False,
    resume_anyway: Annotated[
        bool,
        typer.Option(
            "--resume-anyway",
            help="Resume although code, data (same row count), learning rate or schedule changed. "
            "The result is not bit-identical.",
        ),
    ] = False,
    stop_after: StopAfter = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the resolved recipe, rows, steps and parameters; train nothing."
        ),
    ] = False,
    overwrite: Overwrite = False,
    processes: Processes = 1,
    no_memory_check: NoMemoryCheck = False,
    json: Json = False,
    context: typer.Context = None,  # type: ignore[assignment]
) -> None:
    """Train an adapter; prepare the data first if needed.

    Give a recipe, a data file, a folder that prepare wrote, or only --data and --model. The recipe
    of a data file is written first, as by init --yes; one that you edited, or that init wrote, is
    used as it is; of another, what you gave with --set is kept.

    Writes the adapter to adapters/NAME. Data paths are relative to the current folder. Ctrl-C (exit
    code 130), SIGTERM and SIGHUP (143) save a checkpoint first; a second signal stops at once.
    """
    begun = time.monotonic()
    deadline = None if stop_after is None else begun + seconds_of(stop_after)
    from lora_s2s.pipeline.run_input import asked_run, is_data, starter_of
    from lora_s2s.pipeline.trained import RunOptions

    options = RunOptions(
        resume or resume_anyway,
        resume_anyway,
        deadline,
        begun,
        overwrite=overwrite,
        check_memory=not no_memory_check,
    )
    if processes > 1:
        from lora_s2s.pipeline.launch import in_processes

        if not is_data(recipe):  # what is wrong with a command line is shown once
            asked_run(recipe, data, model, sets, options=options)
        raise typer.Exit(in_processes(processes, context.obj))
    loaded, prepared = asked_run(recipe, data, model, sets, options=options, dry_run=dry_run)
    from lora_s2s.pipeline import dry_run as dry
    from lora_s2s.pipeline.train import train_adapter

    if dry_run:
        _show_dry_run(dry.dry_run(loaded, prepared), context.obj, json=json)
        return
    result = train_adapter(loaded, prepared=prepared, options=options)
    if json:
        write_json(result.to_dict())
    if result.stopped == "deadline":
        done = f"stopped after step {result.steps:,} and saved a checkpoint"
        raise Stopped(f"--stop-after {stop_after}: {done}")
    written = starter_of(recipe, sets) if prepared is None and is_data(recipe) else None
    _show_result(result, written, loaded)


def _show_result(result: TrainedAdapter, written: Path | None, recipe: Recipe) -> None:
    """Shows what came out, and how to go on.

    Args:
        written: the recipe of the data file that was named in place of one.
    """
    losses = {"train loss": result.train_loss, "validation loss": result.validation_loss}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if value is not None)
    if result.kept_by != "validation_loss" and result.kept_score is not None:
        shown += f", {result.kept_by} {result.kept_score:.2f}"
    if result.kept_step != result.steps:
        shown += f" (weights of step {result.kept_step:,})"
    rate = f"{result.tokens_per_second:,.0f} tokens/s"
    say(f"{result.steps:,} steps, {shown}, {rate}: {result.adapter}")
    folder = Path(str(result.adapter))
    data, steps = recipe.data, recipe.training.max_steps
    for advice in result.advice:
        warn(advice["message"])
        if written and steps and advice["setting"].startswith("training.max_steps="):
            continue  # the whole run is named below
        command = f"lora-s2s train {quoted(folder / 'recipe.yaml')} --set {advice['setting']}"
        say(f"try: {command} --set output.name={folder.name}-2")
    if written and data.target_column:
        columns = f"'{data.target_column}' from '{data.source_column or data.template}'"
        say(f"learned: {columns}; why, and what else was chosen: {written}")
    say(f"report: {folder / 'report.html'}")
    say(f"next: lora-s2s eval {quoted(folder)} --baseline")
    if written and result.steps == steps:
        whole = again("--overwrite", "training.max_steps=null")
        say(f"for the whole run, without training.max_steps={steps}: {whole}")


def _show_dry_run(planned: DryRun, given: Sequence[str], *, json: bool) -> None:
    from lora_s2s.pipeline.prepare import counts
    from lora_s2s.recipe.load import recipe_to_yaml

    report, counted, training = planned.report, planned.counted, planned.recipe.training
    facts = {
        "data": counts(report),
        "source tokens": _quantiles(report["source_tokens"]),
        "target tokens": _quantiles(report["target_tokens"]),
        "micro-batches": f"{counted['batching']}, × {training.gradient_accumulation} per step",
        "optimizer": f"{training.optimizer}, {training.schedule}, {training.learning_rate:g}",
        "steps": f"{counted['steps']:,} in {counted['epochs']:.2f} epochs",
        "tokens": f"{counted['tokens']:,}",
        "trainable parameters": f"{counted['trainable_parameters']:,} of "
        f"{counted['total_parameters']:,}",
    }
    rows = [list(fact) for fact in facts.items()]
    table(f"Dry run: {planned.recipe.output.name}", ["what", "value"], rows)
    text = recipe_to_yaml(planned.recipe).rstrip("\n")
    write_json(planned.to_dict()) if json else write_out(text)
    words = [quoted(word) for word in given if word != "--dry-run"]
    say(f"next: lora-s2s {' '.join(words)}")


def _quantiles(tokens: TokenCounts) -> str:
    return "  ".join(f"{key} {value:,}" for key, value in tokens.items())
