"""Scores over several tasks: the mean of the tasks' scores, however many sources each has, as
Super-NaturalInstructions does.

Legend: N sources, T tasks, R resamples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lora_s2s.evaluation import significance
from lora_s2s.evaluation.measured import Exchange, Indices, Mask, Measured, NamedInterval
from lora_s2s.evaluation.metrics import fitting, measure, within
from lora_s2s.evaluation.significance import Interval, PairedTest, Swaps, Values
from lora_s2s.evaluation.texts import Losses, References

if TYPE_CHECKING:
    from typing_extensions import Self

_NAME = "bootstrap-stratified"
_Item = TypeVar("_Item")
# By task and metric.
TaskIntervals = dict[str, dict[str, Interval]]


def measure_by_task(
    tasks: Sequence[str], measured_on: Callable[[Sequence[int]], Mapping[str, Measured]]
) -> dict[str, Measured]:
    """Measures each task's sources and averages over tasks; one without a source that counts for a
    metric is left out of its mean.

    Args:
        tasks: that of each source, (N,).
        measured_on: measures the sources at some places.
    """
    rows: dict[str, list[int]] = {}
    for place, task in enumerate(tasks):
        rows.setdefault(task, []).append(place)
    by_task = {task: measured_on(places) for task, places in rows.items()}
    means: dict[str, Measured] = {}
    for name in dict.fromkeys(name for metrics in by_task.values() for name in metrics):
        parts = {task: metrics[name] for task, metrics in by_task.items() if name in metrics}
        first = next(iter(parts.values()))
        counting = {task: part for task, part in parts.items() if part.counted != 0}
        places = {task: np.array(rows[task]) for task in counting}
        signature = f"{first.signature}|mean:tasks[{len(counting)}]"
        means[name] = TaskMeans(signature, counting, places, len(tasks), scale=first.scale)
    return means


@dataclass(frozen=True)
class TaskMeans(Measured):
    """The mean of each task's score; sources are drawn within their task.

    Attributes:
        parts: each task's score, and ``rows`` the places of its sources among all ``sources``.
    """

    parts: Mapping[str, Measured]
    rows: Mapping[str, Indices]
    sources: int

    @property
    def counted(self) -> int | None:
        """How many sources count, if not all do."""
        counts = (
            len(self.rows[task]) if part.counted is None else part.counted
            for task, part in self.parts.items()
        )
        count = sum(counts)
        return count if count < self.sources else None

    def value(self) -> float:
        """The mean over tasks."""
        return float(np.mean([part.value() for part in self.parts.values()]))

    def by_task(self) -> dict[str, float]:
        """Each task's score."""
        return {task: part.value() for task, part in self.parts.items()}

    def each(self) -> Values:
        """The points of each source alone, (N,)."""
        values = np.full(self.sources, math.nan)
        for task, part in self.parts.items():
            values[self.rows[task]] = part.each()
        return values

    def without_each(self) -> Values:
        """The score without source i, (N,); that of a task's only source changes nothing."""
        values = np.full(self.sources, self.value())
        for task, part in self.parts.items():
            if len(self.rows[task]) > 1:
                change = part.without_each() - part.value()
                values[self.rows[task]] += change / len(self.parts)
        return values

    def differing(self, other: Self) -> Mask:
        """The sources on which the two systems differ in their task."""
        differing = np.zeros(self.sources, dtype=bool)
        for task, part in self.parts.items():
            differing[self.rows[task]] = part.differing(other.parts[task])
        return differing

    def exchanged(self, other: Self, rows: Indices) -> Exchange:
        """Exchanges sources within their task."""
        exchanges = []
        for task, part in self.parts.items():
            held = np.isin(rows, self.rows[task])
            local = np.searchsorted(self.rows[task], rows[held])
            exchanges.append((held, part.exchanged(other.parts[task], local)))

        def exchange(swaps: Swaps) -> tuple[Values, Values]:
            pairs = [one(swaps[:, held]) for held, one in exchanges]
            mine, theirs = (np.mean([pair[side] for pair in pairs], axis=0) for side in (0, 1))
            return mine, theirs

        return exchange

    def resampled(self, counts: Values) -> Values:
        """The means of the tasks' scores on the drawn sources, (R,)."""
        scores = [part.resampled(counts[:, self.rows[task]]) for task, part in self.parts.items()]
        return np.asarray(np.mean(scores, axis=0))

    def interval(self) -> NamedInterval:
        """Percentiles of resamples within tasks, stretched for few sources to a task."""
        return self._interval(self.value(), self._draws(self.resampled))

    def difference_interval(self, other: Self) -> NamedInterval:
        """As :meth:`interval`, of the difference on the same resamples."""
        draws = self._draws(self.resampled_difference(other))
        return self._interval(self.value() - other.value(), draws)

    def bootstrap(self, other: Self) -> PairedTest:
        """Tests the difference to another system by resampling within tasks."""
        return significance.bootstrap_test(
            self.value() - other.value(),
            self.sources,
            self.resampled_difference(other),
            resamples=significance.resamples_within([*self.rows.values()], self.sources),
        )

    def detectable(self, other: Self) -> float | None:
        """The smallest difference that as many sources can show, from the resamples' spread."""
        draws = self._draws(self.resampled_difference(other))
        return significance.detectable_of(float(draws.std(ddof=1)), self._degrees())

    def _draws(self, scores: Callable[[Values], Values]) -> Values:
        blocks = significance.resamples_within([*self.rows.values()], self.sources)
        return np.concatenate([scores(counts) for counts in blocks])

    def _degrees(self) -> int:
        return sum(map(len, self.rows.values())) - len(self.rows)

    def _interval(self, value: float, draws: Values) -> NamedInterval:
        free = self._degrees()
        if free < 1 or not np.isfinite(draws).all():
            return None, _NAME
        stretched = math.sqrt((free + len(self.rows)) / free) * significance.t_to_z(free)
        low, high = np.percentile(draws, (2.5, 97.5))
        return (value - stretched * (value - low), value + stretched * (high - value)), _NAME


