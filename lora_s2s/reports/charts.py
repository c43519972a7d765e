"""Charts as positions in an SVG, which ``templates/charts.html`` draws in the page's colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lora_s2s.reports.breakdown import Group
from lora_s2s.reports.plots import Points, smoothed

WIDTH, HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 14, 46
_MOST_POINTS = 400
_FEW = 12
# Style classes: the i-th system's, at most so many.
SYSTEMS = ("system-1", "system-2", "system-3", "system-4", "system-5", "system-6")

Pair = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in the SVG's units."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """A line through points; ``style`` is a class of the style sheet."""

    style: str
    points: str


@dataclass(frozen=True)
class Dot:
    """A point with a tooltip, and the ends of its whisker."""

    style: str
    x: float
    y: float
    low: float
    high: float
    tooltip: str


@dataclass(frozen=True)
class Bar:
    """A bar with a tooltip."""

    style: str
    x: float
    y: float
    width: float
    height: float
    tooltip: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with what a reader hears instead of seeing it."""

    name: str
    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line] = ()
    dots: Sequence[Dot] = ()
    bars: Sequence[Bar] = ()
    legend: Sequence[tuple[str, str]] = ()
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class _Axis:
    """Maps values to the SVG's units; ``low`` and ``high`` differ."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, bins: int, *, whole: bool = False) -> list[Tick]:
        locator = MaxNLocator(nbins=bins, integer=whole, steps=[1, 2, 2.5, 5, 10])
        values = locator.tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        inside = [one for one in values if self.low - slack <= one <= self.high + slack]
        return [Tick(self(one), f"{one + 0.0:,.6g}") for one in inside]


def _axes(x: Pair, y: Pair) -> tuple[_Axis, _Axis]:
    return (
        _Axis(*_apart(*x), _LEFT, WIDTH - _RIGHT),
        _Axis(*_apart(*y), HEIGHT - _BOTTOM, _TOP),
    )


def _apart(low: float, high: float) -> Pair:
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def group_chart(
    name: str, title: str, x_label: str, groups: Sequence[Group], systems: Sequence[str]
) -> Chart:
    """Mean agreement of each system in groups that have an order, with whiskers."""
    _, y = _axes((0, 1), (0, 100))
    step = (WIDTH - _LEFT - _RIGHT) / len(groups)
    centers = [_LEFT + step * (place + 0.5) for place in range(len(groups))]
    lines, dots, sentences = [], list[Dot](), []
    for place, (system, style) in enumerate(zip(systems, SYSTEMS, strict=False)):
        shift = 7 * (place - (len(systems) - 1) / 2)
        marks = []
        for center, group in zip(centers, groups, strict=True):
            quality = group.systems[place]
            tooltip = f"{system}, {group.name}: {quality.agreement:.1f} ({group.examples:,})"
            ends = (y(quality.low), y(quality.high))
            marks.append(Dot(style, round(center + shift, 1), y(quality.agreement), *ends, tooltip))
        dots += marks
        lines.append(Line(style, " ".join(f"{dot.x},{dot.y}" for dot in marks)))
        first, last = (groups[end].systems[place].agreement for end in (0, -1))
        sentences.append(f"{system} from {first:.0f} to {last:.0f}")
    span = f"from {groups[0].name} to {groups[-1].name}"
    return Chart(
        name=name,
        title=title,
        description=f"Mean agreement {span}: {'; '.join(sentences)}.",
        x_label=x_label,
        y_label="agreement",
        x_ticks=[Tick(at, group.name) for at, group in zip(centers, groups, strict=True)],
        y_ticks=y.ticks(5),
        lines=lines,
        dots=dots,
        legend=list(zip(SYSTEMS, systems, strict=False)),
    )


def curve_chart(name: str, title: str, training: Points, validation: Points) -> Chart | None:
    """Training loss per step, thin and smoothed, and validation loss; None without either."""
    steps, losses = training
    points = [pair for pair in (training, validation) if len(pair[0])]
    if not points:
        return None
    every_x, every_y = (np.concatenate([pair[side] for pair in points]) for side in (0, 1))
    x, y = _axes((every_x.min(), every_x.max()), (min(0.0, every_y.min()), every_y.max()))
    few = len(steps) < _FEW
    lines = [Line("training" if few else "training-each", _path(x, y, training))]
    if not few:
        lines.append(Line("training", _path(x, y, (steps, smoothed(losses)))))
    dots, sentences = list[Dot](), [_from_to("training loss", losses)]
    for step, loss in zip(*_thin(validation), strict=True):
        tooltip = f"validation, step {step:,.0f}: {loss:.4g}"
        dots.append(Dot("validation", x(step), y(loss), y(loss), y(loss), tooltip))
    if len(validation[1]):
        lines.append(Line("validation", _path(x, y, validation)))
        best = int(validation[1].argmin())
        lowest = f"lowest at step {validation[0][best]:,.0f}: {validation[1][best]:.4g}"
        sentences.append(f"{_from_to('validation loss', validation[1])}, {lowest}")
    both = (("training", training), ("validation", validation))
    legend = [(what, what) for what, (logged, _) in both if len(logged)]
    return Chart(
        name=name,
        title=title,
        description=f"{'; '.join(filter(None, sentences))}.".capitalize(),
        x_label="optimizer step",
        y_label="nats per target token",
        x_ticks=x.ticks(6, whole=True),
        y_ticks=y.ticks(5),
        lines=[line for line in lines if line.points],
        dots=dots,
        legend=legend,
    )


def _from_to(what: str, values: NDArray[np.float64]) -> str:
    ends = [f"{value:.4g}" for value in (*values[:1], *values[1:][-1:])]
    return f"{what} {'from ' if len(ends) > 1 else ''}{' to '.join(ends)}" if ends else ""


def _path(x: _Axis, y: _Axis, points: Points) -> str:
    steps, values = _thin(points)
    return " ".join(f"{x(step)},{y(value)}" for step, value in zip(steps, values, strict=True))


def _thin(points: Points) -> Points:
    steps, values = points
    places = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _MOST_POINTS)).astype(int))
    return steps[places], values[places]


def length_chart(name: str, title: str, lengths: Sequence[int]) -> Chart | None:
    """A histogram of lengths in words; None for none."""
    if not lengths:
        return None
    most = max(lengths)
    size = max(1, -(-(most + 1) // 30))
    counts = np.bincount(np.array(lengths) // size)
    x, y = _axes((0, size * len(counts)), (0, int(counts.max())))
    bars = []
    for place, count in enumerate(counts):
        left, right, top = x(size * place), x(size * (place + 1)), y(float(count))
        span = f"{size * place:,} to {size * (place + 1) - 1:,}" if size > 1 else f"{place:,}"
        width, height = max(1.0, right - left - 1), round(y(0) - top, 1)
        bars.append(Bar("bar", left, top, round(width, 1), height, f"{span} words: {count:,}"))
    median = int(np.median(np.array(lengths)))
    return Chart(
        name=name,
        title=title,
        description=f"From {min(lengths):,} to {most:,} words; half have at most {median:,}.",
        x_label="words",
        y_label="texts",
        x_ticks=x.ticks(6, whole=True),
        y_ticks=y.ticks(4, whole=True),
        bars=bars,
    )
