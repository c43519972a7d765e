"""Accuracy and macro-F1 equal scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from lora_s2s.evaluation.metrics import score


@pytest.mark.parametrize("seed", range(20))
def test_label_scores_are_scikit_learns(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count, classes = int(generator.integers(1, 60)), int(generator.integers(1, 7))
    truth = generator.integers(0, classes, count)
    # The last is no class of the references.
    guesses = generator.integers(0, classes + 1, count)
    answers = np.where(generator.random(count) < 0.5, truth, guesses)
    found = score([str(answer) for answer in answers], [[str(label)] for label in truth], NAMES)
    labels = np.unique(truth)
    f1 = f1_score(truth, answers, labels=labels, average="macro", zero_division=0)
    assert found["macro_f1"].value == pytest.approx(100 * f1, abs=1e-12)
    assert found["accuracy"].value == pytest.approx(100 * accuracy_score(truth, answers), abs=1e-12)


NAMES = ["accuracy", "macro_f1"]
