"""The trials of a sweep: optuna's study, in a journal that several workers share and that a killed
sweep continues. Heavy to import.

The journal is a file of JSON lines: of optuna's storages, the one that neither unpickles nor needs
a server.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from lora_s2s.errors import DataError, extra
from lora_s2s.recipe.space import Setting, Varied, combinations

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

JOURNAL = "journal.jsonl"
# Shares of a run's steps after which a trial is scored, and one in so many goes on.
SHARES = (1 / 9, 1 / 3, 1.0)
_ONE_IN = 3
_RANDOM_AT_FIRST = 5
_FEWEST_FOR_IMPORTANCE, _BEST_SHARE = 6, 0.25
_SECONDS, _PROBLEM = "seconds", "problem"
COMPLETE, STOPPED, FAILED, RUNNING = "complete", "stopped", "failed", "running"


def library() -> ModuleType:
    """Returns the module ``optuna``.

    Raises:
        SetupError: it is not installed.
    """
    with extra("sweep"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    module: ModuleType = optuna
    return module


@dataclass(frozen=True)
class TrialRecord:
    """What is known of a trial.

    Attributes:
        settings: what it was given of the varied keys; the first trial has the recipe's own values.
        scores: after each share of its steps that it has reached.
        state: ``complete``, ``stopped`` (others were better), ``failed`` or ``running``.
        problem: why it failed.
    """

    number: int
    settings: Mapping[str, Setting]
    scores: tuple[float, ...]
    state: str
    seconds: float
    problem: str


class Trials:
    """A sweep's trials.

    Args:
        folder: where the journal is, or is made.
        lower: whether lower scores are better.
        seed: of what is tried; each trial draws from it and its own number, so that a sweep that
            was killed goes on as it would have.

    Raises:
        DataError: the journal is damaged.
        SetupError: optuna is not installed.
    """

    def __init__(self, folder: Path, space: Sequence[Varied], *, lower: bool, seed: int) -> None:
        self.lower, self._space, self._seed = lower, space, seed
        self._study = _opened(folder / JOURNAL, lower=lower)

    def begin(self) -> None:
        """Makes the first trial, of the recipe's own values, and the combinations of a space that
        has an end.
        """
        if self._study.get_trials(deepcopy=False):
            return
        self._study.enqueue_trial({})
        every = combinations(self._space)
        for settings in random.Random(self._seed).sample(every, len(every)) if every else ():
            self._study.enqueue_trial(dict(settings))

    def count(self) -> int:
        """How many trials have begun."""
        return len(self._frozen())

    def most(self) -> int | None:
        """How many trials there can be; None without an end."""
        every = combinations(self._space)
        return None if every is None else len(every) + 1

    def unfinished(self) -> list[int]:
        """Trials that a sweep which ended, or was killed, left running."""
        return [one.number for one in self.records() if one.state == RUNNING]

    def records(self) -> list[TrialRecord]:
        """All trials that have begun, in order."""
        return [_record(trial, self._space) for trial in self._frozen()]

    def next(self) -> TrialRecord:
        """Begins a trial."""
        return self._given(self._study.ask())

    def again(self, number: int) -> TrialRecord:
        """Takes up a trial that was left running."""
        return self._given(self._trial(number))

    def report(self, number: int, score: float, seconds: float) -> None:
        """Records a trial's score after the next share of its steps."""
        trial = self._trial(number)
        self.spent(number, seconds)
        trial.report(score, len(_scores(self._one(number))))

    def spent(self, number: int, seconds: float) -> None:
        """Adds to the time that a trial has taken."""
        before = float(self._one(number).user_attrs.get(_SECONDS, 0.0))
        self._trial(number).set_user_attr(_SECONDS, round(before + seconds, 1))

    def goes_on(self, number: int) -> bool:
        """Whether a trial is among the best third of those that were scored after the same share.

        A function of the scores alone: optuna's own SuccessiveHalvingPruner also writes what it
        decides from, so that a sweep killed between the two would decide otherwise.
        """
        mine = _scores(self._one(number))
        share = len(mine) - 1
        scored = [_scores(one)[share] for one in self._frozen() if len(_scores(one)) > share]
        better = [score for score in scored if self._is_better(score, mine[share])]
        return len(better) < max(1, len(scored) // _ONE_IN)

    def end(self, number: int, state: str, problem: str = "") -> None:
        """Ends a trial."""
        states = library().trial.TrialState
        if problem:
            self._trial(number).set_user_attr(_PROBLEM, problem)
        if state == COMPLETE:
            self._study.tell(number, _scores(self._one(number))[-1])
        else:
            self._study.tell(number, state=states.PRUNED if state == STOPPED else states.FAIL)

    def best(self) -> TrialRecord | None:
        """The trial that got farthest with the best score; None if none was scored."""
        sign = 1 if self.lower else -1
        scored = [one for one in self.records() if one.scores and one.state != FAILED]
        ranked = sorted(scored, key=lambda one: (-len(one.scores), sign * one.scores[-1]))
        return ranked[0] if ranked else None

    def importance(self) -> dict[str, float]:
        """How much each key decides which trials are the best quarter (PED-ANOVA), by the scores
        after the first share of steps, which all trials have; empty if there are too few, or one
        key.
        """
        optuna = library()
        scored = [one for one in self._frozen() if _scores(one) and one.params]
        if len(self._space) < 2 or len(scored) < _FEWEST_FOR_IMPORTANCE:
            return {}
        study = optuna.create_study(direction=_direction(self.lower))
        for one in scored:
            given = {"params": one.params, "distributions": one.distributions}
            study.add_trial(optuna.trial.create_trial(**given, value=_scores(one)[0]))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_BEST_SHARE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
        return {key: round(float(share), 3) for key, share in shares.items()}

    def _is_better(self, score: float, than: float) -> bool:
        return score < than if self.lower else score > than

    def _frozen(self) -> list[FrozenTrial]:
        waiting = library().trial.TrialState.WAITING
        trials: list[FrozenTrial] = self._study.get_trials(deepcopy=False)
        return [one for one in trials if one.state != waiting]

    def _one(self, number: int) -> FrozenTrial:
        return next(one for one in self._frozen() if one.number == number)

    def _trial(self, number: int) -> Trial:
        return library().trial.Trial(self._study, self._one(number)._trial_id)

    def _given(self, trial: Trial) -> TrialRecord:
        """Draws a trial's settings, or reads those that it has."""
        if trial.number:
            seed = (self._seed * 1_000_003 + trial.number) % 2**32
            # Each key by itself: the first trial has none, so that no key is in every trial.
            self._study.sampler = library().samplers.TPESampler(
                n_startup_trials=_RANDOM_AT_FIRST, multivariate=False, seed=seed
            )
            for one in self._space:
                _suggested(trial, one)
        return _record(self._one(trial.number), self._space)


def _opened(path: Path, *, lower: bool) -> Study:
    optuna = library()
    with _explained(path):
        # optuna's lock is a link to this path: if that is relative, it leads nowhere, and optuna
        # waits forever for a worker that was killed with the lock.
        backend = optuna.storages.journal.JournalFileBackend(str(path.resolve()))
        storage = optuna.storages.JournalStorage(backend)
        study: Study = optuna.create_study(
            storage=storage, study_name="sweep", direction=_direction(lower), load_if_exists=True
        )
        study.get_trials(deepcopy=False)
    return study


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Explains what optuna says of a file that is no journal."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise DataError(
            "the journal of trials is damaged", hint="sweep into another --out", where=str(path)
        ) from error


