"""What metrics compare: the answers of one system with their references and sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora_s2s.evaluation.measured import RowScores
from lora_s2s.evaluation.words import canonical

References = Sequence[Sequence[str]]

# A model's summed cross-entropy (nats) of each source's references, and how many tokens they are.
Losses = Sequence[tuple[float, int]]


@dataclass(frozen=True)
class Texts:
    """One system's answers and all references of each source, in the same order.

    Attributes:
        sources: the sources, where they are at hand.
        losses: the model's, where a metric needs them.
    """

    predictions: Sequence[str]
    references: References
    sources: Sequence[str] | None = None
    losses: Losses | None = None

    @property
    def pairs(self) -> list[tuple[str, Sequence[str]]]:
        """Each answer with its references."""
        return list(zip(self.predictions, self.references, strict=True))


def reference_count(references: References) -> str:
    """The number of references per source as sacrebleu's signatures state it."""
    counts = {len(texts) for texts in references}
    return f"nrefs:{counts.pop() if len(counts) == 1 else 'var'}"


def mean(values: Sequence[float], references: References, *facts: str) -> RowScores:
    """The mean of a share per source, 0 to 1; a source with NaN does not count."""
    signature = "|".join((reference_count(references), *facts))
    return RowScores(signature, np.array(values, dtype=np.float64))


def plain_answer(text: str) -> str:
    """A text as exact match compares it: stripped, characters composed (NFC)."""
    return canonical(text.strip())
