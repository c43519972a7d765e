"""Texts to token ids: source and target apart, each cut by its own rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.special_tokens import SpecialTokenTemplates, special_token_templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = Sequence[int] | npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Features:
    """One example as token ids, each side with its special tokens: both end in ``</s>``, but for a
    target that was cut.
    """

    input_ids: Ids
    labels: Ids
    source_truncated: bool = False
    target_truncated: bool = False


@dataclass(frozen=True)
class LengthRules:
    """How long a pair may be, special tokens included, and what happens to a longer one.

    Attributes:
        truncate_source: ``left`` and ``right`` cut there, the special tokens stay; ``drop`` omits
            the pair.
        long_targets: ``drop`` omits the pair; ``cut`` keeps the beginning, without ``</s>``, which
            would teach the model to stop early; ``keep`` keeps all.
    """

    max_source_tokens: int
    max_target_tokens: int
    truncate_source: str
    long_targets: str


def encode_source(
    text: str, tokenizer: PreTrainedTokenizerBase, *, max_source_tokens: int, truncate_source: str
) -> list[int]:
    """Returns a source's ids with its special tokens, at most ``max_source_tokens`` in all.

    Args:
        truncate_source: ``left`` keeps the end of the text; ``right`` (and ``drop``, which only
            preparing can do) its beginning.
    """
    template = special_token_templates(tokenizer).source
    (ids,) = encode_texts([text], tokenizer)
    return template.around(_cut(ids, max_source_tokens - len(template), truncate_source))


def _cut(ids: list[int], most: int, side: str) -> list[int]:
    most = max(most, 0)
    if len(ids) <= most:
        return ids
    return ids[len(ids) - most :] if side == "left" else ids[:most]


def features_of(
    source: list[int], target: list[int], templates: SpecialTokenTemplates, rules: LengthRules
) -> Features | str:
    """Cuts encoded texts and adds the special tokens, or returns the reason for omitting the
    pair.
    """
    if not source or not target:
        return f"empty {'target' if source else 'source'} after tokenising"
    most_source, most_target = rules.max_source_tokens, rules.max_target_tokens
    long_source = len(source) + len(templates.source) > most_source
    if long_source and rules.truncate_source == "drop":
        return f"source longer than {most_source} tokens"
    labels = templates.target.around(target)
    long_target = len(labels) > most_target
    if long_target and rules.long_targets == "drop":
        return f"target longer than {most_target} tokens"
    kept = _cut(source, most_source - len(templates.source), rules.truncate_source)
    input_ids = templates.source.around(kept)
    cut_target = long_target and rules.long_targets == "cut"
    if cut_target:
        labels = labels[:most_target]
    return Features(input_ids, labels, source_truncated=long_source, target_truncated=cut_target)
