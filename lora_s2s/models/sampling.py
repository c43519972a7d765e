"""Sampling whose result depends on the source and the seed, not on the batch.

B batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from lora_s2s.files import sha256_json


class Sampling(LogitsProcessor):  # type: ignore[misc]
    """Turns greedy search into sampling.

    The largest of the log-probabilities plus Gumbel noise is a sample of them (Gumbel-max). The
    noise of a row comes from a generator of its own; see :func:`generators_of`.
    """

    def __init__(
        self, generators: Sequence[torch.Generator], *, temperature: float, top_p: float
    ) -> None:
        """Takes the generators of the batch's rows.

        Args:
            temperature: above 0; the logits are divided by it.
            top_p: sampled from are the most likely tokens that together have this probability;
                at most 1.
        """
        self._temperature, self._top_p = temperature, top_p
        self._generators = generators

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002  (what transformers calls it with)
        return self.perturbed(scores, self._generators)

    def perturbed(self, scores: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Returns scores (B, V) whose largest are samples, given the rows' logits."""
        log_probs_BV = (scores.float() / self._temperature).log_softmax(dim=-1)
        if self._top_p < 1:
            log_probs_BV = _nucleus(log_probs_BV, self._top_p)
        width = scores.shape[-1]
        uniform_BV = torch.stack(
            [torch.rand(width, generator=one, dtype=torch.float64) for one in generators]
        )
        gumbel_BV = -(-uniform_BV.log()).log()
        return log_probs_BV + gumbel_BV.to(log_probs_BV)


def generators_of(source: Sequence[int], seed: int, count: int) -> list[torch.Generator]:
    """Returns the generators of a source's samples; the first ones do not depend on the count."""
    return [_generator([list(source), seed, *([place] if place else [])]) for place in range(count)]


def _generator(seeds: list[object]) -> torch.Generator:
    return torch.Generator().manual_seed(int(sha256_json(seeds)[:15], 16))


def _nucleus(log_probs_BV: Tensor, top_p: float) -> Tensor:
    """Rules out all but the most likely tokens that together have the probability ``top_p``."""
    sorted_BV, order_BV = log_probs_BV.sort(dim=-1, descending=True)
    probs_BV = sorted_BV.exp()
    before_BV = probs_BV.cumsum(dim=-1) - probs_BV  # the most likely one always stays
    outside_BV = (before_BV >= top_p).scatter(-1, order_BV, before_BV >= top_p)
    return log_probs_BV.masked_fill(outside_BV, -torch.inf)
