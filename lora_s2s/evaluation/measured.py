"""A metric's results for one system: its score in points (0 to 100), the score's interval, and a
paired comparison.

Three kinds: the mean of a score per source, a score of summed statistics (BLEU, chrF), and
macro-F1.
Legend: N sources, D sources on which two systems differ, R random draws, K statistics or classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lora_s2s.evaluation import significance
from lora_s2s.evaluation.significance import Interval, PairedTest, Swaps, Values

if TYPE_CHECKING:
    from typing_extensions import Self

Indices = NDArray[np.int64]
# Replaces zero divisors whose quotients are not used.
_NOTHING = 1e-12

Mask = NDArray[np.bool_]
Exchange = Callable[[Swaps], tuple[Values, Values]]
Better = Literal["higher", "lower", "neither"]
NamedInterval = tuple[Interval | None, str]


@dataclass(frozen=True)
class Scale:
    """The values that a metric can have, and which are better."""

    low: float = 0.0
    high: float = 100.0
    better: Better = "higher"


POINTS = Scale()


@dataclass(frozen=True)
class Measured(ABC):
    """A metric applied to one system; subclasses define how the score is resampled."""

    signature: str
    scale: Scale = field(default=POINTS, kw_only=True)

    @abstractmethod
    def value(self) -> float:
        """The score of all sources."""

    @abstractmethod
    def each(self) -> Values:
        """The score of every source alone, (N,); NaN where it does not count or is not defined."""

    @abstractmethod
    def without_each(self) -> Values:
        """The score without source i, (N,)."""

    @abstractmethod
    def differing(self, other: Self) -> Mask:
        """The sources on which the two systems' statistics differ, (N,)."""

    @abstractmethod
    def exchanged(self, other: Self, rows: Indices) -> Exchange:
        """A function from (R, D) swaps of the sources ``rows`` to both scores after them, (R,)."""

    @abstractmethod
    def resampled(self, counts: Values) -> Values:
        """The (R,) scores if source i is drawn as often as the (R, N) counts say."""

    def swapping(self, other: Self) -> tuple[int, Callable[[Swaps], Values]]:
        """D, and a function from (R, D) swaps to the (R,) score differences after them."""
        rows = np.flatnonzero(self.differing(other))
        exchange = self.exchanged(other, rows)

        def difference(swaps: Swaps) -> Values:
            mine, theirs = exchange(swaps)
            return mine - theirs

        return len(rows), difference

    @property
    def counted(self) -> int | None:
        """How many sources count, if not all do."""
        return None

    def interval(self) -> NamedInterval:
        """The score's 95 % interval (None for a single source) and the interval's name."""
        return significance.jackknife_interval(
            self.value(), self.without_each()
        ), "jackknife-skew-t"

    def difference_interval(self, other: Self) -> NamedInterval:
        """The 95 % interval of the difference to another system on the same sources."""
        without_each = self.without_each() - other.without_each()
        ends = significance.jackknife_interval(self.value() - other.value(), without_each)
        return ends, "jackknife-skew-t"

    def test(self, other: Self) -> PairedTest:
        """Tests whether the two systems are exchangeable on the same sources."""
        return significance.swap_test(self.value() - other.value(), *self.swapping(other))

    def bootstrap(self, other: Self) -> PairedTest:
        """Tests the difference to another system by resampling the sources."""
        gap, count = self.value() - other.value(), len(self.without_each())
        return significance.bootstrap_test(gap, count, self.resampled_difference(other))

    def resampled_difference(self, other: Self) -> Callable[[Values], Values]:
        """A function from (R, N) counts to the (R,) differences on what they draw."""
        return lambda counts: self.resampled(counts) - other.resampled(counts)

    def detectable(self, other: Self) -> float | None:
        """The smallest difference to another system that as many sources can show, in points."""
        return significance.detectable_difference(self.without_each() - other.without_each())


