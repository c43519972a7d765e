"""The models that a server answers with, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_s2s.errors import UsageError
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_sharing
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline.decoding import report_own_decoding, settings_for
from lora_s2s.pipeline.followed import recipe_to_answer
from lora_s2s.pipeline.names import located
from lora_s2s.recipe.layers import Overrides


@dataclass(frozen=True)
class Served:
    """A model under the name that requests give; ``settings`` is its own way to decode."""

    name: str
    predictor: Predictor
    settings: DecodingSettings


def load_models(names: Sequence[str], sets: Overrides = ()) -> list[Served]:
    """Loads what a server answers with: a model or adapter, and adapters over the same base.

    Args:
        names: the model, then adapters; ``NAME=MODEL`` gives one another name than its folder's.
        sets: changes to the recipe of each.

    Raises:
        UsageError: two have the same name, or a further one is not an adapter.
        Error: a model cannot be loaded, or an adapter cannot share the base.
    """
    asked = [_split(name) for name in names]
    chosen = [name for name, _ in asked]
    if twice := next((name for name in chosen if chosen.count(name) > 1), None):
        raise UsageError(
            f"two models are called '{twice}'", hint=f"name one of them: other={asked[-1][1]}"
        )
    recipes = [recipe_to_answer(model, sets) for _, model in asked]
    predictors = load_sharing([model for _, model in asked], dtype=recipes[0].model.dtype)
    report_own_decoding(predictors[0], recipes[0])
    served = []
    for name, recipe, predictor in zip(chosen, recipes, predictors, strict=True):
        served.append(Served(name, predictor, settings_for(recipe, predictor, plain=True)))
    return served


def _split(text: str) -> tuple[str, str]:
    """Returns a model's name and what it is loaded from."""
    name, given, model = text.partition("=")
    if given and name and model and not Path(text).exists():
        return name, located(model)
    # A local path says nothing to clients, and is none of their business.
    return (Path(text).resolve().name if Path(text).exists() else text), located(text)
