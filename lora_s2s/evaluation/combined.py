"""Combinations of metrics: each resample of the sources is scored by every part and combined, so
the interval is that of the combination itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_s2s.evaluation.measured import (
    Better,
    Exchange,
    Indices,
    Mask,
    Measured,
    NamedInterval,
    Scale,
)
from lora_s2s.evaluation.significance import Swaps, Values
from lora_s2s.recipe.combinations import Arithmetic, Combination

if TYPE_CHECKING:
    from typing_extensions import Self

_OPPOSITE: dict[Better, Better] = {"higher": "lower", "lower": "higher", "neither": "neither"}


def combine(text: str, combination: Combination, measured: Mapping[str, Measured]) -> Combined:
    """The measured combination ``text`` of measured metrics."""
    parts = {name: measured[name] for name in combination.metrics}
    scale = combined_scale(combination, {name: part.scale for name, part in parts.items()})
    signatures = (f"{name}[{part.signature}]" for name, part in parts.items())
    return Combined("|".join((text, *signatures)), combination, parts, scale=scale)


def combined_scale(combination: Combination, scales: Mapping[str, Scale]) -> Scale:
    """The values that a combination of metrics with these scales can have."""
    ranges = {name: _Range.of(scale) for name, scale in scales.items()}
    return combination.computed(ranges, _RANGES).scale


@dataclass(frozen=True)
class Combined(Measured):
    """A combination of ``parts`` of the same system."""

    combination: Combination
    parts: Mapping[str, Measured]

    def value(self) -> float:
        """The combination of the parts' scores; not finite where it is not defined."""
        return float(self._of({name: np.array(part.value()) for name, part in self.parts.items()}))

    def each(self) -> Values:
        """The combination of each source's scores."""
        values = self._of({name: part.each() for name, part in self.parts.items()})
        return np.where(np.isfinite(values), values, np.nan)

    def without_each(self) -> Values:
        """The score without source i, (N,)."""
        return self._of({name: part.without_each() for name, part in self.parts.items()})

    def differing(self, other: Self) -> Mask:
        """The sources on which a part differs."""
        differing = [part.differing(other.parts[name]) for name, part in self.parts.items()]
        return np.asarray(np.any(differing, axis=0))

    def exchanged(self, other: Self, rows: Indices) -> Exchange:
        """Exchanges the same sources in every part."""
        exchanges = {
            name: part.exchanged(other.parts[name], rows) for name, part in self.parts.items()
        }

        def exchange(swaps: Swaps) -> tuple[Values, Values]:
            both = {name: one(swaps) for name, one in exchanges.items()}
            mine, theirs = ({name: pair[side] for name, pair in both.items()} for side in (0, 1))
            return self._of(mine), self._of(theirs)

        return exchange

    def resampled(self, counts: Values) -> Values:
        """The combination of the parts' scores on the drawn sources."""
        return self._of({name: part.resampled(counts) for name, part in self.parts.items()})

    @property
    def counted(self) -> int | None:
        """The fewest sources that count for a part, if not all do."""
        counts = [part.counted for part in self.parts.values() if part.counted is not None]
        return min(counts, default=None)

    def interval(self) -> NamedInterval:
        """The jackknife interval; None where the score is not defined without some source."""
        return super().interval() if self._always_defined() else (None, "none")

    def difference_interval(self, other: Self) -> NamedInterval:
        """As :meth:`interval`, of the difference."""
        defined = self._always_defined() and other._always_defined()
        return super().difference_interval(other) if defined else (None, "none")

    def _always_defined(self) -> bool:
        return bool(np.isfinite(self.without_each()).all())

    def _of(self, values: Mapping[str, Values]) -> Values:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.combination.computed(values, _VALUES)


@dataclass(frozen=True)
class _Range:
    """The values that a part of a combination can have; ``better`` is None for a number."""

    low: float
    high: float
    better: Better | None

    @classmethod
    def of(cls, scale: Scale) -> _Range:
        return cls(scale.low, scale.high, scale.better)

    @classmethod
    def constant(cls, value: float) -> _Range:
        return cls(value, value, None)

    @property
    def scale(self) -> Scale:
        return Scale(self.low, self.high, self.better or "neither")

    def __add__(self, other: _Range) -> _Range:
        return _Range(self.low + other.low, self.high + other.high, self._with(other))

    def __neg__(self) -> _Range:
        better = None if self.better is None else _OPPOSITE[self.better]
        return _Range(-self.high, -self.low, better)

    def __sub__(self, other: _Range) -> _Range:
        return self + -other

    def __mul__(self, other: _Range) -> _Range:
        ends = [
            one * two if one and two else 0.0  # 0 × inf too
            for one in (self.low, self.high)
            for two in (other.low, other.high)
        ]
        return _Range(min(ends), max(ends), self._times(other))

    def __truediv__(self, other: _Range) -> _Range:
        if other.low < 0 < other.high:
            return _Range(-math.inf, math.inf, "neither")
        at_zero = math.inf if other.low >= 0 else -math.inf
        low, high = (1 / end if end else at_zero for end in (other.high, other.low))
        return self * _Range(low, high, (-other).better)

    def root(self) -> _Range:
        return _Range(math.sqrt(max(0.0, self.low)), math.sqrt(max(0.0, self.high)), self.better)

    def _with(self, other: _Range) -> Better | None:
        if self.better is None or other.better is None:
            return self.better or other.better
        return self.better if self.better == other.better else "neither"

    def _times(self, other: _Range) -> Better | None:
        for number, factor in ((self, other), (other, self)):
            if number.better is None:
                return factor.better if number.low >= 0 else (-factor).better
        return self._with(other) if self.low >= 0 and other.low >= 0 else "neither"


_VALUES: Arithmetic[Values] = Arithmetic(
    np.array, np.sqrt, np.negative, (np.add, np.subtract, np.multiply, np.divide)
)
_RANGES = Arithmetic(
    _Range.constant,
    _Range.root,
    _Range.__neg__,
    (_Range.__add__, _Range.__sub__, _Range.__mul__, _Range.__truediv__),
)