@dataclass(frozen=True)
class RowScores(Measured):
    """The mean of a score per source, (N,): shares, 0 to 1, where ``unit`` is 100 points.

    NaN: the source does not count, for whatever system.
    """

    values: Values
    unit: float = 100.0

    @property
    def counted(self) -> int | None:
        """How many sources count, if not all do."""
        count = len(self._counting)
        return count if count < len(self.values) else None

    @property
    def _counting(self) -> Values:
        return self.values[~np.isnan(self.values)]

    def value(self) -> float:
        """The mean."""
        return float(self.unit * self._counting.mean())

    def each(self) -> Values:
        """The score of every source."""
        return np.asarray(self.unit * self.values)

    def without_each(self) -> Values:
        """The mean without source i, (N,)."""
        counting = self._counting
        others = (counting.sum() - self.values) / max(1, len(counting) - 1)
        return np.asarray(self.unit * np.where(np.isnan(self.values), counting.mean(), others))

    def resampled(self, counts: Values) -> Values:
        """The means of the drawn sources that count."""
        counting = counts @ ~np.isnan(self.values)
        total = counts @ np.nan_to_num(self.values)
        return np.asarray(self.unit * total / np.maximum(counting, _NOTHING))

    def differing(self, other: Self) -> Mask:
        """The sources that count with different scores."""
        return np.asarray(self._gains(other) != 0)

    def _gains(self, other: Self) -> Values:
        return np.nan_to_num(self.values - other.values)

    def exchanged(self, other: Self, rows: Indices) -> Exchange:
        """Moves gains; the sign-flip test is the same test with less work."""
        gains, points = self._gains(other)[rows], self.unit / len(self._counting)

        def exchange(swaps: Swaps) -> tuple[Values, Values]:
            moved = points * (swaps.astype(np.float64) @ gains)
            return self.value() - moved, other.value() + moved

        return exchange

    def interval(self) -> NamedInterval:
        """Wilson's interval if every source is right or wrong, else that of a mean."""
        values = self._counting
        if np.isin(values, (0.0, 1.0)).all():
            ends = significance.wilson_interval(float(values.sum()), len(values))
            return self._scaled(ends), "wilson"
        return self._scaled(significance.mean_interval(values)), "skew-t"

    def difference_interval(self, other: Self) -> NamedInterval:
        """That of paired proportions if every source is right or wrong, else of a mean."""
        differences = self._differences(other)
        if np.isin(differences, (-1.0, 0.0, 1.0)).all():
            better, worse = int((differences > 0).sum()), int((differences < 0).sum())
            ends, name = significance.paired_proportions_interval(better, worse, len(differences))
            return self._scaled(ends), name
        return self._scaled(significance.mean_interval(differences)), "skew-t"

    def test(self, other: Self) -> PairedTest:
        """Flips the signs of the differences."""
        return significance.sign_flip_test(self._differences(other))

    def _differences(self, other: Self) -> Values:
        differences = self.values - other.values
        return differences[~np.isnan(differences)]

    def _scaled(self, ends: Interval | None) -> Interval | None:
        return None if ends is None else (self.unit * ends[0], self.unit * ends[1])


@dataclass(frozen=True)
class SumScores(Measured):
    """Sufficient statistics per source (N, K); ``total`` maps sums (…, K) to scores (…,), and
    ``alone`` those of one source, where short texts need another formula.
    """

    table: Values
    total: Callable[[Values], Values]
    alone: Callable[[Values], Values] | None = field(default=None, kw_only=True)

    def value(self) -> float:
        """The score of the sums over all rows."""
        return float(self.total(self.table.sum(axis=0)))

    def each(self) -> Values:
        """The score of each row."""
        return (self.alone or self.total)(self.table)

    def without_each(self) -> Values:
        """The score without source i, (N,)."""
        return self.total(self.table.sum(axis=0) - self.table)

    def resampled(self, counts: Values) -> Values:
        """The scores of the sums over the drawn sources."""
        return self.total(counts @ self.table)

    def differing(self, other: Self) -> Mask:
        """The sources with different statistics."""
        return np.asarray((self.table != other.table).any(axis=1))

    def exchanged(self, other: Self, rows: Indices) -> Exchange:
        """Moves rows of statistics between the two sums."""
        gains = self.table[rows] - other.table[rows]
        mine, theirs = self.table.sum(axis=0), other.table.sum(axis=0)

        def exchange(swaps: Swaps) -> tuple[Values, Values]:
            moved = swaps.astype(np.float64) @ gains
            return self.total(mine - moved), self.total(theirs + moved)

        return exchange


