"""The special tokens that a tokenizer puts around a text, as a template for each side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SpecialTokenTemplate:
    """The special ids around a text, as the tokenizer puts them: T5 ``x </s>``, BART ``<s> x
    </s>``, NLLB ``eng_Latn x </s>``, mBART ``x </s> en_XX``."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prefix) + len(self.suffix)

    def around(self, ids: Sequence[int]) -> list[int]:
        """Returns a text's ids with the special ones."""
        return [*self.prefix, *ids, *self.suffix]


@dataclass(frozen=True)
class SpecialTokenTemplates:
    """The special tokens around sources, and around targets."""

    source: SpecialTokenTemplate
    target: SpecialTokenTemplate


def special_token_templates(tokenizer: PreTrainedTokenizerBase) -> SpecialTokenTemplates:
    """Returns the tokenizer's templates, with a final ``</s>`` where it puts none.

    A tokenizer that puts no end on targets (Gemma's ``<bos> x``) was made for decoders: its targets
    get the end, without which no answer would stop, and no beginning, which is what the decoder
    starts with.
    """
    end = int(tokenizer.eos_token_id)
    source, target = _template(tokenizer, "text"), _template(tokenizer, "text_target")
    end_only = SpecialTokenTemplate((), (end,))
    return SpecialTokenTemplates(
        source if len(source) else end_only, target if end in target.suffix else end_only
    )


def _template(tokenizer: PreTrainedTokenizerBase, side: str) -> SpecialTokenTemplate:
    full, bare = (
        tokenizer(**{side: "a"}, add_special_tokens=added)["input_ids"] for added in (True, False)
    )
    start = next(index for index in range(len(full)) if full[index : index + len(bare)] == bare)
    return SpecialTokenTemplate(tuple(full[:start]), tuple(full[start + len(bare) :]))


def first_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """Returns what answers begin with, as :func:`lora_s2s.models.common.begin_answers` takes it.

    ``start`` is set where the target ends in its language (mBART: ``x </s> ro_RO``), which then
    starts the decoder; ``first`` where the target begins with a special id, which is forced.
    """
    target = special_token_templates(tokenizer).target
    last = target.suffix[-1]
    return {
        "start": None if last == tokenizer.eos_token_id else last,
        "first": target.prefix[0] if target.prefix else None,
    }
