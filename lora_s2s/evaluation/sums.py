"""Scores of summed statistics: sums (…, K) to points (…,)."""

from __future__ import annotations

import numpy as np

from lora_s2s.evaluation.significance import Values

# Replaces zero divisors whose quotients are not used.
_NOTHING = 1e-12


def bleu_of_sums(sums: Values, *, effective: bool = False) -> Values:
    """BLEU of sacrebleu's statistics (…, 10): lengths of answers and references, matching n-grams,
    all n-grams.

    sacrebleu's default: up to 4-grams; ``exp`` smoothing of orders without a match.

    Args:
        effective: of single sentences: orders that the answer is too short for do not count.
    """
    lengths, right, total = sums[..., :2], sums[..., 2:6], sums[..., 6:10]
    answer, reference = np.maximum(lengths[..., 0], _NOTHING), lengths[..., 1]
    brevity = np.exp(np.minimum(0.0, 1.0 - reference / answer))
    smoothing = 2.0 ** -np.cumsum(right == 0, axis=-1)
    precisions = np.where(right > 0, right, smoothing) / np.maximum(total, _NOTHING)
    counting = total > 0 if effective else np.ones_like(total, dtype=bool)
    logs = np.where(counting, np.log(precisions), 0.0).sum(axis=-1)
    score = 100.0 * brevity * np.exp(logs / np.maximum(1, counting.sum(axis=-1)))
    # Answers too short for a 4-gram have no precision to average.
    defined = (right > 0).any(axis=-1) & ((total > 0) == counting).all(axis=-1)
    return np.where(defined, score, 0.0)


def chrf_of_sums(sums: Values, *, beta: float = 2.0) -> Values:
    """chrF of sacrebleu's statistics (…, 18): n-grams of answer and reference, and common ones, of
    six orders.
    """
    orders = sums.reshape(*sums.shape[:-1], -1, 3)
    answer, reference, common = orders[..., 0], orders[..., 1], orders[..., 2]
    used = (answer > 0) & (reference > 0)
    count = np.maximum(1, used.sum(axis=-1))
    precision, recall = (
        np.where(used, common / np.maximum(total, _NOTHING), 0.0).sum(axis=-1) / count
        for total in (answer, reference)
    )
    weighted = beta**2 * precision + recall
    return np.where(
        weighted > 0,
        100.0 * (1 + beta**2) * precision * recall / np.maximum(weighted, _NOTHING),
        0.0,
    )


def ter_of_sums(sums: Values) -> Values:
    """TER of sacrebleu's statistics (…, 2): edits, and lengths of the references in words."""
    edits, length = sums[..., 0], sums[..., 1]
    rate = 100.0 * edits / np.maximum(length, _NOTHING)
    return np.where(length > 0, rate, np.where(edits > 0, 100.0, 0.0))


def length_ratio_of_sums(sums: Values) -> Values:
    """Answers' words in percent of the references', of sacrebleu's statistics for BLEU (…, 10)."""
    answer, reference = sums[..., 0], sums[..., 1]
    return np.where(reference > 0, 100.0 * answer / np.maximum(reference, _NOTHING), 0.0)


def f1_of_sums(sums: Values) -> Values:
    """F1 in points of (…, 2) sums: shared items, items of both sides; 100 where there are none."""
    shared, total = sums[..., 0], sums[..., 1]
    return np.where(total > 0, 200.0 * shared / np.maximum(total, _NOTHING), 100.0)


def ratio_of_sums(sums: Values) -> Values:
    """The first of two sums (…, 2) divided by the second; 0 where that is zero."""
    total = sums[..., 1]
    return np.where(total > 0, sums[..., 0] / np.maximum(total, _NOTHING), 0.0)
