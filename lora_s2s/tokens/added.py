"""Tokens that a base's owner added, such as ``<sep>``: one id each where the data has them, and
kept in answers.

Padding, end, unknown, mask and language marks in a text are always read as text: they would steer
the model. Sentinels (``<extra_id_0>``) are text unless the recipe asks for them. A used token is an
ordinary token of the tokenizer that is saved with the adapter, so plain transformers reads and
shows it too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from lora_s2s.errors import UsageError
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.loading import language_codes
from lora_s2s.tokens.lossless import metaspace
from lora_s2s.tokens.one_file import PreTrainedTokenizerFast

_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_SENTINEL = re.compile(r"▁?<(extra_id|mask|unk)_\d+>")
_MOST_USED, _LONGEST_PATTERN = 1000, 400


def is_sentinel(token: str) -> bool:
    """Whether a token marks a gap in a text, as in the pretraining of T5, CodeT5 or Pegasus."""
    return _SENTINEL.fullmatch(token) is not None


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Returns the added tokens that a text may hold on purpose: sentinels, and what the base's
    owner added.
    """
    control = {*_named(tokenizer).values(), *language_codes(tokenizer)}
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(token for token in (added | _ordinary(tokenizer)) - control if token.strip())


def _ordinary(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Returns the added tokens that are used in any case, of tokenizers that lose the spaces beside
    them.
    """
    if not _is_one_file(tokenizer) or not _joins_by_bars(
        json.loads(tokenizer.backend_tokenizer.to_str())
    ):
        return set()
    return {str(token) for token in tokenizer.added_tokens_decoder.values() if not token.special}


def tokens_to_use(mode: str, counts: Mapping[str, int]) -> list[str]:
    """Returns which added tokens of the data are used.

    Args:
        mode: ``auto``: all but sentinels; ``use``: all; ``text``: none.
        counts: token → occurrences in the data.
    """
    found = sorted(token for token, count in counts.items() if count)
    return (
        []
        if mode == "text"
        else [token for token in found if mode == "use" or not is_sentinel(token)]
    )


def tokens_of_data(
    mode: str, tokenizer: PreTrainedTokenizerBase, counts: Mapping[str, int]
) -> tuple[PreTrainedTokenizerBase, dict[str, dict[str, int]]]:
    """Returns the tokenizer to prepare with, and how often added tokens stand in the data:
    ``used``, and ``text``.

    Args:
        mode: see :func:`tokens_to_use`.
        counts: token → occurrences in the data.


    Raises:
        UsageError: ``use`` for a tokenizer that cannot read them as tokens.
    """
    used = sorted(
        {*tokens_to_use(mode, counts), *(_ordinary(tokenizer) & {*tokens_to_use("use", counts)})}
    )
    changed = with_tokens(tokenizer, used)
    unread = [token for token in used if not _reads(changed, token)]
    if unread and mode == "use":
        problem = f"data.special_tokens is use, but the tokenizer reads {unread[0]!r:.100} as text"
        raise UsageError(problem, hint="--set data.special_tokens=auto")
    if unread:
        changed, used = tokenizer, []
    found = {token: count for token, count in sorted(counts.items()) if count}
    report = {
        "used": {token: count for token, count in found.items() if token in used},
        "text": {token: count for token, count in found.items() if token not in used},
    }
    return changed, report


def with_tokens(tokenizer: PreTrainedTokenizerBase, used: Sequence[str]) -> PreTrainedTokenizerBase:
    """Returns a tokenizer that reads added tokens in a text as one id each, and shows them in
    answers.

    Text without them has the ids it had; the spaces beside them come back.

    Raises:
        UsageError: a token that is none of :func:`added_tokens`.
    """
    if not used:
        return tokenizer
    known = {*added_tokens(tokenizer)}
    if not known.issuperset(used) or len(used) > _MOST_USED:
        odd = next((token for token in used if token not in known), used[0])
        raise UsageError(
            f"the tokenizer cannot use {odd!r:.100} as a token",
            hint="--set data.special_tokens=text",
        )
    if not _is_one_file(tokenizer):
        return _as_ordinary(tokenizer, used)
    backend: Any = tokenizer.backend_tokenizer
    made = json.loads(backend.to_str())
    # Normalised: searched for after all text was normalised, so that adjacent spaces are kept.
    _unmark(made, used, normalized=_keep_spaces(made, used))
    named = _named(tokenizer)
    others = [
        token for token in tokenizer.all_special_tokens if token not in {*named.values(), *used}
    ]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(made)),
        **named,
        extra_special_tokens=others,
        model_max_length=tokenizer.model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _reads(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether a token is one id, and its text comes back with the spaces beside it."""
    text = f"a {token} b"
    (ids,) = encode_texts([text], tokenizer)
    comes_back = (
        tokenizer.unk_token_id in ids or tokenizer.decode(ids, skip_special_tokens=True) == text
    )
    return ids.count(tokenizer.convert_tokens_to_ids(token)) == 1 and comes_back


def _is_one_file(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether ``tokenizer.json`` alone defines a tokenizer, so that any change to it is kept."""
    return getattr(tokenizer, "backend_tokenizer", None) is not None and not language_codes(
        tokenizer
    )


def _as_ordinary(
    tokenizer: PreTrainedTokenizerBase, used: Sequence[str]
) -> PreTrainedTokenizerBase:
    """Returns a copy of a tokenizer that is more than one file (NLLB, Marian, ByT5) with the tokens
    as ordinary ones.

    A space that is missing behind a token comes back where the vocabulary begins each word with
    one.
    """
    changed = copy(tokenizer)
    changed._extra_special_tokens = [
        token for token in tokenizer.extra_special_tokens if str(token) not in used
    ]
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        made = json.loads(tokenizer.backend_tokenizer.to_str())
        _unmark(made, used, normalized=False)
        changed._tokenizer = Tokenizer.from_str(json.dumps(made))
        return changed
    plain = {"special": False, "normalized": False, "lstrip": False, "rstrip": False}
    changed._added_tokens_decoder = {
        number: AddedToken(str(token), **plain) if str(token) in used else token
        for number, token in tokenizer.added_tokens_decoder.items()
    }
    return changed


def _unmark(made: Mapping[str, Any], used: Sequence[str], *, normalized: bool) -> None:
    for token in made["added_tokens"]:
        if token["content"] in used:
            token.update(special=False, normalized=normalized, lstrip=False, rstrip=False)


def counter_of(tokens: Collection[str]) -> re.Pattern[str] | None:
    """Returns a pattern that finds these tokens in a text, the longest first; None for none."""
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first))) if tokens else None


def _named(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    named = {name: getattr(tokenizer, name, None) for name in _NAMED}
    return {name: str(token) for name, token in named.items() if token is not None}


def _keep_spaces(made: dict[str, Any], used: Sequence[str]) -> bool:
    """Makes T5's pipeline distinguish ``a<sep> b`` from ``a<sep>b``; returns False for others, and
    for very many tokens.

    T5 begins each word with a bar. Cut at the spaces, the words beside a token look the same with a
    space and without; so spaces become bars themselves, after runs of them were made one, and a
    text that begins with a word gets one.
    """
    if not _joins_by_bars(made):
        return False
    own = made["normalizer"]
    firsts = sorted(
        {
            r"<extra_id_\d+>" if token.startswith("<extra_id_") else re.escape(token)
            for token in used
        }
    )
    begins = r"\A(?! |\z|" + "|".join(firsts) + ")"
    normalizers = [] if own is None else own["normalizers"] if own["type"] == "Sequence" else [own]
    # Where a space is put in front of all text, none of it would begin with a token.
    if len(begins) > _LONGEST_PATTERN or any(step["type"] == "Prepend" for step in normalizers):
        return False
    if made["pre_tokenizer"]["type"] == "Sequence":  # T5's, which cuts at the spaces first
        strip = {"type": "Strip", "strip_left": True, "strip_right": True}
        normalizers = [*normalizers, _replaced(r"\s+"), strip]
    made["normalizer"] = {"type": "Sequence", "normalizers": [*normalizers, _replaced(begins)]}
    made["pre_tokenizer"] = metaspace("never")
    return True


def _joins_by_bars(made: Mapping[str, Any]) -> bool:
    steps = made["pre_tokenizer"] or {}
    kinds = [step["type"] for step in steps.get("pretokenizers", [steps] if steps else [])]
    return made["model"]["type"] == "Unigram" and kinds in (
        ["Metaspace"],
        ["WhitespaceSplit", "Metaspace"],
    )


def _replaced(pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": " "}