def mend_journal(folder: Path) -> None:
    """Removes what a process that was killed may have left: its lock, and a last line without an
    end, after which optuna would read nothing. The caller holds the sweep's own lock.
    """
    path = folder / JOURNAL
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if not path.is_file():
        return
    with path.open("rb+") as stream:
        content = stream.read()
        if not content.endswith(b"\n"):
            stream.truncate(content.rfind(b"\n") + 1)


def _direction(lower: bool) -> str:
    return "minimize" if lower else "maximize"


def _suggested(trial: Trial, one: Varied) -> Setting:
    if one.choices:
        return str(trial.suggest_categorical(one.key, one.choices))
    if one.whole:
        return int(trial.suggest_int(one.key, round(one.low), round(one.high), log=one.log))
    return one.fitted(trial.suggest_float(one.key, one.low, one.high, log=one.log))


def _scores(trial: FrozenTrial) -> list[float]:
    return [score for _, score in sorted(trial.intermediate_values.items())]


def _record(trial: FrozenTrial, space: Sequence[Varied]) -> TrialRecord:
    settings = {
        one.key: trial.params[one.key] if one.choices else one.fitted(trial.params[one.key])
        for one in space
        if one.key in trial.params
    }
    states = {"COMPLETE": COMPLETE, "PRUNED": STOPPED, "FAIL": FAILED}
    return TrialRecord(
        number=trial.number,
        settings=settings,
        scores=tuple(_scores(trial)),
        state=states.get(trial.state.name, RUNNING),
        seconds=float(trial.user_attrs.get(_SECONDS, 0.0)),
        problem=str(trial.user_attrs.get(_PROBLEM, "")),
    )
