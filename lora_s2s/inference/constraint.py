"""What answers may be, as the tokens that may come next.

V vocabulary: as wide as the model's logits, which may be wider than the tokenizer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from lora_s2s.errors import UsageError
from lora_s2s.inference.grammar import GrammarConstraint
from lora_s2s.inference.label_tree import LabelTree
from lora_s2s.recipe.constraint import LABELS, Value, parse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lora_s2s.inference.engine import DecodingSettings

CONSTRAINED = ("torch", "onnx")  # the runtimes that follow one
Allowed = NDArray[np.bool_]


class Constraint(Protocol):
    """A set of answers. It has no state: one object serves any rows, beams and threads."""

    @property
    def most_tokens(self) -> int | None:
        """Returns how many tokens the longest answer takes, its end included; None for no limit."""

    def allow(self, answers: Sequence[Sequence[int]], allowed_BV: Allowed) -> None:
        """Marks the tokens that may follow.

        Args:
            answers: the ids of unfinished answers, as :meth:`Engine.answers` returns them: a forced
                first token included, the decoder's start not. What no answer begins with (a beam
                without a chance) may go on with anything.
            allowed_BV: all False; its rows are those of ``answers``.
        """


def constraint_of(
    settings: DecodingSettings, tokenizer: PreTrainedTokenizerBase
) -> Constraint | None:
    """Returns the constraint that settings name, compiled for a vocabulary; None for none.

    Raises:
        UsageError: the vocabulary cannot write it, an answer is too long for the settings, or it
            was not read from its file or the training data yet.
        SetupError: a package is missing.
    """
    if settings.constraint is None:
        return None
    compiled = _compiled(settings.constraint, tokenizer)
    if settings.no_repeat_ngram_size:
        raise UsageError(
            "evaluation.constraint and evaluation.no_repeat_ngram_size exclude each other: a token "
            "could be required and forbidden",
            hint="--set evaluation.no_repeat_ngram_size=0",
        )
    longest = compiled.most_tokens
    if longest is not None and longest > settings.max_new_tokens:
        raise UsageError(
            f"the longest label takes {longest} tokens, and answers end after "
            f"{settings.max_new_tokens}",
            hint=f"--set evaluation.max_new_tokens={longest}",
        )
    return compiled


@lru_cache(maxsize=16)
def _compiled(value: Value, tokenizer: PreTrainedTokenizerBase) -> Constraint:
    constraint = parse(value)
    if not constraint.is_complete:
        problem = f"evaluation.constraint was not read: {constraint.kind} {constraint.text}"
        raise UsageError(problem.strip(), hint="give the content itself, such as a list of labels")
    if constraint.kind == LABELS:
        return LabelTree.of(constraint.labels, tokenizer)
    return GrammarConstraint.of(constraint, tokenizer)
