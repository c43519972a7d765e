"""Length limits chosen from the data: what nearly every row needs, within the bounds of base and
machine.

Decided on the lengths of all rows, or of a seeded sample of them, before anything is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lora_s2s.data.split import REASONS, Decisions
from lora_s2s.data.spool import places
from lora_s2s.data.survey import SIDES, Counts, quantile
from lora_s2s.recipe.fields import AUTO, Auto
from lora_s2s.recipe.schema import DataSection
from lora_s2s.tokens.encoder import TextEncoder, encoder_of
from lora_s2s.tokens.special_tokens import SpecialTokenTemplates, special_token_templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Limit = int | Auto
KEYS = {side: f"max_{side}_tokens" for side in SIDES}
# Training flan-t5-base on a row of both takes about 1 GB; answers are decoded token by token.
CAPS = {"source": 1024, "target": 512}
_LEAST = {"source": 16, "target": 8}
_SAMPLE = 20_000
_SHARE = 0.99
_OUTLIER = 2
# One row may take this share of the memory: weights, gradients and further rows need the rest.
_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class Bounds:
    """Upper bounds that a base and a machine set.

    Attributes:
        positions: how many tokens a text may have; None where positions are relative.
        memory: bytes of the device that trains; None where it is not known.
        row_bytes: source and target tokens → bytes that training on one such row takes.
    """

    positions: int | None = None
    memory: int | None = None
    row_bytes: Callable[[int, int], int] | None = None

    def fits(self, source: int, target: int) -> bool:
        """Whether training on a row of so many tokens leaves memory for everything else."""
        if self.memory is None or self.row_bytes is None:
            return True
        return self.row_bytes(source, target) <= _MEMORY_SHARE * self.memory


UNBOUNDED = Bounds()


@dataclass(frozen=True)
class Chosen:
    """A limit, and what set it: ``recipe``, ``data``, ``cap``, ``positions`` or ``memory``."""

    tokens: int
    by: str


def limits_of(
    data: DataSection,
    spool: Path,
    decisions: Decisions,
    tokenizer: PreTrainedTokenizerBase,
    bounds: Bounds,
    seed: int,
) -> dict[str, Chosen]:
    """Returns the two length limits by their keys, chosen where they are ``auto``.

    Args:
        seed: of the sample of rows that is measured.
    """
    encoder, templates = encoder_of(tokenizer), special_token_templates(tokenizer)
    asked = {side: getattr(data, key) for side, key in KEYS.items()}
    chosen = choose_limits(
        asked, lambda: sampled_lengths(spool, decisions, encoder, templates, seed=seed), bounds
    )
    return {KEYS[side]: limit for side, limit in chosen.items()}


def choose_limits(
    asked: Mapping[str, Limit], lengths: Callable[[], Mapping[str, Counts]], bounds: Bounds
) -> dict[str, Chosen]:
    """Returns each side's limit: the recipe's, or for ``auto`` what the data needs.

    Args:
        asked: side → tokens or ``auto``.
        lengths: counts rows by length, called where it is needed.
    """
    if AUTO not in asked.values():
        return {side: Chosen(int(limit), "recipe") for side, limit in asked.items()}
    counts = lengths()
    chosen = {}
    for side, limit in asked.items():
        chosen[side] = (
            _needed(counts[side], side, bounds) if limit == AUTO else Chosen(limit, "recipe")
        )
    for side in SIDES:  # the source first: a cut source loses a part, a long target drops the row
        while (
            asked[side] == AUTO and chosen[side].tokens > _LEAST[side] and not _fit(chosen, bounds)
        ):
            tokens = chosen[side].tokens
            chosen[side] = Chosen(max(_LEAST[side], tokens - _step(tokens)), "memory")
    return chosen


def _fit(chosen: Mapping[str, Chosen], bounds: Bounds) -> bool:
    return bounds.fits(chosen["source"].tokens, chosen["target"].tokens)


def _needed(counts: Counts, side: str, bounds: Bounds) -> Chosen:
    """The longest row's length; the 99th percentile where that is less than half of it. Rounded
    up.
    """
    most, longest = quantile(counts, _SHARE), quantile(counts, 1)
    wanted = max(_LEAST[side], longest if longest <= _OUTLIER * most else most)
    step = _step(wanted)
    rounded = -(-wanted // step) * step
    if bounds.positions is not None and rounded > bounds.positions <= CAPS[side]:
        return Chosen(bounds.positions, "positions" if wanted > bounds.positions else "data")
    return Chosen(min(rounded, CAPS[side]), "cap" if wanted > CAPS[side] else "data")


def _step(tokens: int) -> int:
    return 8 if tokens <= 128 else 64


def sampled_lengths(
    path: Path,
    decisions: Decisions,
    encoder: TextEncoder,
    templates: SpecialTokenTemplates,
    *,
    seed: int,
) -> dict[str, Counts]:
    """Returns how many rows of a spool have 0, 1, 2, … tokens, of those that go to a split.

    Args:
        seed: of the sample, which is taken where rows are many.
    """
    rows = np.flatnonzero(~np.isin(decisions.code, list(REASONS)))
    if len(rows) > _SAMPLE:
        rows = rows[np.unique(np.random.default_rng(seed).integers(0, len(rows), _SAMPLE))]
    lengths: dict[str, list[int]] = {side: [] for side in SIDES}
    with pa.memory_map(str(path)) as spool:
        reader = pa.ipc.open_file(spool)
        for index, place in enumerate(places(reader)):
            first, end = np.searchsorted(rows, (place.start, place.stop))
            chosen = rows[first:end] - place.start
            if len(chosen):
                _add_lengths(lengths, reader.get_batch(index).take(pa.array(chosen)), encoder)
    return {
        side: np.bincount(np.array(lengths[side], int) + len(getattr(templates, side)))
        for side in SIDES
    }


def _add_lengths(lengths: Mapping[str, list[int]], batch: Any, encoder: TextEncoder) -> None:
    for side, kind in zip(SIDES, ("text", "text_target"), strict=True):
        lengths[side].extend(map(len, encoder(batch.column(side).to_pylist(), kind)))