@dataclass(frozen=True)
class Scored:
    """What answers are compared with."""

    references: References
    metrics: Sequence[str]
    sources: Sequence[str] | None
    tasks: Sequence[str]

    def measured(self, texts: Sequence[str], losses: Losses | None) -> dict[str, Measured]:
        """One system's metrics, as means over tasks if there are tasks."""
        if not self.tasks:
            return measure(texts, self.references, self.metrics, self.sources, losses)

        def of(places: Sequence[int]) -> dict[str, Measured]:
            def pick(values: Sequence[_Item] | None) -> list[_Item] | None:
                return None if values is None else [values[place] for place in places]

            references, sources = pick(self.references) or [], pick(self.sources)
            metrics = fitting(self.metrics, references)
            return measure(pick(texts) or [], references, metrics, sources, pick(losses))

        return measure_by_task(self.tasks, of)


def by_task(measured: Mapping[str, Measured], tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Each task's number of sources and scores."""
    rows: dict[str, dict[str, float]] = {
        task: {"n": float(count)} for task, count in Counter(tasks).items()
    }
    for name, metric in measured.items():
        if isinstance(metric, TaskMeans):
            for task, value in metric.by_task().items():
                rows[task][name] = value
    return rows


def intervals_by_task(measured: Mapping[str, Measured]) -> TaskIntervals:
    """The 95 % interval of each task's scores; one source has none for most metrics."""
    rows: TaskIntervals = {}
    for name, metric in measured.items():
        for task, part in metric.parts.items() if isinstance(metric, TaskMeans) else ():
            named, scale = part.interval(), part.scale
            if named[0] is not None:
                ends, _ = within(part, named, part.value(), scale.low, scale.high)
                rows.setdefault(task, {})[name] = ends
    return rows
