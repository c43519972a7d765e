"""Length limits for ``auto``: what nearly every row needs, within the bounds of base and machine.

Chosen before anything is cut, by the lengths of all rows or of a seeded sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lora_s2s.data.split import REASONS, Decisions
from lora_s2s.data.spool import Spooled
from lora_s2s.data.survey import SIDES, Counts, quantile
from lora_s2s.recipe.fields import AUTO, Auto
from lora_s2s.recipe.schema import DataSection
from lora_s2s.tokens.encoder import TextEncoder, encoder_of
from lora_s2s.tokens.special_tokens import SpecialTokenTemplates, special_token_templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Limit = int | Auto
KEYS = {side: f"max_{side}_tokens" for side in SIDES}
# Training flan-t5-base on a row of these lengths takes about 1 GB.
CAPS = {"source": 1024, "target": 512}
_LEAST = {"source": 16, "target": 8}
_SAMPLE = 20_000
_SHARE = 0.99
_OUTLIER = 2
# The fraction of memory that one row may take: weights, gradients and other rows need the rest.
_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class Bounds:
    """Upper bounds that a base and a machine set.

    Attributes:
        positions: the most tokens of a text; None for relative positions.
        memory: bytes of the training device; None if unknown.
        row_bytes: source and target tokens → bytes for training on one such row.
    """

    positions: int | None = None
    memory: int | None = None
    row_bytes: Callable[[int, int], int] | None = None

    def fits(self, source: int, target: int) -> bool:
        """Whether training on a row of this length leaves enough memory for the rest."""
        if self.memory is None or self.row_bytes is None:
            return True
        return self.row_bytes(source, target) <= _MEMORY_SHARE * self.memory


UNBOUNDED = Bounds()


@dataclass(frozen=True)
class Chosen:
    """A limit, and its origin: ``recipe``, ``data``, ``cap``, ``positions`` or ``memory``."""

    tokens: int
    by: str


def limits_of(
    data: DataSection,
    spool: Spooled,
    decisions: Decisions,
    tokenizer: PreTrainedTokenizerBase,
    bounds: Bounds,
    seed: int,
) -> dict[str, Chosen]:
    """Both length limits by key; chooses values for ``auto``.

    Args:
        seed: for the sample of rows to measure.
    """
    encoder, templates = encoder_of(tokenizer), special_token_templates(tokenizer)
    given = {side: getattr(data, key) for side, key in KEYS.items()}
    chosen = choose_limits(
        given, lambda: sampled_lengths(spool, decisions, encoder, templates, seed=seed), bounds
    )
    return {KEYS[side]: limit for side, limit in chosen.items()}


def choose_limits(
    given: Mapping[str, Limit], lengths: Callable[[], Mapping[str, Counts]], bounds: Bounds
) -> dict[str, Chosen]:
    """Each side's limit: the recipe's, or for ``auto`` what the data needs.

    Args:
        given: tokens or ``auto`` by side.
        lengths: counts rows by length; called only if needed.
    """
    if AUTO not in given.values():
        return {side: Chosen(int(limit), "recipe") for side, limit in given.items()}
    counts = lengths()
    chosen = {}
    for side, limit in given.items():
        chosen[side] = (
            _needed(counts[side], side, bounds) if limit == AUTO else Chosen(limit, "recipe")
        )
    for side in SIDES:  # the source first: it is cut, while a long target drops the row
        while (
            given[side] == AUTO
            and chosen[side].tokens > _LEAST[side]
            and not bounds.fits(*(chosen[each].tokens for each in SIDES))
        ):
            tokens = chosen[side].tokens
            chosen[side] = Chosen(max(_LEAST[side], tokens - _step(tokens)), "memory")
    return chosen


def _needed(counts: Counts, side: str, bounds: Bounds) -> Chosen:
    """The longest row's length, or if less than half of that the 99th percentile; rounded up."""
    most, longest = quantile(counts, _SHARE), quantile(counts, 1)
    needed = max(_LEAST[side], longest if longest <= _OUTLIER * most else most)
    step = _step(needed)
    rounded = -(-needed // step) * step
    if bounds.positions is not None and rounded > bounds.positions <= CAPS[side]:
        return Chosen(bounds.positions, "positions" if needed > bounds.positions else "data")
    return Chosen(min(rounded, CAPS[side]), "cap" if needed > CAPS[side] else "data")


def _step(tokens: int) -> int:
    return 8 if tokens <= 128 else 64


def sampled_lengths(
    spool: Spooled,
    decisions: Decisions,
    encoder: TextEncoder,
    templates: SpecialTokenTemplates,
    *,
    seed: int,
) -> dict[str, Counts]:
    """How many rows of the splits have 0, 1, 2, … tokens, by side.

    Args:
        seed: for the sample that is taken of many rows.
    """
    rows = np.flatnonzero(~np.isin(decisions.code, list(REASONS)))
    if len(rows) > _SAMPLE:
        rows = rows[np.unique(np.random.default_rng(seed).integers(0, len(rows), _SAMPLE))]
    lengths: dict[str, list[int]] = {side: [] for side in SIDES}
    begun = 0
    for piece in spool.pieces():
        first, end = np.searchsorted(rows, (begun, begun + len(piece)))
        chosen = rows[first:end] - begun
        if len(chosen):
            _add_lengths(lengths, piece.take(pa.array(chosen)), encoder)
        begun += len(piece)
    return {
        side: np.bincount(np.array(lengths[side], int) + len(getattr(templates, side)))
        for side in SIDES
    }


def _add_lengths(lengths: Mapping[str, list[int]], batch: Any, encoder: TextEncoder) -> None:
    for side, kind in zip(SIDES, ("text", "text_target"), strict=True):
        lengths[side].extend(map(len, encoder(batch.column(side).to_pylist(), kind)))
