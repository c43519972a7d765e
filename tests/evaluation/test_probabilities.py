"""Probabilities of labels: temperature, calibration error, ranking; equal to scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

from lora_s2s.evaluation import probabilities as measured
from lora_s2s.evaluation.significance import Values

Drawn = tuple[Values, np.ndarray]


def drawn(labels: int = 4, sources: int = 400, sharpness: float = 1.0, seed: int = 0) -> Drawn:
    """Log-probabilities, and labels drawn from them: calibrated at this sharpness."""
    rng = np.random.default_rng(seed)
    scores_NC = rng.normal(size=(sources, labels)) * 2.0 - 5.0
    shares_NC = measured.probabilities(scores_NC)
    truth_N = np.array([rng.choice(labels, p=shares) for shares in shares_NC])
    return scores_NC * sharpness, truth_N


def test_the_temperature_undoes_what_scores_were_multiplied_by() -> None:
    plain = measured.fit_temperature(*drawn(sources=4000))
    assert plain == pytest.approx(1.0, abs=0.1)
    for sharpness in (0.5, 3.0):
        scores_NC, truth_N = drawn(sources=4000, sharpness=sharpness)
        temperature = measured.fit_temperature(scores_NC, truth_N)
        assert temperature == pytest.approx(plain * sharpness, rel=1e-6)
        at = [
            measured.negative_log_likelihood(measured.probabilities(scores_NC, t), truth_N)
            for t in (temperature * 0.99, temperature, temperature * 1.01)
        ]
        assert at[1] == min(at)
    # The first label is always right, which founds no colder temperature, and never.
    always = np.tile([0.0, -1.0], (50, 1))
    assert measured.fit_temperature(always, np.zeros(50, np.int64)) == 1.0
    assert measured.fit_temperature(always, np.ones(50, np.int64)) == pytest.approx(20.0)


def test_calibration_lowers_the_calibration_error() -> None:
    scores_NC, truth_N = drawn(sources=4000, sharpness=3.0)
    validation = measured.LabelledScores(scores_NC[:2000], truth_N[:2000])
    test = measured.LabelledScores(scores_NC[2000:], truth_N[2000:])
    labels = ["a", "b", "c", "d"]
    scores = measured.probability_scores(
        test, labels, validation=validation, fitted_on="validation"
    )
    assert scores.temperature == pytest.approx(3.0, rel=0.1)
    assert (scores.fitted_on, scores.fitted_sources, scores.n) == ("validation", 2000, 2000)
    assert scores.uncalibrated["ece"] > 10
    assert scores.ece < 4
    assert scores.nll < scores.uncalibrated["nll"]
    # Calibrated: its error is what the number of sources makes, fewer sources more.
    assert scores.ece == pytest.approx(scores.ece_by_chance, rel=0.5)
    few = measured.LabelledScores(scores_NC[2000:2100], truth_N[2000:2100])
    few_scores = measured.probability_scores(
        few, labels, validation=validation, fitted_on="validation"
    )
    assert few_scores.ece_by_chance > 3 * scores.ece_by_chance
    without = measured.probability_scores(test, labels, validation=None, fitted_on="validation")
    assert (without.temperature, without.fitted_on, without.fitted_sources) == (None, None, 0)
    assert without.ece == without.uncalibrated["ece"]
    assert without.accuracy == scores.accuracy


def test_calibration_error_by_hand() -> None:
    # Two bins: confidence 0.9 with one of two right, 0.6 with both right.
    shares = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    truth = np.array([0, 1, 0, 1])
    error = measured.expected_calibration_error(shares, truth)
    assert error == pytest.approx(100 * (2 * 0.4 + 2 * 0.4) / 4)


@pytest.mark.parametrize(("labels", "decimals"), [(2, 9), (2, 1), (5, 9), (5, 1)])
def test_auroc_is_the_share_of_pairs_in_order(labels: int, decimals: int) -> None:
    scores_NC, truth_N = drawn(labels, 300, seed=labels)
    # Rounded: many ties.
    shares_NC = measured.probabilities(scores_NC).round(decimals)
    shares_NC[:, -1] = 1.0 - shares_NC[:, :-1].sum(axis=1)
    areas = []
    for label in range(labels):
        own, others = shares_NC[truth_N == label, label], shares_NC[truth_N != label, label]
        ahead = own[:, None] - others[None]
        areas.append(((ahead > 0) + 0.5 * (ahead == 0)).mean())
    assert measured.auroc(shares_NC, truth_N) == pytest.approx(100 * np.mean(areas), abs=1e-9)
    metrics = pytest.importorskip("sklearn.metrics")
    given = shares_NC[:, 1] if labels == 2 else shares_NC
    theirs = metrics.roc_auc_score(truth_N, given, multi_class="ovr", average="macro")
    assert measured.auroc(shares_NC, truth_N) == pytest.approx(100 * theirs, abs=1e-9)


def test_auroc_without_contrast_is_none() -> None:
    assert measured.auroc(np.array([[0.3, 0.7], [0.2, 0.8]]), np.array([1, 1])) is None
    # A label without a source counts for nothing.
    shares = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]])
    assert measured.auroc(shares, np.array([0, 1])) == 100.0
