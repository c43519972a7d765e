"""Scores predictions that were made elsewhere; nothing is decoded but what they are compared with.
Heavy to import.
"""

from __future__ import annotations

from lora_s2s.console import say
from lora_s2s.errors import UsageError
from lora_s2s.evaluation.evaluate import Answered, assess, duration_note, sample_places
from lora_s2s.pipeline.adapters import NO_DATA, recipe_of, trusted_metrics
from lora_s2s.pipeline.followed import followed
from lora_s2s.pipeline.given_predictions import read_predictions
from lora_s2s.pipeline.kept_answers import KeptAnswers
from lora_s2s.pipeline.opponent import open_opponent, opponent_of
from lora_s2s.pipeline.scored_data import (
    AsWritten,
    ScoredData,
    check_files,
    chosen_metrics,
    scored_data,
)
from lora_s2s.pipeline.scores import Asked, Scores, place_of, written
from lora_s2s.recipe.layers import Overrides, overridden_keys
from lora_s2s.recipe.load import recipe_from_settings
from lora_s2s.recipe.schema import Recipe

_COLUMNS = {"data.source_column", "data.target_column"}


def score_predictions(model: str | None, asked: Asked, overrides: Overrides = ()) -> Scores:
    """Scores a file of predictions against its own references, or those of the data.

    Args:
        model: its recipe names data and metrics; its folder stays as it is.

    Raises:
        UsageError: an option for a model that decodes.
        DataError: the predictions cannot be read, or do not belong to the data.
    """
    _refuse_decoding(asked)
    recipe = _recipe(model, asked, overrides)
    own = asked.data is None and recipe.data.train == NO_DATA
    given = read_predictions(
        asked.predictions or "",
        with_references=own,
        source=recipe.data.source_column if own else None,
        target=recipe.data.target_column if own else None,
    )
    rows = given.scored_data() if own else _data(recipe, asked, overrides)
    metrics = chosen_metrics(trusted_metrics(recipe, overrides), rows)
    places = sample_places(len(rows.sources), asked.limit or recipe.evaluation.limit)
    mine = opponent_of(given, rows).answers(places)
    systems = 1 if asked.against is None else 2
    if note := duration_note(metrics, rows.references, limit=len(places), systems=systems):
        say(note)
    place = place_of(model, rows.name, asked)
    kept = KeptAnswers(place.folder, asked.resume)
    other = None
    if asked.against is not None:
        other = open_opponent(
            asked.against, rows, settings=None, overrides=overrides, decode=kept.decode
        )
    answered = Answered(
        mine,
        settings=None,
        other=other.name if other else "",
        against=other.answers(places) if other else None,
    )
    evaluation = assess(
        rows.sources, rows.references, answered, places=places, metrics=metrics, tasks=rows.tasks
    )
    result = written(evaluation, place)
    kept.remove()
    return result


def _recipe(model: str | None, asked: Asked, overrides: Overrides) -> Recipe:
    """The model's recipe, else the defaults; its data may be read."""
    data = asked.data if asked.data is None or isinstance(asked.data, str) else asked.data[0]
    if model is None:
        settings = {"model.name": "predictions", "data.train": data or NO_DATA}
        return recipe_from_settings("predictions", settings, overrides)
    recipe = recipe_of(model, overrides, data=data)
    if data is None and recipe.data.train != NO_DATA:
        return followed(recipe, model, overrides)
    return recipe


def _data(recipe: Recipe, asked: Asked, overrides: Overrides) -> ScoredData:
    if asked.data is not None:
        check_files(asked.data)
    columns_named = not _COLUMNS.isdisjoint(overridden_keys(overrides))
    return scored_data(recipe, AsWritten(), asked.data, columns_named=columns_named)


def _refuse_decoding(asked: Asked) -> None:
    """Refuses options for a model that decodes.

    Raises:
        UsageError: there is one.
    """
    options = {"--baseline": asked.baseline, "--base": asked.base, "--engine": asked.engine}
    for option, value in options.items():
        if value:
            raise UsageError(
                f"{option} is for a model that answers, and --from gives its answers",
                hint="compare with a model or other predictions: --against NAME",
            )
