"""The learning rate of every step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_parts import section

from lora_s2s.training.optimizer import learning_rate_at, warmup_steps


def curve(schedule: str, total: int, warmup: float) -> list[float]:
    settings = section(schedule=schedule, warmup=warmup, learning_rate=1.0)
    return [learning_rate_at(step, total, settings) for step in range(total)]


def test_linear_with_warmup() -> None:
    assert curve("linear", 6, 2) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_cosine_without_warmup() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert curve("cosine", 4, 0.0) == pytest.approx(expected)


def test_constant_stays() -> None:
    assert curve("constant", 5, 0.4) == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("warmup", "total", "steps"),
    [(0.03, 100, 3), (0.03, 10, 1), (0.0, 10, 0), (1, 10, 1), (7, 10, 7)],
)
def test_warmup_is_a_share_below_one_and_steps_from_one(
    warmup: float, total: int, steps: int
) -> None:
    assert warmup_steps(warmup, total) == steps


@given(st.sampled_from(["linear", "cosine", "constant"]), st.integers(1, 200), st.floats(0, 300))
def test_every_step_trains_and_none_exceeds_the_peak(
    schedule: str, total: int, warmup: float
) -> None:
    assert all(0 < rate <= 1.0 for rate in curve(schedule, total, warmup))
