"""Metrics for `evaluation.metrics: auto`: for labels, translations, short answers or free text."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from lora_s2s.evaluation.labels import distinct_labels
from lora_s2s.evaluation.texts import References

LABEL_METRICS = ("exact_match", "macro_f1")
TEXT_METRICS = ("rougeL", "chrf", "exact_match")
# Answers are short if nearly all sources have references of few words.
_MOST_WORDS, _MOST_CHARACTERS, _SHARE_SHORT = 6, 60, 0.9


@dataclass(frozen=True)
class MetricChoice:
    """The metrics, the main one first, and why they were chosen."""

    metrics: tuple[str, ...]
    reason: str


def choose_metrics(
    references: References, *, translation: bool = False, labels: Collection[str] = ()
) -> MetricChoice:
    """Chooses metrics that fit the targets.

    Args:
        references: every reference of each source.
        translation: source and target are in two languages.
        labels: those that the model was trained on, if it was.
    """
    count = distinct_labels(references, labels)
    if count is not None:
        return MetricChoice(LABEL_METRICS, f"the targets are {count:,} labels")
    if translation:
        return MetricChoice(("chrf", "bleu"), "source and target are in two languages")
    single = sum(len(set(texts)) == 1 for texts in references)
    lengths = sorted(max(map(_length, texts)) for texts in references)
    if 2 * single > len(references) and lengths[math.ceil(_SHARE_SHORT * len(lengths)) - 1] <= 1:
        return MetricChoice(("exact_match", "token_f1", "chrf"), "each source has one short answer")
    return MetricChoice(TEXT_METRICS, "the targets are texts")


def _length(text: str) -> float:
    """A text's length as a fraction of the longest short answer."""
    return max(len(text.split()) / _MOST_WORDS, len(text) / _MOST_CHARACTERS)
