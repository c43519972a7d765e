"""Advice from the loss curves of a finished run: what to change, if anything.

All thresholds are in this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

# Losses are means over a fifth of the run in nats per target token, so that single steps do not
# matter.
_PARTS = 5
_FEWEST_STEPS = 20  # a shorter curve is too noisy
_LEARNT = 0.05  # below this loss there is no advice to train longer
_FELL = 0.97  # the last part at more than this share of the start: the loss never fell
# a part above the start, or the last above the lowest, by this factor: the rate is too high
_LEAPT = 1.1
_STOOD = 0.95  # the fourth part at more than this share of the second: the loss stagnated
_STILL = 0.9  # the last part at less than this share of the one before: it still falls
_VALIDATION_STILL = 0.95  # the same for the validation loss, where there is one
_ROSE = (1.05, 0.02)  # the last validation above the best by this factor and this much: it overfits
_VALIDATIONS_SINCE = 2  # at least this many validations after the best
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

    def parts(self) -> list[float]:
        """Mean loss of each fifth of the run."""
        size = len(self.losses) / _PARTS
        cuts = [round(place * size) for place in range(_PARTS + 1)]
        pieces = [self.losses[start:stop] for start, stop in pairwise(cuts)]
        return [sum(piece) / len(piece) for piece in pieces]


@dataclass(frozen=True)
class Advice:
    """``kind`` for programs, ``message`` for people, ``setting`` as SECTION.KEY=VALUE to try."""

    kind: str
    message: str
    setting: str

    def to_json(self) -> dict[str, str]:
        """Returns the entry of ``train --json``."""
        return asdict(self)


def advise(curves: Curves, *, rows: int, learning_rate: float) -> list[Advice]:
    """Returns the advice on a run, the most important first.

    Args:
        curves: the run's losses.
        rows: number of training rows.
        learning_rate: the peak.
    """
    steps = len(curves.losses)
    if steps < _FEWEST_STEPS:
        return [_too_few(steps, rows)] if steps < rows else []
    parts = curves.parts()
    if parts[-1] < _LEARNT:
        return [*_overfits(curves)]
    if parts[-1] > _FELL * curves.start():
        return [_never_fell(curves, parts, learning_rate)]
    if steps < min(_FEW_STEPS, rows):  # a fifth of few steps is noise
        return [_too_few(steps, rows)]
    if parts[-1] > _LEAPT * min(parts):
        message = (
            f"the loss fell to {min(parts):.3f} and rose to {parts[-1]:.3f}: the learning rate is "
            "too high"
        )
        return [Advice("rate_too_high", message, f"training.learning_rate={learning_rate / 3:.1e}")]
    if overfits := _overfits(curves):
        return overfits
    if parts[-1] < _STILL * parts[-2] and parts[-2] > _STOOD * parts[1]:
        message = (
            f"the loss stood at {parts[1]:.3f} and fell to {parts[-1]:.3f} only with the learning "
            "rate: it is too high"
        )
        return [Advice("rate_too_high", message, f"training.learning_rate={learning_rate / 3:.1e}")]
    if parts[-1] < _STILL * parts[-2] and _validation_falls(curves):
        message = (
            f"the loss still falls: {parts[-2]:.3f}, then {parts[-1]:.3f} in the last fifth of the "
            "steps"
        )
        return [Advice("still_falling", message, f"training.max_steps={2 * steps}")]
    return []


def _too_few(steps: int, rows: int) -> Advice:
    message = f"{steps:,} steps are few for {rows:,} rows"
    return Advice("too_few_steps", message, f"training.max_steps={max(500, 3 * steps)}")


def _never_fell(curves: Curves, parts: Sequence[float], learning_rate: float) -> Advice:
    """If the rate is too high, the loss jumps up; if it is too low, it stays."""
    start = curves.start()
    better = learning_rate / 3 if max(parts) > _LEAPT * start else learning_rate * 3
    message = (
        f"the loss did not fall: {start:.3f} at the start, {parts[-1]:.3f} in the last fifth of "
        "the steps"
    )
    return Advice("never_fell", message, f"training.learning_rate={better:.1e}")


def _overfits(curves: Curves) -> list[Advice]:
    if len(curves.validations) <= _VALIDATIONS_SINCE:
        return []
    best = min(range(len(curves.validations)), key=lambda place: curves.validations[place][1])
    (step, lowest), (_, last) = curves.validations[best], curves.validations[-1]
    factor, much = _ROSE
    if len(curves.validations) - 1 - best < _VALIDATIONS_SINCE or last < factor * lowest + much:
        return []
    message = (
        f"the validation loss rises since step {step:,} ({lowest:.3f}, now {last:.3f}): it "
        "overfits; the adapter of that step is kept, more data or fewer steps do better"
    )
    return [Advice("overfits", message, f"training.max_steps={step}")]


def _validation_falls(curves: Curves) -> bool:
    """Whether the validation loss fell in the last fifth too; memorising lowers only the other."""
    early = len(curves.losses) * (1 - 1 / _PARTS)
    before = [loss for step, loss in curves.validations if step <= early]
    return not before or curves.validations[-1][1] < _VALIDATION_STILL * before[-1]
