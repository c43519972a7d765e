"""What is said at the end of a run, on made-up curves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from lora_s2s.training.advice import Advice, Curves, advise

ROWS = 13_000


def curve(
    steps: int, loss: Callable[[float], float], validations: list[tuple[int, float]] | None = None
) -> Curves:
    """``loss`` of the share of the run that is done, with a ripple."""
    losses = [loss(step / steps) * (1 + 0.05 * math.sin(step)) for step in range(steps)]
    return Curves(losses, validations or [])


def said(curves: Curves, rows: int = ROWS) -> list[Advice]:
    return advise(curves, rows=rows, learning_rate=1e-3)


def kinds(curves: Curves, rows: int = ROWS) -> list[str]:
    return [advice.kind for advice in said(curves, rows)]


@pytest.mark.parametrize(
    "curves",
    [
        curve(1500, lambda t: 4 * math.exp(-8 * t) + 0.4),  # converged above zero
        curve(1500, lambda t: 4 * math.exp(-12 * t)),  # still halving, but far below what matters
        curve(
            1500, lambda t: 3 * math.exp(-8 * t) + 0.3, [(500, 0.5), (1000, 0.45), (1500, 0.451)]
        ),
        curve(1500, lambda t: 3 * math.exp(-8 * t) + 0.3, [(500, 0.5), (1000, 0.45), (1500, 0.44)]),
    ],
)
def test_silence_where_all_is_well(curves: Curves) -> None:
    assert said(curves) == []


def test_few_steps_on_many_rows() -> None:
    (advice,) = said(curve(144, lambda t: 6 - 3.4 * t))
    assert (advice.kind, advice.setting) == ("too_few_steps", "training.max_steps=500")
    assert "144 steps are few for 13,000 rows" in advice.message
    assert kinds(Curves([3.0, 2.0], [])) == ["too_few_steps"]
    noisy = [3.0] * 12 + [1.0] * 12 + [0.4] * 24 + [0.5] * 12
    assert kinds(Curves(noisy, [])) == ["too_few_steps"]
    assert kinds(curve(144, lambda t: 4 * math.exp(-8 * t) + 0.4), rows=100) == []


def test_a_loss_that_still_falls_asks_for_twice_the_steps() -> None:
    (advice,) = said(curve(600, lambda t: 4 - 3 * t))
    assert (advice.kind, advice.setting) == ("still_falling", "training.max_steps=1200")
    with_validation = [(200, 3.0), (400, 2.0), (600, 1.2)]
    assert kinds(curve(600, lambda t: 4 - 3 * t, with_validation)) == ["still_falling"]
    memorised = [(200, 0.40), (400, 0.335), (600, 0.326)]
    assert kinds(curve(600, lambda t: 4 - 3 * t, memorised)) == []
    levelled = [(200, 1.2), (400, 1.0), (600, 1.005)]
    assert kinds(curve(600, lambda t: 4 - 3 * t, levelled)) == []


@pytest.mark.parametrize("floor", [0.3, 0.01])
def test_a_validation_loss_that_rises_is_named_with_its_step(floor: float) -> None:
    validations = [(200, 1.0), (400, 0.8), (600, 0.9), (800, 1.1)]
    (advice,) = said(curve(800, lambda t: 4 * math.exp(-6 * t) + floor, validations))
    assert (advice.kind, advice.setting) == ("overfits", "training.max_steps=400")
    assert "since step 400 (0.800, now 1.100)" in advice.message
    once = [(200, 1.0), (400, 0.9), (600, 0.8), (800, 1.1)]
    assert "overfits" not in kinds(curve(800, lambda t: 4 * math.exp(-6 * t) + 0.3, once))


@pytest.mark.parametrize("floor", [0.3, 0.01])
@pytest.mark.parametrize(
    ("losses", "patience", "best"),
    [
        ([5, 4, 3, 3.1, 3.05, 3, 3.02, 3.01, 3.03], 0, 300),
        ([5, 4, 3, 2.99999, 2.99998, 2.99997, 2.99996, 2.99995, 2.9999], 0, 300),  # not as shown
        ([5, 4, 3, 3.1, 3.05, 3, 3.02, 3.01, 3.03], 3, None),  # it would have stopped
        ([5, 4, 3, 3.1, 3.05, 3, 3.02, 3.01, 2.9], 0, None),  # a late gain
        ([5, 4, 3.2, 3.1, 3, 3.1, 3.02, 3.01, 3.03], 0, None),  # in the last third
    ],
)
def test_a_validation_loss_that_stood_still_asks_for_early_stopping(
    floor: float, losses: list[float], patience: int, best: int | None
) -> None:
    validations = [(100 * (place + 1), loss) for place, loss in enumerate(losses)]
    curves = curve(900, lambda t: 4 * math.exp(-9 * t) + floor, validations)
    given = advise(curves, rows=ROWS, learning_rate=1e-3, early_stopping=patience)
    assert [advice.setting for advice in given] == ["training.early_stopping=3"] * bool(best)
    assert all(f"no gain after step {best} of 900 (3.0000)" in one.message for one in given)


def test_a_loss_that_never_fell_asks_for_another_rate() -> None:
    (flat,) = said(curve(600, lambda _: 6.0))
    assert (flat.kind, flat.setting) == ("never_fell", "training.learning_rate=3.0e-03")
    (risen,) = said(curve(600, lambda t: 3.0 + 2 * t))
    assert (risen.kind, risen.setting) == ("never_fell", "training.learning_rate=3.3e-04")
    assert (
        kinds(curve(600, lambda t: 1.5 if t < 0.02 else 1.3)) == []
    )  # a base that knows the task nearly


def test_a_loss_that_falls_only_with_the_rate_asks_for_a_lower_one() -> None:
    (advice,) = said(curve(600, lambda t: 4 - 13 * t if t < 0.2 else 1.5 if t < 0.8 else 0.9))
    assert (advice.kind, advice.setting) == ("rate_too_high", "training.learning_rate=3.3e-04")


def test_a_loss_that_rises_again_asks_for_a_lower_rate_though_the_validation_loss_rises_too() -> (
    None
):
    validations = [(150, 0.2), (300, 0.37), (450, 0.37), (600, 0.73)]
    (advice,) = said(
        curve(600, lambda t: 3 - 13 * t if t < 0.2 else 0.4 + 0.4 * (t - 0.2), validations)
    )
    assert (advice.kind, advice.setting) == ("rate_too_high", "training.learning_rate=3.3e-04")


def test_curves_come_from_the_lines_of_a_log() -> None:
    lines = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "skipped": 1},
        {"step": 2, "validation_loss": 1.5},
    ]
    assert Curves.of_lines(lines) == Curves([2.0], [(2, 1.5)])
