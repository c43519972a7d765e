"""What a model is compared with: another model, or a file of predictions. Heavy to import."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_s2s.errors import DataError
from lora_s2s.evaluation.texts import Losses
from lora_s2s.inference.decode import Prediction
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.score import reference_losses
from lora_s2s.pipeline.adapters import recipe_of, refuse_code
from lora_s2s.pipeline.decoding import settings_for
from lora_s2s.pipeline.followed import recipe_to_answer
from lora_s2s.pipeline.given_predictions import GivenPredictions, read_predictions
from lora_s2s.pipeline.model import predictor_of
from lora_s2s.pipeline.names import located, located_model
from lora_s2s.pipeline.scored_data import ScoredData, scored_data
from lora_s2s.recipe.layers import Overrides

Decode = Callable[[str, Predictor, Sequence[str], DecodingSettings, str], Sequence[Prediction]]


@dataclass(frozen=True)
class Opponent:
    """Answers to the sources at some places of the scored data, and the losses of their references,
    None where no model is at hand.
    """

    name: str
    answers: Callable[[Sequence[int]], Sequence[Prediction]] = field(repr=False)
    losses: Callable[[Sequence[int]], Losses] | None = field(default=None, repr=False)


def is_predictions(name: str) -> bool:
    """Whether a name is that of a file, rather than of a model."""
    return os.path.isfile(os.path.expanduser(name))


def shown_name(name: str) -> str:
    """A model's or file's name without the folders of this machine."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else name


def open_opponent(
    name: str,
    data: ScoredData,
    *,
    settings: DecodingSettings | None,
    overrides: Overrides,
    decode: Decode,
) -> Opponent:
    """Reads or loads what is compared with, before anything is decoded.

    Args:
        name: a file of predictions for the scored data, else a model.
        data: the sources of the scored model; another model renders the rows its own way.
        settings: decoding settings for a model that has none of its own.
        decode: answers sources.

    Raises:
        DataError: the predictions or the rows do not belong to the data.
    """
    if is_predictions(name):
        return opponent_of(read_predictions(name, with_references=False), data)
    model = located_model(name)
    recipe = recipe_to_answer(model, overrides)
    predictor = predictor_of(model, recipe)
    refuse_code(predictor.settings.format, overrides)
    if settings is None or recipe_of(model).evaluation.model_fields_set:
        settings = settings_for(recipe, predictor)
    used, sources = settings.without_scores(), _rendered(name, data, predictor, overrides)

    def pick(places: Sequence[int]) -> list[str]:
        return [sources[place] for place in places]

    return Opponent(
        shown_name(name),
        lambda places: decode("against", predictor, pick(places), used, model),
        lambda places: reference_losses(
            predictor, pick(places), [data.references[place] for place in places], used
        ),
    )


def opponent_of(given: GivenPredictions, data: ScoredData) -> Opponent:
    """Predictions for the scored data.

    Raises:
        DataError: they do not belong to the data.
    """
    found = given.by_source(data)

    def answers(places: Sequence[int]) -> list[Prediction]:
        missing = sum(place not in found for place in places)
        if missing:
            raise DataError(
                f"{given.name} lacks predictions for {missing:,} of {len(places):,} sources",
                hint="give the predictions of all rows",
            )
        return [Prediction(found[place], tokens=0, stopped=True) for place in places]

    return Opponent(shown_name(given.name), answers)


def _rendered(
    name: str, data: ScoredData, predictor: Predictor, overrides: Overrides
) -> dict[int, str]:
    """Each source of the data as another model reads it."""
    if data.files is None:
        if not any(data.sources):
            raise DataError(f"there are no sources for {name} to answer", hint="give --data FILE")
        return dict(enumerate(data.sources))
    # Its own columns and template, on the same files.
    files = data.files if isinstance(data.files, str) else list(data.files)
    recipe = recipe_of(located(name), overrides, data=files if isinstance(files, str) else files[0])
    own = scored_data(recipe, predictor, files, columns_named=False)
    sources = {}
    for place, row in data.first_rows().items():
        if row >= len(own.rows) or own.rows[row] < 0:
            raise DataError(f"{name} cannot read row {row + 1:,} of the data")
        sources[place] = own.sources[own.rows[row]]
    return sources
