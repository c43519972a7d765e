"""The special tokens that a tokenizer puts around a text, as a template for each side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizers import Regex, decoders, processors

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


def complete(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Makes a fast tokenizer itself do what it lacks, so that it does so in plain transformers too.

    It puts ``</s>`` on sources where it put nothing (Blenderbot's, made from ``vocab.json``), and
    answers lose the space that it put before the target (``add_prefix_space``).
    """
    pipeline = getattr(tokenizer, "backend_tokenizer", None)
    if pipeline is None:
        return tokenizer
    if not len(_template(tokenizer, "text")):
        end = {"id": "end", "ids": [tokenizer.eos_token_id], "tokens": [str(tokenizer.eos_token)]}
        ending = processors.TemplateProcessing(
            single="$A end", pair="$A end $B end", special_tokens=[end]
        )
        own = pipeline.post_processor
        pipeline.post_processor = processors.Sequence([own, ending]) if own else ending
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    if pipeline.decoder is not None and tokenizer.decode(ids) == " a":
        # It puts none before a text that begins with a space, so two were the target's.
        drop_space = decoders.Replace(Regex(r"\A (?! |\z)"), "")
        pipeline.decoder = decoders.Sequence([pipeline.decoder, decoders.Fuse(), drop_space])
        return _as_one_file(tokenizer)
    return tokenizer


def _as_one_file(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Returns a tokenizer that ``tokenizer.json`` alone defines: Blenderbot's class would put its
    own decoder back.
    """
    from lora_s2s.tokens.one_file import PreTrainedTokenizerFast

    tokens = tokenizer.special_tokens_map.items()
    named = {name: str(token) for name, token in tokens if not isinstance(token, list)}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        **named,
        extra_special_tokens=[str(token) for token in tokenizer.extra_special_tokens],
        model_max_length=tokenizer.model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def alike(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers of one vocabulary put the same special tokens around texts, and show
    the same text.
    """
    return _around(one) == _around(other)


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[object, ...]:
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    sides = (_template(tokenizer, "text"), _template(tokenizer, "text_target"))
    return (*sides, tokenizer.decode(ids))


def end_note(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Returns how to give plain transformers a source's end that :func:`complete` cannot put; None
    where it is there.
    """
    if len(_template(tokenizer, "text")):
        return None
    return (
        "this tokenizer puts no end on sources, and the model was trained with it: in plain "
        "transformers, call `tokenizer(text + tokenizer.eos_token)`"
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
        "first": next(iter(target.prefix), None),
    }


def answer_prefix(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Returns the id that answers are forced to begin with, as the tokens of a prefix; empty for
    none.
    """
    return special_token_templates(tokenizer).target.prefix[:1]
