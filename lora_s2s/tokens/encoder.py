"""Texts to the ids of their pieces, without special tokens: none is added, and none let in."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Protocol
from unicodedata import category

from tokenizers import Tokenizer

from lora_s2s.errors import DataError
from lora_s2s.tokens.loading import language_codes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_WORDS = 200_000


class TextEncoder(Protocol):
    """Texts to ids, no special token added, and none let in."""

    def __call__(self, texts: Sequence[str], side: str = "text", /) -> list[list[int]]:
        """Returns each text's ids; ``side`` is ``text`` for sources, ``text_target`` for
        targets.
        """


class FastEncoder:
    """A fast tokenizer's pipeline alone.

    A vocabulary in T5's shape reads a text word by word: what a word became is remembered, and most
    texts are made of words seen before. That saves 30 % of the time to prepare.

    Args:
        spelled: control id → the ids of its letters; see :func:`encoder_of`.
    """

    def __init__(self, pipeline: Tokenizer, spelled: Mapping[int, tuple[int, ...]]) -> None:
        self._pipeline, self._spelled = pipeline, spelled
        made = json.loads(pipeline.to_str())
        splits = made["pre_tokenizer"] or {}
        at_spaces = any(step.get("split") for step in splits.get("pretokenizers", [splits]))
        self._by_word = made["model"]["type"] == "Unigram" and at_spaces
        self._words: dict[str, list[int]] = {}
        # Tokens that are looked for in a text, and beside which its spaces count.
        self._added = [token["content"] for token in made["added_tokens"] if not token["special"]]

    def __call__(self, texts: Sequence[str], _side: str = "text", /) -> list[list[int]]:
        """Returns each text's ids; both sides are read alike."""
        if len(self._words) > _MOST_WORDS:
            self._words.clear()
        split = [self._words_of(text) for text in texts]
        self._learn({word for words in split for word in words or () if word not in self._words})
        unsplit = [text for text, words in zip(texts, split, strict=True) if words is None]
        encoded = iter(self._encode(unsplit))
        learnt = self._words
        return [
            next(encoded)
            if words is None
            else [*chain.from_iterable(map(learnt.__getitem__, words))]
            for words in split
        ]

    def _words_of(self, text: str) -> list[str] | None:
        """Returns the words of a text that is read word by word; None where something joins what is
        beside a space.
        """
        # Printable: no other space than the plain one, nothing that is invisible.
        words = text.split(" ") if self._by_word and text.isprintable() else [""]
        if not all(words) or (
            not text.isascii() and any(category(word[0])[0] == "M" for word in words)
        ):
            return None
        return None if any(token in text for token in self._added) else words

    def _learn(self, words: Set[str]) -> None:
        new = [*words]
        self._words.update(zip(new, self._encode(new), strict=True))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        pipeline = self._pipeline
        # Whoever else uses it sets them anew for every call.
        pipeline.no_truncation()
        pipeline.no_padding()
        pipeline.encode_special_tokens = True  # named the wrong way round: they are not looked for
        with panics_as_errors():
            encoded = pipeline.encode_batch_fast(texts, add_special_tokens=False)
            ids = [text.ids for text in encoded]
        return [_spelled_out(pieces, self._spelled) for pieces in ids]


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turns a panic of the Rust part, which a damaged tokenizer may keep for some text, into an
    error.

    Raises:
        DataError: it panicked.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        problem = f"the tokenizer is damaged: its library panics at a text: {error}"
        raise DataError(problem, hint="download the model's folder again") from error


@lru_cache(maxsize=8)
def encoder_of(tokenizer: PreTrainedTokenizerBase) -> TextEncoder:
    """Returns what encodes texts with a tokenizer.

    ``</s>``, ``<pad>`` or ``<extra_id_5>`` written in a text are text: T5's vocabulary has them as
    pieces even where special tokens are not looked for, so their ids are replaced by those of their
    letters.
    """
    spelled = _spelling(tokenizer)
    if _only_pipeline(tokenizer):
        return FastEncoder(tokenizer.backend_tokenizer, spelled)
    settings = {
        "add_special_tokens": False,
        "split_special_tokens": True,
        "return_attention_mask": False,
        "verbose": False,
    }

    def encode(texts: Sequence[str], side: str = "text", /) -> list[list[int]]:
        # Marian cuts each side with a vocabulary of its own.
        if not texts:
            return []
        with panics_as_errors():
            encoded = tokenizer(**{side: list(texts)}, **settings)["input_ids"]
        return [_spelled_out(ids, spelled) for ids in encoded]

    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return _with_added_tokens(encode, tokenizer, spelled)
    return encode


def _with_added_tokens(
    encode: TextEncoder, tokenizer: PreTrainedTokenizerBase, control: Collection[int]
) -> TextEncoder:
    """Returns an encoder that reads a slow tokenizer's ordinary added tokens as one id each."""
    tokens = tokenizer.added_tokens_decoder.items()
    added = {
        str(token): number
        for number, token in tokens
        if not token.special and number not in control
    }
    if not added:
        return encode
    longest_first = sorted(added, key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def encode_around(texts: Sequence[str], side: str = "text", /) -> list[list[int]]:
        parts = [pattern.split(text) for text in texts]
        between = [part for text in parts for part in text if part not in added]
        encoded = iter(encode(between, side))
        ids = [
            [[added[part]] if part in added else next(encoded) for part in text] for text in parts
        ]
        return [[*chain.from_iterable(pieces)] for pieces in ids]

    return encode_around


def _only_pipeline(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether nothing but its Rust part makes this tokenizer's ids, sources' and targets' alike."""
    from transformers import PreTrainedTokenizerFast

    names = ("__call__", "_encode_plus")
    return all(
        getattr(type(tokenizer), name, None) is getattr(PreTrainedTokenizerFast, name)
        for name in names
    )


def _spelling(tokenizer: PreTrainedTokenizerBase) -> dict[int, tuple[int, ...]]:
    """Returns control id → the ids of its letters."""
    codes = language_codes(tokenizer).values()
    control = {*tokenizer.all_special_ids, *codes} - {tokenizer.unk_token_id}
    spelled = {}
    for token in control:
        letters = tokenizer.convert_ids_to_tokens(token)
        ids = map(tokenizer.convert_tokens_to_ids, letters)
        spelled[token] = tuple(
            letter for letter in ids if letter is not None and letter not in control
        )
    return spelled


def _spelled_out(ids: list[int], spelled: Mapping[int, tuple[int, ...]]) -> list[int]:
    if spelled.keys().isdisjoint(ids):
        return ids
    return [piece for token in ids for piece in spelled.get(token, (token,))]


def encode_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, side: str = "text"
) -> list[list[int]]:
    """Returns each text's ids; see :func:`encoder_of`."""
    return encoder_of(tokenizer)(texts, side)
