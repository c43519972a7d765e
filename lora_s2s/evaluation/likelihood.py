"""How likely the model finds the references: no answer is needed."""

from __future__ import annotations

import math

import numpy as np

from lora_s2s.errors import UsageError
from lora_s2s.evaluation.measured import SumScores
from lora_s2s.evaluation.sums import ratio_of_sums
from lora_s2s.evaluation.texts import Texts, reference_count


def loss(texts: Texts) -> SumScores:
    """Cross-entropy of the references in nats per token, the end included: the validation loss."""
    table = np.array(_losses(texts), dtype=np.float64)
    signature = f"{reference_count(texts.references)}|unit:nats|per:token|version:1"
    return SumScores(signature, table, ratio_of_sums)


def bits_per_byte(texts: Texts) -> SumScores:
    """Cross-entropy of the references in bits per byte of their UTF-8 text, which is comparable
    across vocabularies. A character that the vocabulary lacks costs only an unknown token.
    """
    rows = zip(_losses(texts), texts.references, strict=True)
    table = [
        (nats / math.log(2), sum(len(text.encode("utf-8", "replace")) for text in set(several)))
        for (nats, _), several in rows
    ]
    signature = f"{reference_count(texts.references)}|unit:bits|per:byte|version:1"
    return SumScores(signature, np.array(table, dtype=np.float64), ratio_of_sums)


def _losses(texts: Texts) -> list[tuple[float, int]]:
    if texts.losses is None:
        raise UsageError(
            "loss and bits_per_byte need the model: they score references, not answers",
            hint="omit them from evaluation.metrics",
        )
    return list(texts.losses)
