"""Texts to token ids: source and target apart, each cut by its own rule. The one place that
encodes.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from unicodedata import category

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.models import Unigram

from lora_s2s import probe
from lora_s2s.errors import DataError, SetupError, ToolkitError, UsageError
from lora_s2s.files import sha256_file, sha256_json
from lora_s2s.hub import locate_model
from lora_s2s.tokens.files import NO_TOKENIZER, TOKENIZER_FILES, check_tokenizer_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LANGUAGES = ("source_language", "target_language")
_MOST_WORDS = 200_000
_NLLB_CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")

Ids = Sequence[int] | npt.NDArray[np.int32]


@dataclass(frozen=True)
class Frame:
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
class Frames:
    """What stands around sources, and around targets."""

    source: Frame
    target: Frame


@dataclass(frozen=True, slots=True)
class Features:
    """One example as token ids, each side in its frame: both end in ``</s>``, but for a target that
    was cut.
    """

    input_ids: Ids
    labels: Ids
    source_truncated: bool = False
    target_truncated: bool = False


def load_tokenizer(
    model_name: str,
    revision: str | None = None,
    *,
    source_language: str | None = None,
    target_language: str | None = None,
) -> PreTrainedTokenizerBase:
    """Loads a model's tokenizer, its languages set, with the clean-up that rewrites decoded text
    off.

    Raises:
        UsageError: a language is missing where texts carry a code, unknown, or given where texts
            carry none.
        DataError: the folder holds no tokenizer, a damaged one, or one that asks for too much.
        SetupError: a package to read it is missing, or the model cannot be had.
    """
    # Seconds to import, and processes that only encode do without.
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    folder = locate_model(model_name, revision, weights=False)
    check_tokenizer_files(folder)
    probe.check_tokenizer(folder)
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Marian's recommends a package for rarer punctuation
            tokenizer = AutoTokenizer.from_pretrained(
                folder, clean_up_tokenization_spaces=False, local_files_only=True
            )
    except ImportError as error:
        hint = "pip install sentencepiece protobuf"
        raise SetupError(
            f"the tokenizer of {model_name} needs a package: {error}", hint=hint
        ) from error
    except BaseException as error:
        # Whatever else goes wrong over these files is in them; the Rust part raises bare
        # Exceptions, and panics.
        if isinstance(error, (ToolkitError, MemoryError, KeyboardInterrupt, SystemExit)):
            raise
        reason = str(error).strip().split("\n")[0][:200]
        problem = f"no tokenizer can be loaded from {model_name}: {reason}"
        raise DataError(problem, hint=NO_TOKENIZER, where=str(folder)) from error
    finally:
        transformers_logging.set_verbosity(level)
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise DataError(
            f"the tokenizer of {model_name} has no end or padding token", where=str(folder)
        )
    _set_languages(
        tokenizer, dict(zip(LANGUAGES, (source_language, target_language), strict=True)), model_name
    )
    return tokenizer


def language_codes(tokenizer: Any) -> dict[str, int]:
    """Returns language code → id of a tokenizer that marks every text with one; empty for any
    other.
    """
    if not hasattr(tokenizer, "src_lang"):
        return {}
    named: dict[str, int] | None = getattr(tokenizer, "lang_code_to_id", None)
    if named is None:
        codes = [
            token
            for token in map(str, tokenizer.extra_special_tokens)
            if _NLLB_CODE.fullmatch(token)
        ]
        named = dict(zip(codes, tokenizer.convert_tokens_to_ids(codes), strict=True))
    return {code: token for code, token in sorted(named.items()) if token != tokenizer.unk_token_id}


def _set_languages(tokenizer: Any, asked: Mapping[str, str | None], name: str) -> None:
    codes = language_codes(tokenizer)
    for key, code in asked.items():
        if not codes and code is not None:
            hint = "leave it away; a task prefix such as >>fra<< goes into data.template"
            raise UsageError(
                f"data.{key} is '{code}', but {name} marks no text with a language", hint=hint
            )
        if codes and code not in codes:
            problem = (
                f"'{code}' is unknown"
                if code
                else f"is missing: {name} marks every text with its language"
            )
            near = [known for known in codes if code and known[:2].lower() == code[:2].lower()] or [
                *codes
            ]
            listed = ", ".join(near[:8]) + (", …" if len(near) > 8 else "")
            raise UsageError(
                f"data.{key} {problem}; codes: {listed}", hint=f"--set data.{key}={near[0]}"
            )
    if codes:
        tokenizer.src_lang, tokenizer.tgt_lang = asked.values()


def frames_of(tokenizer: Any) -> Frames:
    """Returns the tokenizer's frames, with a final ``</s>`` where it puts none.

    A tokenizer that puts no end on targets (Gemma's ``<bos> x``) was made for decoders: its targets
    get the end, without which no answer would stop, and no beginning, which is what the decoder
    starts with.
    """
    end = int(tokenizer.eos_token_id)
    source, target = _frame(tokenizer, "text"), _frame(tokenizer, "text_target")
    return Frames(
        source if len(source) else Frame((), (end,)),
        target if end in target.suffix else Frame((), (end,)),
    )


def _frame(tokenizer: Any, side: str) -> Frame:
    whole, bare = (
        tokenizer(**{side: "a"}, add_special_tokens=added)["input_ids"] for added in (True, False)
    )
    start = next(index for index in range(len(whole)) if whole[index : index + len(bare)] == bare)
    return Frame(tuple(whole[:start]), tuple(whole[start + len(bare) :]))


def first_ids(tokenizer: Any) -> dict[str, int | None]:
    """Returns what answers begin with, as :func:`lora_s2s.models.common.begin_answers` takes it.

    ``start`` is set where the target's language ends its frame (mBART: ``x </s> ro_RO``), and so
    starts the decoder; ``first`` where the frame begins with an id, which is forced.
    """
    target = frames_of(tokenizer).target
    last = target.suffix[-1]
    return {
        "start": None if last == tokenizer.eos_token_id else last,
        "first": target.prefix[0] if target.prefix else None,
    }


def tokenizer_hash(model_name: str, revision: str | None = None) -> str:
    """Returns a hash over the tokenizer's files."""
    folder: Path = locate_model(model_name, revision, weights=False)
    return sha256_json(
        {name: sha256_file(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    )


@contextmanager
def panics_told() -> Iterator[None]:
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
        raise DataError(
            problem, hint="get the model's folder again from where it was published"
        ) from error


class TextEncoder(Protocol):
    """Texts to ids, no special token added, and none let in."""

    def __call__(self, texts: Sequence[str], side: str = "text", /) -> list[list[int]]:
        """Returns each text's ids; ``side`` is ``text`` for sources, ``text_target`` for
        targets.
        """


class FastEncoder:
    """A fast tokenizer's pipeline alone; it can go to another process.

    A vocabulary in T5's shape reads a text word by word: what a word became is remembered, and most
    texts are made of words that were seen before.

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
        self._whole = [token["content"] for token in made["added_tokens"] if not token["special"]]

    def __reduce__(self) -> tuple[Any, ...]:
        return _fast_encoder, (self._pipeline.to_str(), self._spelled)

    def __call__(self, texts: Sequence[str], _side: str = "text", /) -> list[list[int]]:
        """Returns each text's ids; both sides are read alike."""
        split = [self._words_of(text) for text in texts]
        found = [None if words is None else [*map(self._words.get, words)] for words in split]
        new = [place for place, pieces in enumerate(found) if pieces and None in pieces]
        self._learn({word for place in new for word in split[place] or ()})
        for place in new:
            found[place] = [*map(self._words.get, split[place] or ())]
        whole = iter(
            self._encode([text for text, words in zip(texts, split, strict=True) if words is None])
        )
        return [
            next(whole) if pieces is None else [*chain.from_iterable(pieces)]  # type: ignore[arg-type]
            for pieces in found
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
        return None if any(token in text for token in self._whole) else words

    def _learn(self, words: Set[str]) -> None:
        if len(self._words) > _MOST_WORDS:
            self._words.clear()
        new = [*(words - self._words.keys())]
        self._words.update(zip(new, self._encode(new), strict=True))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        pipeline = self._pipeline
        # Whoever else uses it sets them anew for every call.
        pipeline.no_truncation()
        pipeline.no_padding()
        pipeline.encode_special_tokens = True  # named the wrong way round: they are not looked for
        with panics_told():
            encoded = [
                text.ids for text in pipeline.encode_batch_fast(texts, add_special_tokens=False)
            ]
        return [_spelled_out(ids, self._spelled) for ids in encoded]


def _fast_encoder(text: str, spelled: Mapping[int, tuple[int, ...]]) -> FastEncoder:
    pipeline, model = Tokenizer.from_str(text), json.loads(text)["model"]
    if model["type"] == "Unigram":
        # The Rust parser misses the last digit of a score: a word that can be cut in two ways is
        # then cut otherwise.
        vocabulary = [(piece, score) for piece, score in model["vocab"]]
        pipeline.model = Unigram(vocabulary, model["unk_id"], model["byte_fallback"])
    return FastEncoder(pipeline, spelled)


@lru_cache(maxsize=8)
def encoder_of(tokenizer: PreTrainedTokenizerBase) -> TextEncoder:
    """Returns what encodes texts with a tokenizer.

    ``</s>``, ``<pad>`` or ``<extra_id_5>`` written in a text are text: T5's vocabulary has them as
    whole pieces even where special tokens are not looked for, so their ids are replaced by those of
    their letters.
    """
    spelled = _spelling(tokenizer)
    if _only_pipeline(tokenizer):
        return FastEncoder(tokenizer.backend_tokenizer, spelled)

    def encode(texts: Sequence[str], side: str = "text", /) -> list[list[int]]:
        # Marian cuts each side with a vocabulary of its own.
        settings = {
            "add_special_tokens": False,
            "split_special_tokens": True,
            "return_attention_mask": False,
        }
        with panics_told():
            encoded = (
                tokenizer(**{side: list(texts)}, **settings, verbose=False)["input_ids"]
                if texts
                else []
            )
        return [_spelled_out(ids, spelled) for ids in encoded]

    return (
        _around_whole(encode, tokenizer, spelled)
        if getattr(tokenizer, "backend_tokenizer", None) is None
        else encode
    )


def _around_whole(encode: TextEncoder, tokenizer: Any, control: Collection[int]) -> TextEncoder:
    """Returns an encoder that takes a slow tokenizer's ordinary added tokens whole."""
    added = tokenizer.added_tokens_decoder.items()
    whole = {
        str(token): number for number, token in added if not token.special and number not in control
    }
    pattern = re.compile(f"({'|'.join(map(re.escape, sorted(whole, key=len, reverse=True)))})")

    def around(texts: Sequence[str], side: str = "text", /) -> list[list[int]]:
        parts = [pattern.split(text) for text in texts]
        between = iter(encode([part for text in parts for part in text if part not in whole], side))
        ids = [
            [[whole[part]] if part in whole else next(between) for part in text] for text in parts
        ]
        return [[*chain.from_iterable(pieces)] for pieces in ids]

    return around if whole else encode


def _only_pipeline(tokenizer: Any) -> bool:
    """Whether nothing but its Rust part makes this tokenizer's ids, sources' and targets' alike."""
    from transformers import PreTrainedTokenizerFast

    names = ("__call__", "_encode_plus")
    return all(
        getattr(type(tokenizer), name, None) is getattr(PreTrainedTokenizerFast, name)
        for name in names
    )


def _spelling(tokenizer: Any) -> dict[int, tuple[int, ...]]:
    control = {*tokenizer.all_special_ids, *language_codes(tokenizer).values()} - {
        tokenizer.unk_token_id
    }
    spelled = {}
    for token in control:
        letters = (
            tokenizer.convert_tokens_to_ids(letter)
            for letter in tokenizer.convert_ids_to_tokens(token)
        )
        spelled[token] = tuple(
            letter for letter in letters if letter is not None and letter not in control
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


def encode_source(
    text: str, tokenizer: PreTrainedTokenizerBase, *, max_source_tokens: int, truncate_source: str
) -> list[int]:
    """Returns a source's ids in their frame, at most ``max_source_tokens`` in all.

    Args:
        truncate_source: ``left`` keeps the end of the text; ``right`` (and ``drop``, which only
            preparing can do) its beginning.
    """
    frame = frames_of(tokenizer).source
    return frame.around(
        _cut(encode_texts([text], tokenizer)[0], max_source_tokens - len(frame), truncate_source)
    )


def _cut(ids: list[int], room: int, side: str) -> list[int]:
    room = max(room, 0)
    if len(ids) <= room:
        return ids
    return ids[len(ids) - room :] if side == "left" else ids[:room]


def features_of(
    source: list[int],
    target: list[int],
    frames: Frames,
    *,
    max_source_tokens: int,
    max_target_tokens: int,
    truncate_source: str,
    long_targets: str,
) -> Features | str:
    """Cuts encoded texts and puts them into their frames, or returns the reason for leaving the
    pair out.

    Args:
        truncate_source: ``left`` and ``right`` cut there, the frame stays; ``drop`` leaves the pair
            out.
        long_targets: ``drop`` leaves the pair out; ``cut`` keeps the beginning, without ``</s>``,
            which would teach the model to stop early; ``keep`` keeps all.
    """
    if not source or not target:
        return f"empty {'target' if source else 'source'} after tokenising"
    long_source = len(source) + len(frames.source) > max_source_tokens
    if long_source and truncate_source == "drop":
        return f"source longer than {max_source_tokens} tokens"
    labels = frames.target.around(target)
    long_target = len(labels) > max_target_tokens
    if long_target and long_targets == "drop":
        return f"target longer than {max_target_tokens} tokens"
    input_ids = frames.source.around(
        _cut(source, max_source_tokens - len(frames.source), truncate_source)
    )
    cut_target = long_target and long_targets == "cut"
    if cut_target:
        labels = labels[:max_target_tokens]
    return Features(input_ids, labels, source_truncated=long_source, target_truncated=cut_target)
