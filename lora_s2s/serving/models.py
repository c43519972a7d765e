"""The models that a server answers with, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_sharing
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline.decoding import report_own_decoding, settings_for
from lora_s2s.pipeline.followed import recipe_to_answer
from lora_s2s.recipe.layers import Overrides


@dataclass(frozen=True)
class Served:
    """A model under the name that requests give; ``settings`` is its own way to decode."""

    name: str
    predictor: Predictor
    settings: DecodingSettings


def load_models(named: Sequence[tuple[str, str]], sets: Overrides = ()) -> list[Served]:
    """Loads what a server answers with: a model or adapter, and adapters over the same base.

    Args:
        named: see :func:`lora_s2s.pipeline.names.named_models`; the model, then adapters.
        sets: changes to the recipe of each.

    Raises:
        UsageError: a further one is not an adapter.
        Error: a model cannot be loaded, or an adapter cannot share the base.
    """
    recipes = [recipe_to_answer(model, sets) for _, model in named]
    predictors = load_sharing([model for _, model in named], dtype=recipes[0].model.dtype)
    report_own_decoding(predictors[0], recipes[0])
    served = []
    for (name, _), recipe, predictor in zip(named, recipes, predictors, strict=True):
        served.append(Served(name, predictor, settings_for(recipe, predictor, plain=True)))
    return served
