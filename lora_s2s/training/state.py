"""A run's counters, what it is made of, and its result. Batches, learning rates and random numbers
follow from the step. Light to import.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_s2s.documents import Amount, Count, Number
from lora_s2s.errors import UsageError, again
from lora_s2s.recipe.fields import ALTERNATIVES
from lora_s2s.recipe.schema import TrainingSettings

VALIDATION_LOSS = "validation_loss"
"""The score that every evaluation has."""
LEAST_GAIN = 0.0001  # of a score, as shown; less counts as none for early stopping
# Of whole right answers, a geometric mean: hardly two of 1,000 can be wrong, so a run ends.
ALL_RIGHT = 0.998

# These settings affect what is kept and shown, not what is trained.
_IGNORED = {
    f"training.{key}"
    for key in "save_every keep_checkpoints evaluate_every early_stopping best_metric "
    "scored_sources trackers on_nonfinite".split()
}
# At these values a run is as those before the setting existed, whose checkpoints do not record it.
_WITHOUT = {"training.ema": "0.0", "training.sharding": "none"}
# Changes to these affect the rest of the training, but the checkpoint still fits: --resume-anyway
# accepts them.
_ACCEPTABLE = {"package code", "torch", "forward", "training data"} | {
    f"training.{key}"
    for key in "epochs max_steps learning_rate schedule warmup weight_decay max_grad_norm "
    "label_smoothing dropout z_loss gradient_checkpointing".split()
}
# With another device or number of processes the run continues, with a warning.
_WARNED_OF = {
    "device": ("on another device", ""),
    "training.sharding": ("with another training.sharding", ""),
    "processes": ("by another number of processes", ", and what dropout draws"),
}


@dataclass(frozen=True)
class Goal:
    """What the best checkpoint is chosen by: one of the scores of an evaluation."""

    score: str = VALIDATION_LOSS
    lower_is_better: bool = True

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether a score is a gain; an equal one is none, nor is one that is not a number."""
        if best is None or not math.isfinite(value):
            return math.isfinite(value)
        return value < best if self.lower_is_better else value > best


@dataclass(frozen=True)
class LoopOptions:
    """How the training loop starts and when it must end.

    Attributes:
        resume: continue from the newest valid checkpoint, or start anew if there is none.
        resume_anyway: continue despite differences that leave the checkpoint usable.
        deadline: on ``time.monotonic``'s clock. After it a checkpoint is saved and the result's
            ``stopped`` is "deadline". At least one step is taken, so that a run that is resumed
            again and again comes to its end.
        begun: when the command began, on the same clock; the time to the first step is reported.
        identity: what the run is made of (hashes of base and data, adapter settings), compared on
            resume.
        goal: what the best adapter is chosen by.
        share: the run is evaluated, saved and left after this share of its steps; its schedule is
            that of all of them.
    """

    resume: bool = False
    resume_anyway: bool = False
    deadline: float | None = None
    begun: float | None = None
    identity: Mapping[str, str] = field(default_factory=dict)
    goal: Goal = Goal()
    share: float = 1.0


