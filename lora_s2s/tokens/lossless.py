"""Lossless text: what T5's vocabulary lacks becomes added tokens on unused embedding rows.

T5 has no ``< \\ ^ { } ~``, backtick, newline or tab, folds runs of spaces, and takes ``</s>`` in a
text for its end. Flan-T5 has 28 embedding rows more than its tokenizer has entries. Each of them
can stand for one string, so that ids decode to exactly the text that was encoded.
``tokenizer.json`` holds all of it: no program needs this package to read it.

An ASCII character is added as a piece of its own; any other string is replaced before normalisation
by a stand-in: one of Unicode's noncharacters, which no text has. After a newline or a tab the
encoder inserts the space that a word's usual piece begins with, and the decoder removes it. Of a
run of spaces the last one belongs to the next word.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from lora_s2s.errors import UsageError
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.one_file import PreTrainedTokenizerFast

_RUNS = (
    " " * 8,
    " " * 4,
    " " * 2,
)  # Measured on code: an indentation of 2, 4, 6, 8 or 12 costs two pieces at most.
ALWAYS: tuple[str, ...] = ("\n", "\t", *_RUNS, "<", "\\", "^", "{", "}", "~", "`")
_BREAKS = ("\n", "\t")
ESCAPE = ""
"""Among the tokens: a mark's row. Those after it have no row of their own: they are written as the
mark and a sign.
"""
# Signs that no following accent changes; used are those that a vocabulary has.
_SIGNS = "0123456789.,:;!?'\"-()/&%$#@*+[]_|"
_STAND_INS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
_BAR = "▁"
_PLAIN = frozenset(string.ascii_letters + string.digits + string.punctuation) - {
    "<"
}  # "<" would complete "</s>".
_NORMALIZERS = frozenset({"Precompiled", "Strip", "Replace"})


def metaspace(prepend_scheme: str) -> dict[str, object]:
    """A pre-tokenizer, or decoder, that cuts text before each space and writes it as a bar."""
    return {
        "type": "Metaspace",
        "replacement": _BAR,
        "prepend_scheme": prepend_scheme,
        "split": True,
    }


def unused_rows(tokenizer: PreTrainedTokenizerBase, rows: int) -> int:
    """Returns how many ids from ``len(tokenizer)`` on could be added tokens.

    Args:
        rows: the model's embedding rows.

    Returns:
        0 for a tokenizer that is not in T5's shape (ByT5, BART, byte fallback), or that has such
        tokens already.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.unk_token_id is None:
        return 0
    made = json.loads(backend.to_str())
    model = made["model"]
    if model["type"] != "Unigram" or model["byte_fallback"]:
        return 0
    pieces = {piece for piece, _ in model["vocab"]}
    kinds = {part["type"] for part in _parts(made["normalizer"])}
    t5 = (
        {_BAR, "<extra_id_0>"} <= pieces
        and kinds <= _NORMALIZERS
        and len(model["vocab"]) == len(tokenizer)
    )
    return (
        min(max(rows - len(tokenizer), 0), len(_STAND_INS))
        if t5 and pieces.isdisjoint(_STAND_INS)
        else 0
    )


def lossless_tokens(
    tokenizer: PreTrainedTokenizerBase, rows: int, counts: Mapping[str, int]
) -> list[str]:
    """Chooses the tokens to add: :data:`ALWAYS`, then what the data has most of and the tokenizer
    loses.

    Args:
        rows: the model's embedding rows.
        counts: character → occurrences in the data.

    Returns:
        as many as there are unused rows; where more is lost, the last row is that of
        :data:`ESCAPE`, followed by the next most frequent ones.

    Raises:
        UsageError: the model has fewer unused rows than :data:`ALWAYS` has strings.
    """
    unused = unused_rows(tokenizer, rows)
    if unused < len(ALWAYS):
        raise UsageError(
            f"lossless text needs {len(ALWAYS)} unused embedding rows and a tokenizer in T5's "
            f"shape; here {unused} of {rows} rows can be used",
            hint="--set data.lossless_text=off",
        )
    asked = [text for text in counts if text not in ALWAYS and text not in _STAND_INS]
    lost = sorted(beyond_reach(tokenizer, asked), key=lambda text: (-counts[text], text))
    free = unused - len(ALWAYS)
    if len(lost) <= free:
        return [*ALWAYS, *lost]
    if not free:
        return [*ALWAYS]
    with_row, others = lost[: free - 1], lost[free - 1 :]
    return [*ALWAYS, *with_row, ESCAPE, *others[: len(_signs(tokenizer))]]


