"""Logits that are not finite: an answer made of them would be empty or nonsense, so they are an
error.

B batch, V vocabulary.
"""

from __future__ import annotations

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
