"""Candidates of a source with their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import TypedDict

from lora_s2s.errors import UsageError
from lora_s2s.evaluation.probabilities import probabilities
from lora_s2s.pipeline import html

if TYPE_CHECKING:
    from lora_s2s.inference.score import CandidateScores

# What a row gains with its prediction.
FIELDS = ("probability", "log_prob", "scores")
# One list for all sources, or a list for each.
Candidates = Sequence[str] | Sequence[Sequence[str]]


@dataclass(frozen=True)
class Weighing:
    """How log-probabilities become probabilities.

    Attributes:
        temperature: what they are divided by.
        length_normalized: whether they are first divided by the number of tokens.
    """

    temperature: float = 1.0
    length_normalized: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"temperature is {self.temperature:g}; expected more than 0")


@dataclass(frozen=True)
class LabelChoice:
    """What ``predict --scores`` chooses from, and how."""

    labels: tuple[str, ...]
    weighing: Weighing = field(default_factory=Weighing)

    def to_dict(self) -> dict[str, object]:
        """What answers depend on."""
        return {"labels": self.labels, **asdict(self.weighing)}


class RankedFields(TypedDict):
    """What a row gains; see :meth:`Ranking.to_dict`."""

    prediction: str
    probability: float
    log_prob: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Ranking:
    """The candidates of one source, in the order given.

    Attributes:
        log_probs: the exact log-probability of each as the whole answer, in nats.
        probabilities: of each among the candidates, which sum to 1.
    """

    candidates: tuple[str, ...]
    log_probs: tuple[float, ...]
    probabilities: tuple[float, ...]

    @property
    def best(self) -> str:
        """The most likely candidate, the first of equals."""
        return self.candidates[self.probabilities.index(max(self.probabilities))]

    @property
    def ranked(self) -> list[tuple[str, float]]:
        """Candidates with their probabilities, most likely first."""
        pairs = zip(self.candidates, self.probabilities, strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])

    def _repr_html_(self) -> str:
        return html.ranked(self)

    def to_dict(self) -> RankedFields:
        """The fields of ``predict --scores``: the best candidate, its probability and exact
        log-probability, and the probability of each.
        """
        place = self.candidates.index(self.best)
        return {
            "prediction": self.best,
            "probability": self.probabilities[place],
            "log_prob": self.log_probs[place],
            "scores": dict(zip(self.candidates, self.probabilities, strict=True)),
        }


def rank(scores: CandidateScores, weighing: Weighing) -> Ranking:
    """Returns the probabilities of scored candidates."""
    values = np.array(scores.log_probs)
    if weighing.length_normalized:
        values = values / np.array(scores.tokens)
    shares = probabilities(values, weighing.temperature)
    return Ranking(scores.candidates, scores.log_probs, tuple(shares.tolist()))


def candidates_of(candidates: object, sources: int, *, several: bool) -> list[list[str]]:
    """Returns the candidates of each source.

    Args:
        candidates: a list of texts for all sources, or a list of such lists, one for each.
        several: whether the sources came as a list.

    Raises:
        UsageError: they are something else, or there are more or fewer lists than sources.
    """
    if isinstance(candidates, str) or not isinstance(candidates, Sequence):
        kind = type(candidates).__name__
        raise UsageError(f"candidates: expected a list of texts, got {kind}")
    if all(isinstance(text, str) for text in candidates):
        return [list(candidates)] * sources
    for place, inner in enumerate(candidates, start=1):
        of_texts = isinstance(inner, Sequence) and all(isinstance(text, str) for text in inner)
        if isinstance(inner, str) or not of_texts:
            raise UsageError(
                "candidates: expected a list of texts, or such a list for each source",
                where=f"item {place}",
            )
    if not several or len(candidates) != sources:
        count = f"{sources:,} source{'' if sources == 1 else 's'}"
        raise UsageError(f"candidates: {len(candidates):,} lists for {count}")
    return [list(inner) for inner in candidates]
