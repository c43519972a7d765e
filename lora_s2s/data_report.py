"""What ``prepare`` reports, as the types of its JSON: counts, lengths, limits, pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Literal, TypeVar

from typing_extensions import NotRequired, TypedDict

from lora_s2s.documents import Amount, Count

_Value = TypeVar("_Value")

Side = Literal["source", "target"]


def listed(reasons: Iterable[tuple[str, int]]) -> str:
    """Reasons with their counts: ``3 × empty target, 1 × invalid UTF-8``."""
    return ", ".join(f"{count:,} × {reason}" for reason, count in reasons)


class RowCounts(TypedDict):
    """Rows of the files: read, kept, and dropped with the reasons."""

    read: Count
    kept: Count
    rejected: Count
    by_reason: dict[str, Count]


class TokenCounts(TypedDict):
    """Quantiles of the tokens of a row."""

    p50: Count
    p90: Count
    p95: Count
    p99: Count
    max: Count


class Limit(TypedDict):
    """A length limit, and what set it."""

    tokens: Count
    by: Literal["recipe", "data", "cap", "positions", "memory"]


class Limits(TypedDict):
    """The limits of both sides."""

    max_source_tokens: Limit
    max_target_tokens: Limit


class Sides(TypedDict, Generic[_Value]):
    """A value for sources and one for targets."""

    source: _Value
    target: _Value


class LostCharacters(TypedDict):
    """How many characters the vocabulary lacks."""

    count: Count


class CharacterCounts(TypedDict):
    """Counts of the texts of a shard: rows, runs of spaces, added tokens, and each character."""

    rows: Count
    double_spaces: Sides[Count]
    tokens: dict[str, Count]
    characters: Sides[dict[str, Count]]


class AddedTokens(TypedDict):
    """Added tokens of the base in the data: those of one id, and those that are read as text."""

    used: dict[str, Count]
    text: dict[str, Count]


class DataReport(TypedDict):
    """What ``prepare`` reports, as far as it is shown again."""

    rows: RowCounts
    splits: dict[str, Count]
    source_tokens: TokenCounts
    target_tokens: TokenCounts
    truncated: Sides[Count]
    unknown_tokens: Sides[Amount]
    duplicates: Count
    leaked: Count
    limits: Limits
    special_tokens: AddedTokens
    lossless_text: list[str]
    lost_characters: Sides[LostCharacters]
    columns_line: str
    warnings: list[str]
    advice: list[str]
    system: NotRequired[str]


class PairSide(TypedDict):
    """One side of a training pair as the model sees it."""

    text: str
    pieces: list[str]
    tokens: Count
