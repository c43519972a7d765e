"""Tries settings of a recipe on its validation data and keeps the best as a recipe. Heavy to
import.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.errors import RunError, Stopped, UsageError, again
from lora_s2s.outputs import check_writable
from lora_s2s.pipeline.plan import check_device
from lora_s2s.pipeline.prepare import prepare_data
from lora_s2s.pipeline.study import TrialRecord, library
from lora_s2s.pipeline.sweep_folder import check_folder
from lora_s2s.pipeline.sweep_options import SweepOptions
from lora_s2s.pipeline.swept import Sweep, swept
from lora_s2s.pipeline.trials import Setup
from lora_s2s.pipeline.watched import goal_of
from lora_s2s.pipeline.workers import run_all
from lora_s2s.recipe.schema import Recipe
from lora_s2s.training.run_lock import run_lock

_FOLDER = Path("sweeps")


def run_sweep(recipe: Recipe, prepared: PreparedDataset | None, options: SweepOptions) -> Sweep:
    """Trains trials of a recipe, continuing those of a sweep that was stopped or killed, and writes
    ``best.yaml`` and ``report.html`` into the sweep's folder.

    Raises:
        UsageError: a key, a range or an option is wrong, there is no validation data, or the folder
            holds another sweep.
        RunError: time was up before a trial was scored, or all have failed.
        Stopped: by a signal; a checkpoint was saved.
    """
    space = options.space(recipe)
    library()
    goal, folder = goal_of(recipe), options.out or _FOLDER / str(recipe.output.name)
    check_writable(folder)
    check_device(recipe)
    with run_lock(folder, work="sweeping in", hint="sweep into another --out"):
        prepared = prepared or prepare_data(recipe)
        _check_validation(prepared)
        check_folder(folder, recipe, prepared, space, goal.score)
        setup = Setup(recipe, space, folder, prepared.path, goal, deadline=None)
        return _swept(setup, options)


def _swept(setup: Setup, options: SweepOptions) -> Sweep:
    trials = setup.trials()
    trials.begin()
    ends = [count for count in (options.trials, trials.most()) if count is not None]
    most = min(ends) if ends else None
    if options.budget is not None:
        spent = sum(one.seconds for one in trials.records()) / options.workers
        setup = replace(setup, deadline=time.monotonic() + options.budget - spent)
    try:
        run_all(setup, most=most, workers=options.workers)
    except Stopped as stopped:
        stopped.hint = f"continue: {again('')}"
        raise
    trials = setup.trials()
    best = trials.best()
    if best is None:
        raise _nothing(trials.records())
    if trials.unfinished() or (setup.out_of_time() and trials.count() != most):
        say("time is up: the same command with a larger --budget continues")
    return swept(setup, trials, best)


def _check_validation(prepared: PreparedDataset) -> None:
    if not prepared.split("validation"):
        raise UsageError(
            "a sweep decides by validation data, and there is none",
            hint="set data.validation_fraction=0.05, or name a file: data.validation=FILE",
        )


def _nothing(trials: Sequence[TrialRecord]) -> RunError:
    """Why no trial has a score."""
    problems = [one.problem for one in trials if one.problem]
    if problems:
        return RunError(
            f"all {len(problems)} trials failed, the last one: {problems[-1]}",
            hint="train the recipe alone first: lora-s2s train RECIPE",
        )
    return RunError(
        "time was up before a trial was scored",
        hint="the same command with a larger --budget continues",
    )
