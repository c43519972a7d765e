"""Probabilities of labels: one temperature for all sources, calibration, ranking.

Legend: N sources, C labels of a closed set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora_s2s.evaluation.significance import RESAMPLES, SEED, Values

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
# A temperature beyond these says that scores and labels have nothing to do with each other.
_COLDEST, _HOTTEST, _HALVINGS = 0.05, 20.0, 60
_BINS = 15


@dataclass(frozen=True)
class ProbabilityScores:
    """How good the probabilities of labels are, over ``n`` sources.

    Attributes:
        labels: the closed set.
        temperature: what log-probabilities are divided by, fitted on ``fitted_sources`` sources of
            ``fitted_on``; None where nothing was there to fit it on.
        accuracy: of the most likely label, in points; ``auroc`` and ``ece`` are in points too.
        nll: the mean of -log P(label), in nats.
        uncalibrated: ``ece`` and ``nll`` at temperature 1.
        ece_by_chance: the mean ``ece`` of as many labels drawn from the probabilities themselves.
    """

    n: int
    labels: tuple[str, ...]
    temperature: float | None
    fitted_on: str | None
    fitted_sources: int
    accuracy: float
    auroc: float | None
    ece: float
    nll: float
    uncalibrated: dict[str, float]
    ece_by_chance: float
    signature: str = f"auroc:ovr,macro|ece:top-label,bins:{_BINS}|version:1"


@dataclass(frozen=True)
class LabelledScores:
    """Log-probabilities (N, C) of labels, and the place of each source's own label, (N,)."""

    log_probs_NC: Values
    truth_N: Indices

    def at(self, temperature: float) -> dict[str, float]:
        """Calibration error and likelihood at a temperature."""
        shares_NC = probabilities(self.log_probs_NC, temperature)
        return {
            "ece": expected_calibration_error(shares_NC, self.truth_N),
            "nll": negative_log_likelihood(shares_NC, self.truth_N),
        }


def probability_scores(
    scored: LabelledScores,
    labels: Sequence[str],
    *,
    validation: LabelledScores | None,
    fitted_on: str | None,
) -> ProbabilityScores:
    """Fits the temperature on validation data, and scores probabilities with it."""
    temperature = None
    if validation is not None:
        temperature = fit_temperature(validation.log_probs_NC, validation.truth_N)
    shares_NC = probabilities(scored.log_probs_NC, temperature or 1.0)
    calibrated = scored.at(temperature or 1.0)
    right = scored.log_probs_NC.argmax(axis=1) == scored.truth_N
    return ProbabilityScores(
        n=len(scored.truth_N),
        labels=tuple(labels),
        temperature=temperature,
        fitted_on=fitted_on if validation else None,
        fitted_sources=len(validation.truth_N) if validation else 0,
        accuracy=100.0 * float(right.mean()),
        auroc=auroc(shares_NC, scored.truth_N),
        ece=calibrated["ece"],
        nll=calibrated["nll"],
        uncalibrated=scored.at(1.0),
        ece_by_chance=chance_error(shares_NC),
    )


def probabilities(log_probs_NC: Values, temperature: float = 1.0) -> Values:
    """Normalises scores over the labels, (N, C): softmax(log P / temperature)."""
    scaled = log_probs_NC / temperature
    odds = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def negative_log_likelihood(probabilities_NC: Values, truth_N: Indices) -> float:
    """The mean of -log P(label), in nats."""
    chosen = np.take_along_axis(probabilities_NC, truth_N[:, None], axis=1)
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean())


def fit_temperature(log_probs_NC: Values, truth_N: Indices) -> float:
    """Returns the temperature of the smallest negative log-likelihood (Guo et al., 2017).

    The likelihood is convex in 1/temperature, so intervals are halved at its slope's sign. 1 where
    every source's own label is the most likely one: any colder temperature would fit better, and
    none is founded.
    """
    if (log_probs_NC.argmax(axis=1) == truth_N).all():
        return 1.0
    truth = np.take_along_axis(log_probs_NC, truth_N[:, None], axis=1)
    low, high = np.log(_COLDEST), np.log(_HOTTEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        expected = (probabilities(log_probs_NC, np.exp(middle)) * log_probs_NC).sum(axis=1)
        # Too sure: the labels have lower scores than it expects of its own choices.
        low, high = (middle, high) if expected.mean() > truth.mean() else (low, middle)
    return float(np.exp((low + high) / 2))


def expected_calibration_error(probabilities_NC: Values, truth_N: Indices) -> float:
    """The mean distance of confidence and accuracy over equal bins of confidence, in points."""
    confidence = probabilities_NC.max(axis=1)
    right = probabilities_NC.argmax(axis=1) == truth_N
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(100.0 * np.abs(gaps).sum() / len(truth_N))


def chance_error(probabilities_NC: Values) -> float:
    """The mean calibration error of perfect probabilities, in points: what so few sources make."""
    top_N, confidence = probabilities_NC.argmax(axis=1), probabilities_NC.max(axis=1)
    generator = np.random.default_rng(SEED)
    errors = [
        expected_calibration_error(
            probabilities_NC, np.where(generator.random(len(top_N)) < confidence, top_N, -1)
        )
        for _ in range(RESAMPLES)
    ]
    return float(np.mean(errors))


def auroc(probabilities_NC: Values, truth_N: Indices) -> float | None:
    """The area under the ROC curve in points: of each label against the rest, the mean over labels
    that some sources have and some have not; None without such a label.

    With two labels it is that of either.
    """
    areas = [
        _area(probabilities_NC[:, label], truth_N == label)
        for label in range(probabilities_NC.shape[1])
        if 0 < int((truth_N == label).sum()) < len(truth_N)
    ]
    return 100.0 * float(np.mean(areas)) if areas else None


def _area(scores_N: Values, positive_N: Mask) -> float:
    """The share of pairs that are in order, ties half: Mann and Whitney's U."""
    _, places, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positives = int(positive_N.sum())
    beaten = ranks[positive_N].sum() - positives * (positives + 1) / 2
    return float(beaten / (positives * (len(scores_N) - positives)))
