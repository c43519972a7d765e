"""Scores in points against raw reference texts, each with a 95 % interval and a signature.

The unit is the source: several references of one source are one observation.
"""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics import BLEU, CHRF, TER

from lora_s2s.errors import DataError, UsageError, nearest
from lora_s2s.evaluation.measured import (
    LabelScores,
    Measured,
    RowScores,
    SumScores,
    bleu_of_sums,
    chrf_of_sums,
    ter_of_sums,
)
from lora_s2s.evaluation.significance import Interval, Values
from lora_s2s.evaluation.words import (
    UNSPACED_NAMES,
    beyond_ascii,
    canonical,
    without_punctuation,
    words,
)
from lora_s2s.recipe.fields import ERROR_RATES

References = Sequence[Sequence[str]]
Measure = Callable[[Sequence[str], References], Measured]


@dataclass(frozen=True)
class Score:
    """A metric's value in points, its 95 % interval over sources, and how both were computed.

    100 is the best value, or 0 where lower is better; an end without a limit is infinite.
    """

    name: str
    value: float
    interval: Interval
    signature: str

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric counts errors."""
        return self.name in ERROR_RATES

    def to_json(self) -> dict[str, object]:
        """``{"value", "interval", "signature"}``, with the p-value if there is one, and
        ``lower_is_better`` if it is; an end without a limit is null.
        """
        entry = {key: value for key, value in asdict(self).items() if key != "name"}
        entry["interval"] = tuple(end if math.isfinite(end) else None for end in self.interval)
        return {**entry, "lower_is_better": True} if self.lower_is_better else entry


@dataclass(frozen=True)
class Difference(Score):
    """Adapter − baseline of one metric in points, with the two-sided p-value of a paired test."""

    p_value: float


def score(
    predictions: Sequence[str], references: References, metrics: Sequence[str]
) -> dict[str, Score]:
    """Scores predictions against one or more raw references each.

    Args:
        predictions: one text per unique source.
        references: every reference of that source, in the same order.
        metrics: names from ``METRICS``.

    Raises:
        UsageError: an unknown metric; suggests the nearest.
        DataError: nothing to score, different numbers of predictions and references, or a source
            without a reference.
    """
    return scores_of(measure(predictions, references, metrics))


def scores_of(measured: Mapping[str, Measured]) -> dict[str, Score]:
    """The scores and intervals of measured metrics."""
    scores = {}
    for name, metric in measured.items():
        ends, kind = metric.interval()
        value = metric.value()
        signature = f"{metric.signature}|ci:{'none' if ends is None else kind}"
        interval = _within(ends, value, 0.0, _highest(name))
        scores[name] = Score(name, value, interval, signature)
    return scores


def _highest(name: str) -> float:
    """The largest possible score, and difference."""
    return math.inf if name in ERROR_RATES else 100.0


def _within(ends: Interval | None, value: float, low: float, high: float) -> Interval:
    """Limits an interval to possible scores and, against rounding, to contain the value; the whole
    range without an interval.
    """
    if ends is None:
        return low, high
    return min(value, max(low, ends[0])), max(value, min(high, ends[1]))


def measure(
    predictions: Sequence[str], references: References, metrics: Sequence[str]
) -> dict[str, Measured]:
    """Computes each metric's statistics; arguments and errors as in :func:`score`."""
    check_metrics(metrics)
    if not predictions:
        raise DataError("there is nothing to score: no rows")
    if len(predictions) != len(references):
        raise DataError(f"{len(predictions)} predictions for {len(references)} lists of references")
    for index, texts in enumerate(references):
        if not texts:
            raise DataError("a source has no reference", where=f"source {index + 1}")
    return {name: METRICS[name](predictions, references) for name in metrics}


def check_metrics(names: Sequence[str]) -> None:
    """Checks metric names before anything is decoded.

    Raises:
        UsageError: an unknown metric; lists those of ``METRICS``.
    """
    for name in names:
        if name not in METRICS:
            raise UsageError(
                f"unknown metric '{name}'{nearest(name, METRICS)}",
                hint=f"metrics: {', '.join(METRICS)}",
            )


def compare(
    system: Mapping[str, Measured], baseline: Mapping[str, Measured]
) -> dict[str, Difference]:
    """Differences between adapter and base per metric, with intervals and tests paired by source.

    If both are the same object, the answers are identical and the difference is exactly zero.
    """
    differences = {}
    for name, measured in system.items():
        other = baseline[name]
        (ends, kind), test = measured.difference_interval(other), measured.test(other)
        if measured is other:
            ends, kind = (0.0, 0.0), "identical"
        value = measured.value() - other.value()
        interval = _within(ends, value, -_highest(name), _highest(name))
        signature = (
            f"{measured.signature}|ci:{'none' if ends is None else kind}|test:{test.name}|sides:2"
        )
        differences[name] = Difference(name, value, interval, signature, test.p_value)
    return differences


def _corpus(
    scorer_class: Callable[[], Any],
    total: Callable[[Values], Values],
    predictions: Sequence[str],
    references: References,
) -> Measured:
    # sacrebleu's public calls return corpus totals only; statistics per sentence come from the hook
    # that its own significance tests use. Our tests compare the result with the public call.
    scorer = scorer_class()
    most = max(len(texts) for texts in references)
    streams = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
    table = np.array(
        scorer._extract_corpus_statistics(list(predictions), streams), dtype=np.float64
    )
    return SumScores(str(scorer.get_signature()), table, total)


