"""Is the adapter better than its base, or lucky? Paired bootstrap over the sources both answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lora_s2s.evaluation.metrics import Measured, interval_of


@dataclass(frozen=True)
class Difference:
    """Adapter − baseline of one metric: points, 95 % interval, two-sided p-value, and how it was computed."""

    name: str
    value: float
    interval: tuple[float, float]
    p_value: float
    signature: str

    def to_json(self) -> dict[str, Any]:
        """Returns ``{"value", "interval", "p_value", "signature"}``."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


def compare(system: Mapping[str, Measured], baseline: Mapping[str, Measured]) -> dict[str, Difference]:
    """Compares two systems metric by metric on the same sources, resampled together.

    The p-value is the share of resampled differences, centred on their mean, that are at least as far from zero as
    the one observed, with one added above and below the line so that it is never zero (Efron and Tibshirani 1993,
    algorithm 16.2, in paired form).
    """
    return {name: _difference(name, measured, baseline[name]) for name, measured in system.items()}


def _difference(name: str, system: Measured, baseline: Measured) -> Difference:
    observed = system.value() - baseline.value()
    samples = system.resampled - baseline.resampled
    # Rounding must not turn "the same" into "less far".
    at_least = np.abs(samples - samples.mean()) >= abs(observed) - 1e-9
    p_value = (1 + int(at_least.sum())) / (1 + len(samples))
    signature = f"{system.signature}|test:paired-bootstrap|sides:2"
    return Difference(name, observed, interval_of(samples), p_value, signature)
