"""Scores from 0 to 100 against raw reference texts, each with a 95 % interval and a signature that says how.

Every metric is a table of sufficient statistics, one row per source, and a rule that turns column sums into a score.
Resampling then means summing other rows, so 1,000 resamples cost little, and two systems can share them.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics import BLEU, CHRF

from lora_s2s.errors import DataError, UsageError, nearest

Table = NDArray[np.float64]
References = Sequence[Sequence[str]]

RESAMPLES = 1000
# sacrebleu's own default, so that its command line gives the same interval.
SEED = 12345


@dataclass(frozen=True)
class Score:
    """A metric's value (0 to 100), its 95 % bootstrap interval over sources, and how it was computed."""

    name: str
    value: float
    interval: tuple[float, float]
    signature: str

    def to_json(self) -> dict[str, Any]:
        """Returns the contract's ``{"value", "interval", "signature"}``, with the p-value where there is one."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


@dataclass(frozen=True)
class Difference(Score):
    """Adapter − baseline of one metric in points, with the two-sided p-value of the paired bootstrap."""

    p_value: float


@dataclass(frozen=True)
class Measured:
    """A metric applied to one system: a row of statistics per source, and the rule from column sums to a score."""

    table: Table
    total: Callable[[Table], float]
    signature: str

    def value(self) -> float:
        """The score of all rows."""
        return self.total(self.table.sum(axis=0))

    @cached_property
    def resampled(self) -> NDArray[np.float64]:
        """The scores of ``RESAMPLES`` draws of the rows with replacement: the same draws for every table of a size."""
        return np.array([self.total(self.table[draw].sum(axis=0)) for draw in _draws(len(self.table))])


Measure = Callable[[Sequence[str], References], Measured]


def _draws(rows: int) -> Iterator[NDArray[np.int64]]:
    generator = np.random.default_rng(SEED)
    return (generator.integers(0, rows, size=rows) for _ in range(RESAMPLES))


def _interval_of(samples: NDArray[np.float64]) -> tuple[float, float]:
    """The range that holds 95 % of bootstrap samples: a fortieth of them lies below it and a fortieth above."""
    ordered = np.sort(samples)
    tail = len(ordered) // 40
    return float(ordered[tail]), float(ordered[-1 - tail])


def score(predictions: Sequence[str], references: References, metrics: Sequence[str]) -> dict[str, Score]:
    """Scores predictions against one or more raw references each.

    Args:
        predictions: one text per unique source.
        references: every reference of that source, in the same order.
        metrics: names from ``METRICS``.

    Raises:
        UsageError: an unknown metric, with the nearest known one.
        DataError: nothing to score, unequal lengths, or a source without a reference.
    """
    return scores_of(measure(predictions, references, metrics))


def scores_of(measured: Mapping[str, Measured]) -> dict[str, Score]:
    """Turns measured metrics into their scores and intervals."""
    return {
        name: Score(name, found.value(), _interval_of(found.resampled), found.signature)
        for name, found in measured.items()
    }


def measure(predictions: Sequence[str], references: References, metrics: Sequence[str]) -> dict[str, Measured]:
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
    """Refuses names that ``METRICS`` lacks, so that nothing is decoded in vain.

    Raises:
        UsageError: lists what exists.
    """
    for name in names:
        if name not in METRICS:
            raise UsageError(f"unknown metric '{name}'{nearest(name, METRICS)}", hint=f"metrics: {', '.join(METRICS)}")


def compare(system: Mapping[str, Measured], baseline: Mapping[str, Measured]) -> dict[str, Difference]:
    """Is the adapter better than its base, or lucky? Metric by metric on the same sources, resampled together.

    The p-value is the share of resampled differences, centred on their mean, that are at least as far from zero as
    the one observed, with one added above and below the line so that it is never zero (Efron and Tibshirani 1993,
    algorithm 16.2, in paired form).
    """
    found: dict[str, Difference] = {}
    for name, measured in system.items():
        observed = measured.value() - baseline[name].value()
        samples = measured.resampled - baseline[name].resampled
        # Rounding must not turn "the same" into "less far".
        at_least = np.abs(samples - samples.mean()) >= abs(observed) - 1e-9
        p_value = (1 + int(at_least.sum())) / (1 + len(samples))
        signature = f"{measured.signature}|test:paired-bootstrap|sides:2"
        found[name] = Difference(name, observed, _interval_of(samples), signature, p_value)
    return found


def _corpus(scorer_class: Callable[[], Any], predictions: Sequence[str], references: References) -> Measured:
    # Only the corpus total is public in sacrebleu; the per-sentence rows behind it come from the two hooks that its
    # own significance tests use. The tests hold the result against the public call.
    scorer = scorer_class()
    most = max(len(texts) for texts in references)
    streams = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
    table = np.array(scorer._extract_corpus_statistics(list(predictions), streams), dtype=np.float64)
    scorer.n_bootstrap, scorer.seed = RESAMPLES, SEED

    def total(sums: Table) -> float:
        return float(scorer._compute_score_from_stats(sums.tolist()).score)

    return Measured(table, total, str(scorer.get_signature()))


def _mean(values: Sequence[float], references: References, *facts: str) -> Measured:
    counts = {len(texts) for texts in references}
    refs = f"nrefs:{counts.pop() if len(counts) == 1 else 'var'}"
    # The second column counts rows, which makes a mean of column sums.
    table = np.array([(value, 1.0) for value in values], dtype=np.float64)
    return Measured(table, _mean_of_sums, "|".join((refs, f"bs:{RESAMPLES}", f"seed:{SEED}", *facts)))


def _mean_of_sums(sums: Table) -> float:
    return float(100.0 * sums[0] / sums[1])


class _RougeTokens:
    """ROUGE's own tokens with Porter's stemmer; one reference meets several metrics and systems, so they are kept."""

    def __init__(self) -> None:
        self.tokenize = lru_cache(maxsize=100_000)(DefaultTokenizer(use_stemmer=True).tokenize)


_ROUGE_TOKENS = _RougeTokens()


def _rouge(kind: str, predictions: Sequence[str], references: References) -> Measured:
    scorer = RougeScorer([kind], tokenizer=_ROUGE_TOKENS)
    values = [
        scorer.score_multi(texts, text)[kind].fmeasure for text, texts in zip(predictions, references, strict=True)
    ]
    sentences = ("sentences:newline",) if kind == "rougeLsum" else ()
    facts = ("score:f1", "refs:best", "stemmer:porter", "tok:a-z0-9", *sentences)
    return _mean(values, references, *facts, f"version:rouge-score-{version('rouge_score')}")


def _exact_match(predictions: Sequence[str], references: References) -> Measured:
    pairs = zip(predictions, references, strict=True)
    values = [float(text.strip() in {other.strip() for other in texts}) for text, texts in pairs]
    return _mean(values, references, "refs:any", "case:mixed", "norm:strip", "version:1")


def _token_f1(predictions: Sequence[str], references: References) -> Measured:
    pairs = zip(predictions, references, strict=True)
    values = [max(_f1(_squad_tokens(text), _squad_tokens(other)) for other in texts) for text, texts in pairs]
    return _mean(values, references, "refs:best", "case:lc", "norm:squad[punctuation,articles]", "version:1")


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = frozenset(("a", "an", "the"))


def _squad_tokens(text: str) -> list[str]:
    words = text.lower().translate(_NO_PUNCTUATION).split()
    return [word for word in words if word not in _ARTICLES]


def _f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2.0 * common / (len(predicted) + len(expected))


METRICS: dict[str, Measure] = {
    "bleu": partial(_corpus, BLEU),
    "chrf": partial(_corpus, CHRF),
    "rouge1": partial(_rouge, "rouge1"),
    "rouge2": partial(_rouge, "rouge2"),
    "rougeL": partial(_rouge, "rougeL"),
    "rougeLsum": partial(_rouge, "rougeLsum"),
    "exact_match": _exact_match,
    "token_f1": _token_f1,
}
