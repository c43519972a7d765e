"""Logits that are not finite: an answer made of them would be empty or nonsense, so they are an
error. Logits of tokens that a constraint rules out.

B batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from lora_s2s.errors import DataError


def check_logits(logits: Tensor, *, model: str) -> None:
    """Checks that every position has a most likely token.

    Args:
        logits: (…, V); tokens that are ruled out may be minus infinity.
        model: its name or folder, for the message.

    Raises:
        DataError: a position's largest logit is infinite, or one of its logits is NaN.
    """
    if logits.numel() and not bool(logits.amax(dim=-1).isfinite().all()):
        hint = (
            "the weights are damaged or too large; for a valid model in float16: --set "
            "model.dtype=float32"
        )
        raise DataError(
            "the model computes logits that are not finite numbers", hint=hint, where=model
        )


class _Finite(LogitsProcessor):  # type: ignore[misc]
    """Checks every step's logits and changes none."""

    def __init__(self, model: str) -> None:
        self._model = model

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002  (what transformers calls it with)
        check_logits(scores, model=self._model)
        return scores


def finite_logits(model: str) -> LogitsProcessorList:
    """Returns what ``generate`` takes as ``logits_processor`` to check every step; see
    :func:`check_logits`.
    """
    return LogitsProcessorList([_Finite(model)])


Allow = Callable[[Sequence[Sequence[int]], NDArray[np.bool_]], None]


class Constrained(LogitsProcessor):  # type: ignore[misc]
    """Rules out the tokens that a constraint does not allow."""

    def __init__(self, allow: Allow, end: int) -> None:
        """Takes what marks the tokens that may follow, given each answer's ids and a mask (B, V) of
        False, and the id that ends an answer.
        """
        self._allow, self._end = allow, end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ruled_out_BV = self.ruled_out(input_ids[:, 1:].tolist(), scores)
        return scores.masked_fill(ruled_out_BV, -torch.inf)

    def ruled_out(self, answers: Sequence[Sequence[int]], scores: Tensor) -> Tensor:
        """Returns a mask (B, V) of the tokens that may not follow.

        Args:
            answers: each answer's ids so far; after the end, anything may follow.
            scores: (B, V), for its size and its device.
        """
        open_rows = [row for row, ids in enumerate(answers) if self._end not in ids]
        allowed_BV = np.zeros((len(open_rows), scores.shape[-1]), np.bool_)
        self._allow([answers[row] for row in open_rows], allowed_BV)
        ruled_out_BV = torch.zeros_like(scores, dtype=torch.bool)
        ruled_out_BV[open_rows] = torch.from_numpy(~allowed_BV).to(scores.device)
        return ruled_out_BV
