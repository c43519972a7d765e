"""What in several sections of a recipe does not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_s2s.recipe.full import full_problem
from lora_s2s.recipe.sharding import sharding_problem

if TYPE_CHECKING:
    from lora_s2s.recipe.schema import Recipe


def contradiction(recipe: Recipe) -> str | None:
    """Returns what does not go together, beginning with a key; None if all does."""
    model, method, training = recipe.model, recipe.lora.method, recipe.training
    bits, scored = model.quantization, training.sources_to_score
    problem = full_problem(method, training.freeze, bits, model.dtype)
    if training.sharding == "full" and not problem:
        problem = sharding_problem(method, bits, training.optimizer, scored)
    return problem
