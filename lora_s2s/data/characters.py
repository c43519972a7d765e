"""Characters of the data, those that the vocabulary lacks, and tokens to add for them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_s2s.data.survey import SIDES
from lora_s2s.data_report import CharacterCounts
from lora_s2s.errors import UsageError
from lora_s2s.recipe.schema import DataSection, ModelSection
from lora_s2s.tokens.added import added_tokens, counter_of, tokens_of_data
from lora_s2s.tokens.loading import embedding_rows, languages_of, load_tokenizer
from lora_s2s.tokens.lossless import (
    ALWAYS,
    beyond_reach,
    lossless_tokenizer,
    lossless_tokens,
    unused_rows,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN = 50
# With auto, tokens are added if one in this many targets loses a character.
_TARGETS_FOR_ONE_LOST = 1000


class Characters:
    """Counts characters and double spaces of both sides.

    Args:
        tokens: of the tokenizer, counted too, in both sides together.
    """

    def __init__(self, tokens: Sequence[str] = ()) -> None:
        self._tokens = counter_of(tokens)
        self.tokens = Counter[str]()
        self._counts = {side: np.zeros(0x110000, np.int64) for side in SIDES}
        self.double_spaces = dict.fromkeys(SIDES, 0)
        self.rows = 0

    def add(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        """Counts a batch of rows."""
        self.rows += len(sources)
        for side, texts in zip(SIDES, (sources, targets), strict=True):
            text = "\0".join(texts)
            counts = np.bincount(np.frombuffer(text.encode("utf-32-le"), np.uint32))
            counts[0] -= len(texts) - 1
            self._counts[side][: len(counts)] += counts
            self.double_spaces[side] += text.count("  ")
            if self._tokens is not None:
                self.tokens.update(self._tokens.findall(text))

    def to_json(self) -> CharacterCounts:
        """All counts, to be added up."""
        return {
            "rows": self.rows,
            "double_spaces": {
                "source": self.double_spaces["source"],
                "target": self.double_spaces["target"],
            },
            "tokens": dict(self.tokens),
            "characters": {"source": self.counts("source"), "target": self.counts("target")},
        }

    def add_counts(self, counted: CharacterCounts) -> None:
        """Adds the counts of further rows."""
        self.rows += counted["rows"]
        self.tokens.update(counted["tokens"])
        spaces, characters = counted["double_spaces"], counted["characters"]
        self.double_spaces["source"] += spaces["source"]
        self.double_spaces["target"] += spaces["target"]
        for side, counts in zip(SIDES, (characters["source"], characters["target"]), strict=True):
            for char, count in counts.items():
                self._counts[side][ord(char)] += count

    def counts(self, side: str) -> dict[str, int]:
        """Counts by character."""
        counts = self._counts[side]
        codes = np.flatnonzero(counts)
        return {chr(code): int(count) for code, count in zip(codes, counts[codes], strict=True)}


@dataclass(frozen=True)
class BaseTokenizer:
    """A base's tokenizer, and the number of its embedding rows."""

    tokenizer: PreTrainedTokenizerBase
    rows: int

    @staticmethod
    def load(data: DataSection, model: ModelSection) -> BaseTokenizer:
        """Loads the tokenizer with the data's languages; raises as :func:`load_tokenizer`."""
        languages = languages_of(data)
        tokenizer = load_tokenizer(model.name, model.revision, **languages)
        return BaseTokenizer(tokenizer, embedding_rows(tokenizer, model.name, model.revision))

    @property
    def added_tokens(self) -> list[str]:
        """Tokens that the base's authors added and that texts may contain on purpose."""
        return added_tokens(self.tokenizer)

    @property
    def can_be_lossless(self) -> bool:
        """Whether there are enough unused embedding rows for ``data.lossless_text``."""
        return unused_rows(self.tokenizer, self.rows) >= len(ALWAYS)


@dataclass(frozen=True)
class DataTokenizer:
    """The tokenizer that prepares the data.

    Attributes:
        lossless: tokens added on unused embedding rows; empty for the base's tokenizer.
        added: counts in the data of the base's added tokens: ``used``, and read as ``text``.
    """

    tokenizer: PreTrainedTokenizerBase
    lossless: list[str]
    added: dict[str, dict[str, int]]


def tokenizer_for(data: DataSection, base: BaseTokenizer, characters: Characters) -> DataTokenizer:
    """The tokenizer for preparing data with ``lossless_text`` and ``special_tokens``.

    Raises:
        UsageError: lossless text is ``on``, but the base lacks unused embedding rows, or the data
            uses added tokens: both change the tokenizer.
    """
    tokenizer, added = tokens_of_data(data.special_tokens, base.tokenizer, characters.tokens)
    if not added["used"]:
        lossless = _lossless(data.lossless_text, tokenizer, base.rows, characters)
        return DataTokenizer(*lossless, added)
    if data.lossless_text == "on":
        problem = (
            "data.lossless_text=on excludes the use of the base's added tokens "
            f"({', '.join([*added['used']][:3])})"
        )
        raise UsageError(problem, hint="--set data.special_tokens=text, or data.lossless_text=off")
    return DataTokenizer(tokenizer, [], added)


def _lossless(
    mode: str, tokenizer: PreTrainedTokenizerBase, rows: int, characters: Characters
) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The tokenizer and the tokens added to it, none if it is the base's.

    Args:
        mode: ``on``, ``off`` or ``auto``: on if one target in a thousand would lose a character
            (not counting runs of spaces) and added tokens keep most of the lost ones.
    """
    unused = unused_rows(tokenizer, rows)
    if mode == "on" and unused < len(ALWAYS):
        raise UsageError(
            f"data.lossless_text=on needs {len(ALWAYS)} unused embedding rows or more, the base "
            f"has {unused}",
            hint="set data.lossless_text=off; byte-level bases such as google/byt5-small represent "
            "every text",
        )
    if mode == "off" or unused < len(ALWAYS):
        return tokenizer, []
    counts = Counter(characters.counts("target"))
    lost = Counter({char: counts[char] for char in beyond_reach(tokenizer, counts)})
    tokens = lossless_tokens(tokenizer, rows, counts + Counter(characters.counts("source")))
    kept = sum(lost[text] for text in tokens)
    enough = (
        lost.total() * _TARGETS_FOR_ONE_LOST >= max(1, characters.rows)
        and kept * 2 >= lost.total() > 0
    )
    return (
        (lossless_tokenizer(tokenizer, tokens), tokens)
        if mode == "on" or enough
        else (tokenizer, [])
    )


def characters_report(data_tokenizer: DataTokenizer, characters: Characters) -> dict[str, Any]:
    """The part of ``prepare``'s report on characters."""
    present = {char for side in SIDES for char in characters.counts(side)}
    beyond = beyond_reach(data_tokenizer.tokenizer, present)
    return {
        "lossless_text": list(data_tokenizer.lossless),
        "lost_characters": {side: _lost(characters.counts(side), beyond) for side in SIDES},
        "lost_runs_of_spaces": characters.double_spaces
        if beyond_reach(data_tokenizer.tokenizer, ["  "])
        else dict.fromkeys(SIDES, 0),
    }


def _lost(counts: Mapping[str, int], beyond: Mapping[str, str]) -> dict[str, Any]:
    lost = Counter({char: count for char, count in counts.items() if char in beyond})
    characters = [
        {
            "character": char,
            "code": f"U+{ord(char):04X}",
            "name": unicodedata.name(char, ""),
            "count": count,
            "becomes": beyond[char],
        }
        for char, count in lost.most_common(_SHOWN)
    ]
    return {"count": lost.total(), "different": len(lost), "characters": characters}