def _signs(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    vocabulary = tokenizer.get_vocab()
    return [sign for sign in _SIGNS if sign in vocabulary]


def rows_taken(tokens: Sequence[str]) -> int:
    """Returns how many rows these tokens take: up to the mark, if there is one."""
    return tokens.index(ESCAPE) + 1 if ESCAPE in tokens else len(tokens)


def lossless_tokenizer(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]
) -> PreTrainedTokenizerBase:
    """Returns a tokenizer whose ids decode to the same text, for all text of its vocabulary and of
    ``tokens``.

    The id of ``tokens[i]`` is ``len(tokenizer) + i``, up to the mark. Text without these tokens,
    without spaces at its ends or in runs, has the ids it had. Control tokens written in a text are
    text. What ``save_pretrained`` writes is read by ``AutoTokenizer``, in transformers 4 and 5.

    Args:
        tokens: strings of :data:`ALWAYS` and single characters, no more than there are
            :func:`unused_rows` up to the mark; see :func:`lossless_tokens`.

    Raises:
        UsageError: another string, one twice, too many, or the tokenizer is not in T5's shape.
    """
    _check_tokens(tokenizer, tokens)
    backend: Any = tokenizer.backend_tokenizer
    made = json.loads(backend.to_str())
    vocab = made["model"]["vocab"]
    vocabulary, lowest = {piece for piece, _ in vocab}, min(score for _, score in vocab)
    with_row = tokens[: rows_taken(tokens)]
    pieces = {
        text: text if text and text in _PLAIN and text not in vocabulary else stand_in
        for text, stand_in in zip(with_row, _STAND_INS, strict=False)
    }
    # No other piece has these characters, so any score will do that leaves the lowest, and so that
    # of <unk>, as it is.
    vocab.extend([piece, lowest] for piece in pieces.values())
    mark = pieces.pop(ESCAPE, "")
    pieces |= {
        text: mark + sign
        for text, sign in zip(tokens[len(with_row) :], _signs(tokenizer), strict=False)
    }
    stand_ins = {text: piece for text, piece in pieces.items() if text != piece}
    made["normalizer"] = _sequence("normalizers", _encoding(pieces, made["normalizer"]))
    made["pre_tokenizer"] = metaspace("never")
    made["decoder"] = _sequence("decoders", _decoding(stand_ins, mark))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(made)),
        eos_token=str(tokenizer.eos_token),
        pad_token=str(tokenizer.pad_token),
        unk_token=str(tokenizer.unk_token),
        model_max_length=tokenizer.model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )


def beyond_reach(tokenizer: PreTrainedTokenizerBase, characters: Iterable[str]) -> dict[str, str]:
    """Returns those characters that do not come back from a target as written → what happens to
    them.

    Returns:
        ``unknown``, ``vanishes`` or ``becomes 'x'``, in the order given. A longer string, such as
        two spaces, can be asked for as well.
    """
    asked = list(dict.fromkeys(characters))
    # Between letters, since many tokenizers trim a text.
    encoded = encode_texts([f"a{text}a" for text in asked], tokenizer, side="text_target")
    shown = [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in encoded]
    lost: dict[str, str] = {}
    for text, ids, back in zip(asked, encoded, shown, strict=True):
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            lost[text] = "unknown"
        elif back != f"a{text}a":
            kept = back.removeprefix("a").removesuffix("a")
            lost[text] = f"becomes {kept!r}" if kept else "vanishes"
    return lost


def _check_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    allowed = {*ALWAYS, ESCAPE}
    odd = [
        text
        for text in tokens
        if text not in allowed and (len(text) != 1 or text in _STAND_INS or text == " ")
    ]
    if odd:
        raise UsageError(
            f"{odd[0]!r} cannot be added as a token; expected a character, or one of "
            "lossless.ALWAYS"
        )
    if len(set(tokens)) < len(tokens):
        raise UsageError("a token is to be added twice")
    rows = rows_taken(tokens)
    if rows > unused_rows(tokenizer, len(tokenizer) + rows) or len(tokens) > rows + len(
        _signs(tokenizer)
    ):
        raise UsageError(
            f"cannot add {len(tokens)} tokens to this tokenizer; expected T5's shape and up to 32 "
            "rows"
        )


def _parts(normalizer: Any) -> list[Any]:
    if normalizer is None:
        return []
    return list(normalizer["normalizers"]) if normalizer["type"] == "Sequence" else [normalizer]


def _encoding(pieces: Mapping[str, str], normalizer: Any) -> list[Any]:
    """The normalisers, in order: stand-ins, the vocabulary's own character map, spaces after
    breaks, runs.
    """
    steps = [_replace({"Regex": f"[{''.join(_STAND_INS)}]"}, "\N{REPLACEMENT CHARACTER}")]
    single = {text: piece for text, piece in pieces.items() if text not in _RUNS}
    steps += [_replace({"String": text}, piece) for text, piece in single.items() if text != piece]
    steps += [part for part in _parts(normalizer) if part["type"] == "Precompiled"]
    breaks = "".join(pieces[text] for text in _BREAKS if text in pieces)
    if breaks:  # No space where an added character follows: none of them begins a word's piece.
        firsts = re.escape("".join(dict.fromkeys(piece[0] for piece in single.values())))
        steps.append(_replace({"Regex": rf"(?<=[{breaks}])(?![{firsts}]|\z)"}, " "))
    steps += [_replace({"Regex": f"{run}(?= )"}, pieces[run]) for run in _RUNS if run in pieces]
    return [*steps, {"type": "Prepend", "prepend": " "}]


def _decoding(stand_ins: Mapping[str, str], mark: str) -> list[Any]:
    """The decoders, in order: words joined, runs, breaks with the space behind them, single
    characters, lone marks.
    """
    steps: list[Any] = [metaspace("always"), {"type": "Fuse"}]
    steps += [_replace({"String": stand_ins[run]}, run) for run in _RUNS if run in stand_ins]
    for text, piece in stand_ins.items():
        if text not in _RUNS:
            steps.append(
                _replace({"Regex": f"{piece} ?"} if text in _BREAKS else {"String": piece}, text)
            )
    return [*steps, _replace({"String": mark}, "")] if mark else steps


def _replace(pattern: Mapping[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _sequence(kind: str, steps: list[Any]) -> dict[str, Any]:
    return {"type": "Sequence", kind: steps}
