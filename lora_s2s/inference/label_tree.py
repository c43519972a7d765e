"""A closed set of answers: the token ids of each label, as training targets are encoded, in a tree.

A text has several tokenisations; only the one that training teaches counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lora_s2s.errors import UsageError
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.lossless import beyond_reach
from lora_s2s.tokens.special_tokens import special_token_templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class _Node:
    """What may follow a prefix: the ids, and the node behind each."""

    after: dict[int, _Node] = field(default_factory=dict)
    ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


class LabelTree:
    """See :class:`lora_s2s.inference.constraint.Constraint`."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        """Takes the ids of each answer, its end included."""
        self._root = _Node()
        self.most_tokens = max(map(len, rows))
        nodes = [self._root]
        for row in rows:
            node = self._root
            for token in row:
                if token not in node.after:
                    node.after[token] = _Node()
                    nodes.append(node.after[token])
                node = node.after[token]
        for node in nodes:
            node.ids = np.array([*node.after], np.int64)

    @classmethod
    def of(cls, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> LabelTree:
        """Builds the tree of labels.

        Raises:
            UsageError: the vocabulary cannot write one, or writes two alike.
        """
        encoded = encode_texts(labels, tokenizer, side="text_target")
        _check_written(labels, encoded, tokenizer)
        prefix, end = special_token_templates(tokenizer).target.prefix, tokenizer.eos_token_id
        return cls([(*prefix, *ids, end) for ids in encoded])

    def allow(self, answers: Sequence[Sequence[int]], allowed_BV: NDArray[np.bool_]) -> None:
        """See :class:`lora_s2s.inference.constraint.Constraint`."""
        for ids, row_V in zip(answers, allowed_BV, strict=True):
            node: _Node | None = self._root
            for token in ids:
                node = node.after.get(token) if node else None
            if node is None:
                row_V[:] = True
            else:
                row_V[node.ids] = True


def _check_written(
    labels: Sequence[str], encoded: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> None:
    first: dict[tuple[int, ...], str] = {}
    for label, ids in zip(labels, encoded, strict=True):
        shown = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if not ids or shown.split() != label.split():
            lost = beyond_reach(tokenizer, label)
            why = ", ".join(f"{character!r} ({what})" for character, what in [*lost.items()][:3])
            raise UsageError(
                f"the model's vocabulary cannot write the label {label!r:.100}: "
                f"{why or f'it becomes {shown!r:.100}'}",
                hint="name the label in other words",
            )
        other = first.setdefault(tuple(ids), label)
        if other != label:
            raise UsageError(
                f"the model's vocabulary writes the labels {other!r:.100} and {label!r:.100} alike",
                hint="leave one of them away",
            )
