"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Returns the warm-up's length in steps: ``warmup`` is a share of ``total_steps`` below 1, steps from 1 on."""
    return math.ceil(warmup * total_steps) if warmup < 1 else int(warmup)


def learning_rate_at(step: int, *, total_steps: int, peak: float, schedule: str, warmup: float) -> float:
    """Returns the learning rate of the optimizer step number ``step`` (the first is 0).

    Warm-up climbs linearly and reaches ``peak`` on its last step; ``linear`` and ``cosine`` then fall towards 0, which
    they would reach one step after the last, so that every step trains. ``constant`` stays.
    """
    climbing = warmup_steps(warmup, total_steps)
    if step < climbing:
        return peak * (step + 1) / climbing
    done = (step - climbing) / max(1, total_steps - climbing)
    return peak * _decay(schedule, min(done, 1.0))


def _decay(schedule: str, done: float) -> float:
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0
