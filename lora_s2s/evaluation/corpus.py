"""Metrics of sacrebleu, summed over sources: BLEU, chrF, TER, and the length ratio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lora_s2s.evaluation.measured import SumScores
from lora_s2s.evaluation.significance import Values
from lora_s2s.evaluation.texts import Texts


def corpus(
    scorer_class: Callable[[], Any],
    total: Callable[[Values], Values],
    texts: Texts,
    *,
    alone: Callable[[Values], Values] | None = None,
) -> SumScores:
    """Statistics of one of sacrebleu's metrics.

    Args:
        scorer_class: a class of ``sacrebleu.metrics``, or a function that makes its object.
        total: maps sums of its statistics (…, K) to scores (…,).
        texts: answers and references.
        alone: see :class:`SumScores`.
    """
    # sacrebleu's public calls return corpus totals only; statistics per sentence come from the hook
    # that its own significance tests use. Our tests compare the result with the public call.
    scorer, references = scorer_class(), texts.references
    most = max(len(several) for several in references)
    streams = [
        [several[n] if n < len(several) else None for several in references] for n in range(most)
    ]
    table = np.array(
        scorer._extract_corpus_statistics(list(texts.predictions), streams), dtype=np.float64
    )
    return SumScores(str(scorer.get_signature()), table, total, alone=alone)
