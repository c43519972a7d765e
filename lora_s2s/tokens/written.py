"""What each token of a vocabulary writes into an answer, as bytes: what a grammar is matched with.

T5's ``▁the`` writes ``b" the"``, ByT5's id 100 ``b"a"``, BART's ``Ġthe`` ``b" the"``, Gemma's
``<0xC3>`` one byte of a character.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tokenizers import pre_tokenizers

from lora_s2s.errors import UsageError
from lora_s2s.tokens.loading import language_codes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BAR = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BREAK = re.compile(r"(.) \?")
_CHECKED = 200


@dataclass(frozen=True)
class WrittenTokens:
    """What tokens write.

    Attributes:
        pieces: the bytes of each id; None for those that no answer shows.
        begins_with_space: a target begins with a space that the answer does not show (T5's ``▁``).
        breaks: ids after which one space is not shown; see :mod:`lora_s2s.tokens.lossless`.
        never_first: ids whose first space is shown even where an answer begins with them.
    """

    pieces: Sequence[bytes | None] = field(repr=False)
    begins_with_space: bool = False
    breaks: frozenset[int] = frozenset()
    never_first: frozenset[int] = frozenset()

    @property
    def characters(self) -> frozenset[str] | None:
        """The characters that a token writes alone; None where any can be written, byte by byte."""
        single = {piece for piece in self.pieces if piece}
        if all(bytes([value]) in single for value in range(256)):
            return None
        texts = (piece.decode("utf-8", "replace") for piece in single)
        return frozenset(text for text in texts if len(text) == 1 and text != "\ufffd")

    def text(self, ids: Sequence[int]) -> str:
        """Returns the answer that ids are."""
        written = b""
        dropping = self.begins_with_space and ids[0] not in self.never_first
        for token in ids:
            piece = self.pieces[token] or b""
            written += piece.removeprefix(b" ") if dropping else piece
            dropping = token in self.breaks
        return written.decode("utf-8", "replace")


def written_tokens(tokenizer: PreTrainedTokenizerBase) -> WrittenTokens:
    """Returns what the tokens of a tokenizer write.

    Raises:
        UsageError: its way of joining tokens is none of those known here.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        made = _of_pipeline(tokens, json.loads(backend.to_str())["decoder"])
    elif type(tokenizer).__name__ == "ByT5Tokenizer":
        pieces = [token.encode("latin-1", "replace") for token in tokens]
        made = WrittenTokens(pieces)
    elif hasattr(tokenizer, "sp_model") or hasattr(tokenizer, "spm_target"):
        pieces = [token.replace(_BAR, " ").encode() for token in tokens]
        made = WrittenTokens(pieces, begins_with_space=True)
    else:
        made = None
    if made is not None:
        made = _without_special(made, tokenizer)
        if _is_right(made, tokenizer):
            return made
    raise UsageError(
        f"a grammar cannot follow how {type(tokenizer).__name__} joins tokens",
        hint="use a list of labels, which any tokenizer can write",
    )


def _of_pipeline(tokens: Sequence[str], decoder: Any) -> WrittenTokens | None:
    """Returns what tokens write by the decoder of ``tokenizer.json``; None for an unknown one."""
    steps = decoder["decoders"] if decoder and decoder["type"] == "Sequence" else [decoder]
    kinds = [step["type"] if step else None for step in steps]
    if kinds == ["ByteLevel"]:
        values = _byte_alphabet()
        return WrittenTokens([_of_letters(token, values) for token in tokens])
    if kinds[0] == "Metaspace":
        return _of_bars(tokens, steps[1:], begins=steps[0]["prepend_scheme"] != "never")
    if kinds == ["Replace", "ByteFallback", "Fuse"] and steps[0]["content"] == " ":
        return WrittenTokens([_of_bytes(token) for token in tokens])
    return None


def _of_bars(
    tokens: Sequence[str], steps: Sequence[Mapping[str, Any]], *, begins: bool
) -> WrittenTokens | None:
    """Returns what SentencePiece's tokens write, where ``steps`` replace some (lossless text)."""
    replaced: dict[str, str] = {}
    breaks: set[str] = set()
    for step in steps:
        pattern = step.get("pattern", {})
        if match := _BREAK.fullmatch(pattern.get("Regex", "")):
            breaks.add(match[1])
            replaced[match[1]] = step["content"]
        elif "String" in pattern:
            replaced[pattern["String"]] = step["content"]
        elif step["type"] != "Fuse":
            return None
    pieces = [replaced.get(token, token.replace(_BAR, " ")).encode() for token in tokens]
    after, never_first = set(), set()
    for number, token in enumerate(tokens):
        if token in breaks:
            after.add(number)
        elif replaced.get(token, "")[:1] == " ":
            never_first.add(number)
    return WrittenTokens(pieces, begins, frozenset(after), frozenset(never_first))


def _of_bytes(token: str) -> bytes:
    match = _BYTE.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else token.replace(_BAR, " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """Returns character → byte of byte-level vocabularies (GPT-2's, BART's)."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    plain = {letter for letter in letters if ord(letter) < 256}
    others = iter(sorted({*letters} - plain))
    values = {letter: ord(letter) for letter in plain}
    rest = (value for value in range(256) if value not in values.values())
    return {**values, **dict(zip(others, rest, strict=True))}


def _of_letters(token: str, values: Mapping[str, int]) -> bytes:
    if all(letter in values for letter in token):
        return bytes(values[letter] for letter in token)
    return token.encode()  # an added token


def _without_special(made: WrittenTokens, tokenizer: PreTrainedTokenizerBase) -> WrittenTokens:
    added = tokenizer.added_tokens_decoder
    hidden = {number for number, token in added.items() if token.special}
    hidden |= {*tokenizer.all_special_ids, *language_codes(tokenizer).values()}
    shown = [
        piece if piece and number not in hidden else None
        for number, piece in enumerate(made.pieces)
    ]
    return replace(made, pieces=shown)


def _is_right(made: WrittenTokens, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer shows random answers as this table says."""
    chosen = random.Random(0)
    readable = [
        number
        for number, piece in enumerate(made.pieces)
        if piece and piece.decode("utf-8", "replace").encode() == piece
    ]
    if not readable:
        return False
    slow = getattr(tokenizer, "backend_tokenizer", None) is None
    first = [*made.breaks] or readable
    for _ in range(_CHECKED):
        ids = chosen.choices(readable, k=chosen.randrange(1, 6))
        ids.insert(chosen.randrange(len(ids)), chosen.choice(first))
        shown = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        expected = made.text(ids)
        # sentencepiece's own decoding strips the answer's end.
        if shown != expected and not (slow and shown == expected.strip()):
            return False
    return True
