"""Advice from the loss curves of a finished run: what to change, if anything.

All thresholds are in this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from lora_s2s.training.state import LEAST_GAIN

# Losses are in nats per target token, averaged over fifths of the run so that single steps do not
# matter.
_PARTS = 5
_FEWEST_STEPS = 20  # a shorter curve is too noisy
_LOW_LOSS = 0.05  # below this loss there is no advice to train longer
_NO_PROGRESS = 0.97  # last part above this share of the start: the loss did not fall
_REBOUND = (
    1.1  # a part above the start, or the last above the lowest, by this factor: rate too high
)
_PLATEAU = 0.95  # fourth part above this share of the second: the loss stagnated
_FALLING = 0.9  # last part below this share of the one before: still falling
_VALIDATION_FALLING = 0.95  # the same for the validation loss
# The last validation loss exceeds the best by this factor and this much more: overfitting.
_OVERFIT = (1.05, 0.02)
_VALIDATIONS_SINCE_BEST = 2  # overfitting needs at least this many validations after the best
PATIENCE = 3  # validations in a row without a gain, after which a run stands still,
_WORTH_ENDING = 2 / 3  # up to this share of its steps
_CERTAIN = 0.97  # geometric mean of the probabilities of whole right answers
_FEW_STEPS = 300  # fewer are not enough, unless there are fewer rows


@dataclass(frozen=True)
class Curves:
    """A run's losses: one per step, and one per validation with its step."""

    losses: Sequence[float]
    validations: Sequence[tuple[int, float]]

    @classmethod
    def of_lines(cls, lines: Iterable[Mapping[str, Any]]) -> Curves:
        """Reads the objects of ``metrics.jsonl``."""
        kept = list(lines)
        losses = [float(line["loss"]) for line in kept if "loss" in line]
        return cls(
            losses,
            [(int(x["step"]), float(x["validation_loss"])) for x in kept if "validation_loss" in x],
        )

    def start(self) -> float:
        """Mean loss of the first fiftieth of the run, at least three steps."""
        first = self.losses[: max(3, len(self.losses) // 50)]
        return sum(first) / len(first)

    def best(self, margin: float = 0.0) -> int:
        """The first validation within a margin of the lowest loss, by its place; 0 if there is
        none.
        """
        losses = [loss for _, loss in self.validations]
        most = min(losses, default=0.0) + margin
        return next((place for place, loss in enumerate(losses) if loss <= most), 0)

    def parts(self) -> list[float]:
        """Mean loss of each fifth of the run."""
        size = len(self.losses) / _PARTS
        cuts = [round(place * size) for place in range(_PARTS + 1)]
        pieces = [self.losses[start:stop] for start, stop in pairwise(cuts)]
        return [sum(piece) / len(piece) for piece in pieces]


def stands_still(without_gain: int, share: float) -> bool:
    """Whether a run may end by the last validations: so many in a row without a gain, at this share
    of its steps. A falling learning rate may still bring one.
    """
    return without_gain >= PATIENCE and share <= _WORTH_ENDING


def has_learned(probability: float, share: float) -> bool:
    """Whether a run may end by the mean probability of a whole right answer, at this share of its
    steps.
    """
    return probability >= _CERTAIN and share <= _WORTH_ENDING


@dataclass(frozen=True)
class Advice:
    """``kind`` for programs, ``message`` for people, ``setting`` as SECTION.KEY=VALUE to try."""

    kind: str
    message: str
    setting: str

    def to_json(self) -> dict[str, str]:
        """Returns the entry of ``train --json``."""
        return asdict(self)


def advise(
    curves: Curves, *, rows: int, learning_rate: float, early_stopping: int = 0
) -> list[Advice]:
    """Returns the advice on a run, the most important first.

    Args:
        curves: the run's losses.
        rows: number of training rows.
        learning_rate: the peak.
        early_stopping: the setting of the run.
    """
    still = [] if early_stopping else _stood_still(curves)
    steps = len(curves.losses)
    if steps < _FEWEST_STEPS:
        return [_too_few(steps, rows)] if steps < rows else []
    parts = curves.parts()
    if parts[-1] < _LOW_LOSS:
        return _overfits(curves) or still
    if parts[-1] > _NO_PROGRESS * curves.start():
        return [_never_fell(curves, parts, learning_rate)]
    if steps < min(_FEW_STEPS, rows):  # a fifth of few steps is noise
        return [_too_few(steps, rows)]
    if parts[-1] > _REBOUND * min(parts):
        message = (
            f"the loss fell to {min(parts):.3f} and rose to {parts[-1]:.3f}: the learning rate is "
            "too high"
        )
        return [Advice("rate_too_high", message, f"training.learning_rate={learning_rate / 3:.1e}")]
    if overfits := _overfits(curves):
        return overfits
    if parts[-1] < _FALLING * parts[-2] and parts[-2] > _PLATEAU * parts[1]:
        message = (
            f"the loss stayed at {parts[1]:.3f} and fell to {parts[-1]:.3f} only as the learning "
            "rate decayed: the rate is too high"
        )
        return [Advice("rate_too_high", message, f"training.learning_rate={learning_rate / 3:.1e}")]
    if parts[-1] < _FALLING * parts[-2] and _validation_falls(curves):
        message = (
            f"the loss is still falling: {parts[-2]:.3f}, then {parts[-1]:.3f} in the last fifth "
            "of the steps"
        )
        return [Advice("still_falling", message, f"training.max_steps={2 * steps}")]
    return still


def _too_few(steps: int, rows: int) -> Advice:
    message = f"{steps:,} steps are few for {rows:,} rows"
    return Advice("too_few_steps", message, f"training.max_steps={max(500, 3 * steps)}")


def _never_fell(curves: Curves, parts: Sequence[float], learning_rate: float) -> Advice:
    """A learning rate that is too high makes the loss jump; one that is too low leaves it."""
    start = curves.start()
    better = learning_rate / 3 if max(parts) > _REBOUND * start else learning_rate * 3
    message = (
        f"the loss did not fall: {start:.3f} at the start, {parts[-1]:.3f} in the last fifth of "
        "the steps"
    )
    return Advice("never_fell", message, f"training.learning_rate={better:.1e}")


def _stood_still(curves: Curves) -> list[Advice]:
    best = curves.best(LEAST_GAIN)
    noticed = best + PATIENCE
    steps = len(curves.losses)
    if noticed >= len(curves.validations):
        return []
    if not stands_still(PATIENCE, curves.validations[noticed][0] / steps):
        return []
    step, lowest = curves.validations[best]
    message = (
        f"the validation loss had no gain after step {step:,} of {steps:,} ({lowest:.4f}): with "
        "early stopping the same result takes less time"
    )
    return [Advice("stood_still", message, f"training.early_stopping={PATIENCE}")]


def _overfits(curves: Curves) -> list[Advice]:
    if len(curves.validations) <= _VALIDATIONS_SINCE_BEST:
        return []
    best = curves.best()
    (step, lowest), (_, last) = curves.validations[best], curves.validations[-1]
    factor, margin = _OVERFIT
    since = len(curves.validations) - 1 - best
    if since < _VALIDATIONS_SINCE_BEST or last < factor * lowest + margin:
        return []
    message = (
        f"the validation loss has risen since step {step:,} ({lowest:.3f}, now {last:.3f}): the "
        "adapter overfits; the best step's is kept, and more data or fewer steps would help"
    )
    return [Advice("overfits", message, f"training.max_steps={step}")]


def _validation_falls(curves: Curves) -> bool:
    """Whether the validation loss also fell in the last fifth; memorising lowers only the other."""
    early = len(curves.losses) * (1 - 1 / _PARTS)
    before = [loss for step, loss in curves.validations if step <= early]
    return not before or curves.validations[-1][1] < _VALIDATION_FALLING * before[-1]
