"""Minimum Bayes risk: of several answers to a source, the one that agrees most with all of them.

An answer's expected utility is its mean score against the others as references (Kumar and Byrne
2004; over samples, Eikema and Aziz 2020).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from lora_s2s.evaluation.metrics import utilities
from lora_s2s.inference import decode as decoding
from lora_s2s.inference.decode import Prediction, Progress
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor

_PAIRS_AT_ONCE = 20_000  # statistics in memory


def decode(
    predictor: Predictor,
    sources: Sequence[str],
    settings: DecodingSettings,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Answers every rendered source, by ``settings.mbr`` where it is set; otherwise as
    :func:`lora_s2s.inference.decode.decode`, which has the arguments and errors.
    """
    if settings.mbr is None:
        return decoding.decode(predictor, sources, settings, progress)
    check_utility(settings.mbr)
    several = decoding.candidates(predictor, sources, settings, progress)
    texts = [[answer.text for answer in answers] for answers in several]
    places = choose(texts, settings.mbr, sources)
    return [answers[place] for answers, place in zip(several, places, strict=True)]


def check_utility(metric: str) -> None:
    """Checks, before anything is decoded, that answers can be chosen by a metric.

    Raises:
        UsageError: it describes answers.
    """
    if ":" not in metric:
        utilities(["1"], ["1"], metric, [""])


def choose(
    candidates: Sequence[Sequence[str]], metric: str, sources: Sequence[str] | None = None
) -> list[int]:
    """Returns the place of the answer with the highest expected utility, the first of equals, for
    each source.

    Args:
        candidates: the answers to each source; one that comes several times counts as often.
        metric: a name, a combination or ``module:function``; errors are those of
            :func:`lora_s2s.evaluation.metrics.utilities`.
        sources: for functions that take them.
    """
    distinct = [Counter(answers) for answers in candidates]
    places = [0] * len(candidates)
    for group in _groups(distinct):
        pairs = [
            (row, answer, other)
            for row in group
            for answer in distinct[row]
            for other in distinct[row]
        ]
        rows, answers, others = zip(*pairs, strict=True)
        given = None if sources is None else [sources[row] for row in rows]
        values_P, begin = utilities(answers, others, metric, given), 0
        for row in group:
            count = len(distinct[row])
            table_HR = values_P[begin : begin + count**2].reshape(count, count)
            begin += count**2
            expected_H = table_HR @ np.array([*distinct[row].values()])
            best = [*distinct[row]][int(expected_H.argmax())]
            places[row] = candidates[row].index(best)
    return places


def _groups(distinct: Sequence[Counter[str]]) -> Iterator[list[int]]:
    """Sources that have a choice, so many at once that their pairs fit the memory."""
    group: list[int] = []
    pairs = 0
    for row, answers in enumerate(distinct):
        if len(answers) < 2:
            continue
        if group and pairs + len(answers) ** 2 > _PAIRS_AT_ONCE:
            yield group
            group, pairs = [], 0
        group.append(row)
        pairs += len(answers) ** 2
    if group:
        yield group
