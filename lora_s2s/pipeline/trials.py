"""The trials of a sweep are trained: each to a share of its steps, then stopped or continued from
its checkpoint. Heavy to import.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.data.prepared import PreparedDataset, open_prepared
from lora_s2s.display import MESSAGES, Silent, having, showing
from lora_s2s.errors import Error, ResourceError, RunError, Stopped
from lora_s2s.files import require_space
from lora_s2s.pipeline.study import COMPLETE, FAILED, SHARES, STOPPED, TrialRecord, Trials
from lora_s2s.pipeline.train import train_adapter
from lora_s2s.pipeline.trained import RunOptions, TrainedAdapter
from lora_s2s.recipe.load import with_overrides
from lora_s2s.recipe.schema import Recipe
from lora_s2s.recipe.space import Varied, words_of
from lora_s2s.training.state import Goal

_SMALL_FILES = 2**26


@dataclass(frozen=True)
class Setup:
    """What all trials of a sweep have in common.

    Attributes:
        data: the folder of prepared data.
        deadline: on ``time.monotonic``'s clock; no step begins after it.
        alone: no other worker shows its progress.
    """

    recipe: Recipe
    space: Sequence[Varied]
    folder: Path
    data: Path
    goal: Goal
    deadline: float | None
    alone: bool = True

    def recipe_of(self, trial: TrialRecord) -> Recipe:
        """A trial's recipe."""
        place = [f"output.dir={self.folder / 'trials'}", f"output.name={trial.number:03d}"]
        return with_overrides(self.recipe, [*words_of(trial.settings), *place])

    def adapter_of(self, trial: TrialRecord) -> Path:
        """Where the adapter of a trial that is complete is."""
        return self.folder / "trials" / f"{trial.number:03d}"

    def trials(self) -> Trials:
        """The trials so far."""
        seed = self.recipe.training.seed
        return Trials(self.folder, self.space, lower=self.goal.lower_is_better, seed=seed)

    def out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline


def run_trials(setup: Setup, unfinished: Sequence[int], may_begin: Callable[[], bool]) -> None:
    """Trains trials that were left running, then new ones while there may be more and time is left.

    Raises:
        Error: what ends the sweep: a failure of the recipe's own settings, no disk space, a signal.
    """
    trials, prepared = setup.trials(), open_prepared(setup.data, reused=True)
    for number in unfinished:
        if not _run_trial(setup, trials, trials.again(number), prepared):
            return
    while not setup.out_of_time() and may_begin():
        if not _run_trial(setup, trials, trials.next(), prepared):
            return


def _run_trial(setup: Setup, trials: Trials, trial: TrialRecord, prepared: PreparedDataset) -> bool:
    """Trains a trial until it is complete, stopped or failed; returns whether there was time."""
    say(f"trial {trial.number}: {', '.join(words_of(trial.settings)) or 'the recipe itself'}")
    try:
        return _trained_by_shares(setup, trials, trial, prepared)
    except Stopped:
        raise
    except Error as error:
        # The recipe itself may diverge, and that is what a sweep is for; else it is wrong.
        if trial.number == 0 and not isinstance(error, RunError):
            raise
        if isinstance(error, ResourceError):
            require_space(setup.folder, _SMALL_FILES)  # memory is a trial's own, a disk is not
        say(f"trial {trial.number}: failed: {error.message}")
        _remove(setup, trial)
        trials.end(trial.number, FAILED, error.message)
    return True


def _trained_by_shares(
    setup: Setup, trials: Trials, trial: TrialRecord, prepared: PreparedDataset
) -> bool:
    recipe, number = setup.recipe_of(trial), trial.number
    for place, share in enumerate(SHARES):
        if place >= len(trial.scores):  # else it was reached before the sweep was killed
            began, about_the_recipe = time.monotonic(), number == 0 and place == 0
            how = RunOptions(resume=True, resume_anyway=True, deadline=setup.deadline, share=share)
            with nullcontext() if about_the_recipe else _quiet(setup):
                run = train_adapter(recipe, prepared=prepared, options=how)
            seconds = time.monotonic() - began
            if run.stopped == "deadline":
                trials.spent(number, seconds)
                return False
            score = _score_of(run, setup.goal)
            trials.report(number, score, seconds)
            say(f"trial {number}: {setup.goal.score} {score:.4f} after {share:.0%} of the steps")
        if share < 1 and not trials.goes_on(number):
            say(f"trial {number}: stopped, others are better")
            _remove(setup, trial)
            trials.end(number, STOPPED)
            return True
    trials.end(number, COMPLETE)
    return True


def _score_of(run: TrainedAdapter, goal: Goal) -> float:
    """The best score so far, that of the adapter which would be kept."""
    if run.kept_score is None or run.kept_by != goal.score:
        raise RunError(f"no {goal.score} was measured")
    return run.kept_score


def _remove(setup: Setup, trial: TrialRecord) -> None:
    """Removes the checkpoints of a trial that is not continued."""
    adapter = setup.adapter_of(trial)
    shutil.rmtree(adapter.with_name(f"{adapter.name}.running"), ignore_errors=True)


def _quiet(setup: Setup) -> AbstractContextManager[None]:
    """All trials say the same, and several workers' progress lines would mix."""
    return having(MESSAGES, False) if setup.alone else showing(Silent())
