"""An adapter on a base, by the keys of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_s2s.lora.inject import inject_lora
from lora_s2s.models.loading import LoadedBase
from lora_s2s.recipe.schema import LoraSection


def adapt(
    base: LoadedBase,
    *,
    seed: int,
    train_tokens: Sequence[int] = (),
    ranks: Mapping[str, int] | None = None,
    **lora: Any,
) -> Any:
    """Injects an adapter; its settings are not checked, as a recipe's would be."""
    pattern = [f"{name}={rank}" for name, rank in (ranks or {}).items()]
    section = LoraSection.model_construct(**lora, rank_pattern=pattern)
    return inject_lora(base, section, train_tokens=train_tokens, seed=seed)
