"""The models that a server answers with, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_s2s.errors import UsageError
from lora_s2s.examples.shapes import DIALOGUES
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline.adapters import recipe_of
from lora_s2s.pipeline.model import predictor_of
from lora_s2s.pipeline.names import located
from lora_s2s.pipeline.predict import decoding_settings
from lora_s2s.recipe.layers import Overrides


@dataclass(frozen=True)
class Served:
    """A model under the name that requests give; ``settings`` is its own way to decode."""

    name: str
    predictor: Predictor
    settings: DecodingSettings

    @property
    def reads_dialogues(self) -> bool:
        """Whether it was trained on conversations."""
        return self.predictor.settings.format in DIALOGUES


def load_models(names: Sequence[str], sets: Overrides = ()) -> list[Served]:
    """Loads what a server answers with.

    Args:
        names: a model or adapter each, as :func:`lora_s2s.pipeline.model.predictor_of` takes it;
            ``NAME=MODEL`` gives it another name than its folder's.
        sets: changes to the recipe of each.

    Raises:
        UsageError: two have the same name.
        Error: a model cannot be loaded.
    """
    asked = [_split(name) for name in names]
    chosen = [name for name, _ in asked]
    if twice := next((name for name in chosen if chosen.count(name) > 1), None):
        raise UsageError(
            f"two models are called '{twice}'", hint=f"name one of them: other={asked[-1][1]}"
        )
    return [_load(name, model, sets) for name, model in asked]


def _split(text: str) -> tuple[str, str]:
    """Returns a model's name and what it is loaded from."""
    name, given, model = text.partition("=")
    if given and name and model and not Path(text).exists():
        return name, located(model)
    # A local path says nothing to clients, and is none of their business.
    return (Path(text).resolve().name if Path(text).exists() else text), located(text)


def _load(name: str, model: str, sets: Overrides) -> Served:
    recipe = recipe_of(model, sets)
    predictor = predictor_of(model, recipe)
    return Served(name, predictor, decoding_settings(recipe.evaluation, predictor.settings))