@dataclass(frozen=True)
class StepStats:
    """One optimizer step over all processes: mean loss in nats per target token, gradient norm
    before clipping, tokens without padding.

    If the loss or the norm is not finite, the step changed nothing.
    """

    loss: float
    learning_rate: float
    grad_norm: float
    target_tokens: int
    source_tokens: int

    @property
    def tokens(self) -> int:
        """Source and target tokens without padding."""
        return self.source_tokens + self.target_tokens

    @property
    def finite(self) -> bool:
        """Whether loss and gradients are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def _threads_now() -> int:
    from torch import get_num_threads  # heavy, and settings are compared before it loads

    return get_num_threads()


@dataclass
class TrainState:
    """Counters of a run, stored in a checkpoint's ``state.json``.

    ``step`` optimizer steps are done; the next one is number ``position`` (from 0) of epoch
    ``epoch`` (from 0). ``epoch_loss_sum / epoch_target_tokens`` is the mean loss of the last
    epoch. ``seconds`` is time spent training, without evaluations and checkpoints.
    ``best_score`` is that of ``best_step`` by the goal ``best_by``, and
    ``best_validation_loss`` the loss of the same step.
    ``skipped`` steps changed nothing, as their loss or gradients were not finite. ``forward`` names
    the forward pass in use, and ``threads`` those that a CPU computes on.
    """

    step: Count = 0
    epoch: Count = 0
    position: Count = 0
    tokens: Count = 0
    seconds: Amount = 0.0
    epoch_loss_sum: Amount = 0.0
    epoch_target_tokens: Count = 0
    evaluated_step: Count = 0
    validation_loss: Amount | None = None
    best_step: Count | None = None
    best_validation_loss: Amount | None = None
    best_by: str = VALIDATION_LOSS
    best_score: Number | None = None
    evaluations_without_gain: Count = 0
    metrics_lines: Count = 0
    peak_memory_bytes: Count = 0
    skipped: Count = 0
    skipped_in_a_row: Count = 0
    forward: str | None = None
    threads: Count = field(default_factory=_threads_now)

    def advance(
        self, stats: StepStats, seconds: float, memory_bytes: int, *, steps_in_epoch: int
    ) -> None:
        """Counts one optimizer step."""
        if stats.finite:
            if self.position == 0:
                self.epoch_loss_sum, self.epoch_target_tokens = 0.0, 0
            self.epoch_loss_sum += stats.loss * stats.target_tokens
            self.epoch_target_tokens += stats.target_tokens
        self.skipped += not stats.finite
        self.skipped_in_a_row = 0 if stats.finite else self.skipped_in_a_row + 1
        self.tokens += stats.tokens
        self.seconds += seconds
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory_bytes)
        self.step += 1
        self.position += 1
        if self.position >= steps_in_epoch:
            self.epoch, self.position = self.epoch + 1, 0

    def remember(self, scores: Mapping[str, float], goal: Goal) -> None:
        """Counts an evaluation of the current step and keeps the best by the goal, which may be
        another than before.
        """
        self.evaluated_step, self.validation_loss = self.step, scores[VALIDATION_LOSS]
        if self.best_by != goal.score:
            self.best_by, self.best_score = goal.score, None
        score, before = scores[goal.score], self.best_score
        better = goal.is_better(score, before)
        if better:
            self.best_step, self.best_score = self.step, score
            self.best_validation_loss = self.validation_loss
        gained = better and (before is None or abs(score - before) >= LEAST_GAIN)
        self.evaluations_without_gain = 0 if gained else self.evaluations_without_gain + 1


@dataclass(frozen=True)
class TrainResult:
    """What a finished run reports.

    ``train_loss`` is the token-weighted mean over the last epoch, ``validation_loss`` that of the
    adapter kept (None without validation), both in nats per target token. ``tokens`` are
    without padding; ``tokens_per_second`` counts training time only. ``resumed_from`` is a step
    or None, ``stopped`` is ``"early_stopping"``, None, or where the run is not done ``"deadline"``
    or ``"share"``, ``kept`` is ``"best"`` or ``"last"`` and ``kept_step`` the step it comes from:
    the best by ``kept_by``, whose value is ``kept_score``. ``skipped``: see :class:`TrainState`.
    """

    steps: int
    epochs: float
    train_loss: float
    validation_loss: float | None
    tokens: int
    tokens_per_second: float
    peak_memory_bytes: int
    resumed_from: int | None
    stopped: str | None
    kept: str
    kept_step: int
    skipped: int = 0
    kept_by: str = VALIDATION_LOSS
    kept_score: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether no step is left, and the adapter is the run's result."""
        return self.stopped not in ("deadline", "share")


def run_identity(given: Mapping[str, str], settings: TrainingSettings) -> dict[str, str]:
    """Returns what must not change for a run to continue: the caller's hashes and every setting
    that affects a step, by the name of what the user chose: ``max_steps`` or else ``epochs``.
    """
    unused = _IGNORED | {"training.epochs"} if settings.max_steps else _IGNORED
    compared = {
        key: value
        for key, value in settings.by_key("training").items()
        if key not in unused and value != _WITHOUT.get(key, "None")
    }
    return {**given, **compared}


def check_same_run(
    checkpoint: Path, then: Mapping[str, str], now: Mapping[str, str], *, anyway: bool
) -> list[str]:
    """Returns warnings of the differences with which a run continues.

    Args:
        then: the identity in the checkpoint.
        anyway: continue also with differences that leave the checkpoint usable.

    Raises:
        UsageError: there are others.
    """
    differing = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
    if _WARNED_OF.keys() >= {*differing}:
        return [
            f"the checkpoint was made {how}: {then[key]}; now {now.get(key, 'none')}"
            f": the last digits differ{also}"
            for key, (how, also) in _WARNED_OF.items()
            if key in differing and key in then  # older checkpoints do not record it
        ]
    lines = [
        f"  {key}: checkpoint {_value(then, key)}, now {_value(now, key)}"
        for key in differing
        if key in now or ALTERNATIVES.get(key) not in now
    ]
    acceptable = (_ACCEPTABLE | _WARNED_OF.keys()).issuperset(differing)
    if acceptable and anyway:
        listed = ";".join(lines)
        return [f"continuing despite these differences, so not bit-identical:{listed}"]
    hint = "undo the change to continue, or start a new run with --set output.name=NAME"
    if acceptable:
        hint += f"; continue anyway: {again('--resume-anyway')}"
    message = f"{checkpoint.name} belongs to another run; these differ:"
    raise UsageError("\n".join([message, *lines]), hint=hint, where=str(checkpoint))


def _value(identity: Mapping[str, str], key: str) -> str:
    """A value to show, with its key where that is the alternative."""
    other = ALTERNATIVES.get(key, "")
    if key not in identity and other in identity:
        return f"{other}={identity[other]}"
    return identity.get(key, "nothing")[:40]  # the first digits of a hash suffice