@dataclass(frozen=True)
class LabelScores(Measured):
    """Macro-F1 over the K classes of the references; other answers have the index K.

    ``truth`` and ``answers`` are class indices, (N,). The mean leaves out classes without a source.
    """

    truth: Indices
    answers: Indices
    classes: int

    def value(self) -> float:
        """The mean of F1 over classes."""
        return float(_macro_f1(*self._counts()))

    def each(self) -> Values:
        """100 where the answer is right, else 0."""
        return np.where(self.truth == self.answers, 100.0, 0.0)

    def without_each(self) -> Values:
        """The score without source i, (N,): once for each pair of truth and answer."""
        width = self.classes + 1
        pairs, places = np.unique(self.truth * width + self.answers, return_inverse=True)
        references, answers, right = self._counts()
        scores = np.empty(len(pairs))
        for index, (truth, answer) in enumerate(divmod(pair, width) for pair in pairs.tolist()):
            one, other = np.zeros(width), np.zeros(width)
            one[truth] = other[answer] = 1.0
            scores[index] = _macro_f1(
                references - one[:-1], answers - other[:-1], right - (one * other)[:-1]
            )
        return scores[places]

    def interval(self) -> NamedInterval:
        """The jackknife interval, widened as each class costs a degree of freedom; None if there
        are no more sources than classes.
        """
        count, value, name = len(self.truth), self.value(), "jackknife-skew-t,df:sources-classes"
        ends, _ = super().interval()
        if ends is None or count <= self.classes:
            return None, name
        free = count - self.classes
        factor = (
            math.sqrt(count / free)
            * significance.t_quantile(free)
            / significance.t_quantile(count - 1)
        )
        return (value - factor * (value - ends[0]), value + factor * (ends[1] - value)), name

    def resampled(self, counts: Values) -> Values:
        """The means of F1 over the classes that are drawn."""
        right, label = self.truth == self.answers, self.answers < self.classes
        references = _per_class(counts, self.truth, self.classes)
        answers = _per_class(counts[:, label], self.answers[label], self.classes)
        hits = _per_class(counts[:, right], self.truth[right], self.classes)
        return _macro_f1(references, answers, hits)

    def differing(self, other: Self) -> Mask:
        """The sources with different answers."""
        return np.asarray(self.answers != other.answers)

    def exchanged(self, other: Self, rows: Indices) -> Exchange:
        """Moves answers between the two counts of each class."""
        truth, one, two = (values[rows] for values in (self.truth, self.answers, other.answers))
        references, *mine = self._counts()
        _, *theirs = other._counts()

        def moved(swaps: Swaps, answers: Indices) -> list[Values]:
            """Answers and correct answers per class that swaps take from one system, (R, K)."""
            count, width = len(swaps), self.classes + 1
            keys = np.arange(count)[:, None] * width + answers
            chosen = (keys[swaps], keys[swaps & (answers == truth)])
            counts = (
                np.bincount(key, minlength=count * width).reshape(count, width) for key in chosen
            )
            return [table[:, :-1].astype(np.float64) for table in counts]

        def exchange(swaps: Swaps) -> tuple[Values, Values]:
            out, back = moved(swaps, one), moved(swaps, two)
            changes = [gained - lost for lost, gained in zip(out, back, strict=True)]
            return (
                _macro_f1(references, mine[0] + changes[0], mine[1] + changes[1]),
                _macro_f1(references, theirs[0] - changes[0], theirs[1] - changes[1]),
            )

        return exchange

    def _counts(self) -> tuple[Values, Values, Values]:
        """References, answers and correct answers per class, (K,)."""
        right = self.truth[self.truth == self.answers]
        counts = (
            np.bincount(classes, minlength=self.classes + 1)
            for classes in (self.truth, self.answers, right)
        )
        references, answers, hits = (table[: self.classes].astype(np.float64) for table in counts)
        return references, answers, hits


def _per_class(counts: Values, classes: Indices, width: int) -> Values:
    """Sums the columns of (R, N) counts that are of one class, (R, K)."""
    table = np.zeros((len(counts), width))
    if len(classes):
        order = np.argsort(classes, kind="stable")
        present, starts = np.unique(classes[order], return_index=True)
        table[:, present] = np.add.reduceat(counts[:, order], starts, axis=1)
    return table


def _macro_f1(references: Values, answers: Values, right: Values) -> Values:
    """Mean F1 in points, (…,), over the classes with references; counts are (…, K)."""
    total = references + answers
    f1 = np.divide(2.0 * right, total, out=np.zeros(np.shape(total)), where=total > 0)
    used = references > 0
    return np.asarray(100.0 * (f1 * used).sum(axis=-1) / np.maximum(1, used.sum(axis=-1)))