def _mean(values: Sequence[float], references: References, *facts: str) -> Measured:
    return RowScores(
        "|".join((_reference_count(references), *facts)), np.array(values, dtype=np.float64)
    )


def _reference_count(references: References) -> str:
    counts = {len(texts) for texts in references}
    return f"nrefs:{counts.pop() if len(counts) == 1 else 'var'}"


class _Tokens:
    """A cached tokenizer in rouge-score's interface: metrics and systems share references."""

    def __init__(self, tokenize: Callable[[str], list[str]]) -> None:
        self.tokenize = lru_cache(maxsize=100_000)(tokenize)


_ROUGE = DefaultTokenizer(use_stemmer=True).tokenize


def _stemmed_words(text: str) -> list[str]:
    """Unicode words; ASCII words are stemmed by rouge-score's rules for English."""
    return [stem for word in words(text) for stem in (_ROUGE(word) if word.isascii() else [word])]


_ASCII_TOKENS, _UNICODE_TOKENS = _Tokens(_ROUGE), _Tokens(_stemmed_words)


def _needs_unicode(references: References) -> bool:
    return beyond_ascii(text for texts in references for text in texts)


def _rouge(kind: str, predictions: Sequence[str], references: References) -> Measured:
    unicode = _needs_unicode(references)
    scorer = RougeScorer([kind], tokenizer=_UNICODE_TOKENS if unicode else _ASCII_TOKENS)
    values = [
        scorer.score_multi(texts, text)[kind].fmeasure
        for text, texts in zip(predictions, references, strict=True)
    ]
    sentences = ("sentences:newline",) if kind == "rougeLsum" else ()
    tokens = f"tok:unicode-words[characters:{UNSPACED_NAMES}]" if unicode else "tok:a-z0-9"
    facts = ("score:f1", "refs:best", "stemmer:porter", tokens, *sentences)
    return _mean(values, references, *facts, f"version:rouge-score-{version('rouge_score')}")


def plain_answer(text: str) -> str:
    """A text as exact match compares it: stripped, characters composed (NFC)."""
    return canonical(text.strip())


def _exact_match(predictions: Sequence[str], references: References) -> Measured:
    pairs = zip(predictions, references, strict=True)
    values = [float(plain_answer(text) in set(map(plain_answer, texts))) for text, texts in pairs]
    return _mean(values, references, "refs:any", "case:mixed", "norm:strip,nfc", "version:2")


def _macro_f1(predictions: Sequence[str], references: References) -> Measured:
    """Macro-F1 over the classes of the references; all references of a source name its class."""
    accepted = [sorted(map(plain_answer, texts)) for texts in references]
    truth = [texts[0] for texts in accepted]
    answers = [
        texts[0] if (plain := plain_answer(text)) in texts else plain
        for text, texts in zip(predictions, accepted, strict=True)
    ]
    places = {label: place for place, label in enumerate(dict.fromkeys(truth))}
    truth_N, answers_N = (
        np.array([places.get(label, len(places)) for label in labels])
        for labels in (truth, answers)
    )
    facts = (
        "classes:references",
        "average:macro",
        "refs:any",
        "case:mixed",
        "norm:strip,nfc",
        "version:1",
    )
    signature = "|".join((_reference_count(references), *facts))
    return LabelScores(signature, truth_N, answers_N, classes=len(places))


def _token_f1(predictions: Sequence[str], references: References) -> Measured:
    unicode = _needs_unicode(references)
    tokens = _unicode_squad_tokens if unicode else _squad_tokens
    pairs = zip(predictions, references, strict=True)
    values = [max(_f1(tokens(text), tokens(other)) for other in texts) for text, texts in pairs]
    norm = f"unicode-words,characters:{UNSPACED_NAMES}" if unicode else "punctuation"
    return _mean(
        values, references, "refs:best", "case:lc", f"norm:squad[{norm},articles]", "version:1"
    )


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = frozenset(("a", "an", "the"))


def _squad_tokens(text: str) -> list[str]:
    tokens = text.lower().translate(_NO_PUNCTUATION).split()
    return [word for word in tokens if word not in _ARTICLES]


def _unicode_squad_tokens(text: str) -> list[str]:
    return [word for word in words(without_punctuation(text)) if word not in _ARTICLES]


def _f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2.0 * common / (len(predicted) + len(expected))


METRICS: dict[str, Measure] = {
    "bleu": partial(_corpus, BLEU, bleu_of_sums),
    "chrf": partial(_corpus, CHRF, chrf_of_sums),
    "ter": partial(_corpus, TER, ter_of_sums),
    "rouge1": partial(_rouge, "rouge1"),
    "rouge2": partial(_rouge, "rouge2"),
    "rougeL": partial(_rouge, "rougeL"),
    "rougeLsum": partial(_rouge, "rougeLsum"),
    "exact_match": _exact_match,
    "macro_f1": _macro_f1,
    "token_f1": _token_f1,
}
