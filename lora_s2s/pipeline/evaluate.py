"""Scores a model or an adapter, alone or against another one. Heavy to import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lora_s2s.console import say
from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation.evaluate import Answered, assess, duration_note, sample_places
from lora_s2s.pipeline.adapters import NO_DATA, recipe_of, refuse_code, trusted_metrics
from lora_s2s.pipeline.answered import Answering
from lora_s2s.pipeline.decoding import decoding_line, settings_for
from lora_s2s.pipeline.engines import predictor_on
from lora_s2s.pipeline.evaluate_given import score_predictions
from lora_s2s.pipeline.followed import followed, with_constraint
from lora_s2s.pipeline.kept_answers import KeptAnswers
from lora_s2s.pipeline.label_scores import LabelTask, recorded_labels
from lora_s2s.pipeline.opponent import Opponent, open_opponent
from lora_s2s.pipeline.scored_data import ScoredData, check_files, chosen_metrics, scored_data
from lora_s2s.pipeline.scores import Asked, Place, Scores, place_of, with_training_note, written
from lora_s2s.recipe.layers import Overrides, overridden_keys
from lora_s2s.recipe.schema import Recipe

_COLUMNS = {"data.source_column", "data.target_column"}
# From the scored data to what the model is compared with on it.
Rival = Callable[[ScoredData], Opponent]


@dataclass(frozen=True)
class Finished:
    """Scores with the data they are of, so that other models are compared on the same rows."""

    name: str
    scores: Scores
    data: ScoredData
    answers: KeptAnswers
    answered: Answered


def score_model(model: str | None, asked: Asked, overrides: Overrides = ()) -> Scores:
    """Decodes and scores; writes predictions and refreshes the adapter's manifest, card and report.

    Args:
        model: None, or the model whose recipe says how to score, where the predictions are given.
    """
    if asked.predictions is not None:
        return score_predictions(model, asked, overrides)
    if model is None:
        raise UsageError("expected a model or predictions", hint="--from predictions.jsonl")
    finished = scored(model, asked, overrides)
    finished.answers.remove()
    return finished.scores


def scored(
    model: str, asked: Asked, overrides: Overrides = (), *, rival: Rival | None = None
) -> Finished:
    """As :func:`score_model`; the answers stay until the caller removes them.

    Args:
        rival: what to compare with, in place of ``asked.against``.
    """
    ready = _ready(model, asked, overrides, rival)
    rows, answered = ready.rows, ready.answered()
    evaluation = assess(
        rows.sources,
        rows.references,
        answered,
        places=ready.places,
        metrics=ready.metrics,
        trained_labels=ready.labels,
        tasks=rows.tasks,
    )
    answering = ready.answering
    if evaluation.labels is not None:
        task = LabelTask(model, answering.predictor, ready.recipe, overrides)
        evaluation = replace(evaluation, probabilities=task.probabilities(evaluation))
    if asked.data is not None and rows.files is not None:
        evaluation = with_training_note(evaluation, model, ready.recipe, rows.files)
    return Finished(model, written(evaluation, ready.place), rows, answering.kept, answered)


def answer_for_the_first(models: Sequence[str], asked: Asked, overrides: Overrides = ()) -> None:
    """Answers, in a process after the first, its share of what the first scores."""
    for model in models:
        _ready(model, asked, overrides, None).answered()


@dataclass(frozen=True)
class _Ready:
    """A model and what it is scored on, before anything is decoded."""

    recipe: Recipe
    rows: ScoredData
    places: Sequence[int]
    place: Place
    labels: Sequence[str]
    metrics: Sequence[str]
    answering: Answering
    opponent: Opponent | None

    def answered(self) -> Answered:
        return self.answering.answered(self.rows, self.places, self.metrics, self.opponent)


def _ready(model: str, asked: Asked, overrides: Overrides, rival: Rival | None) -> _Ready:
    data = asked.data
    if data is not None:
        check_files(data)
    recipe = recipe_of(
        model, overrides, data=data if data is None or isinstance(data, str) else data[0]
    )
    if data is None and recipe.data.train != NO_DATA:
        recipe = followed(recipe, model, overrides)
    recipe = with_constraint(recipe, model, overrides)
    predictor = predictor_on(
        asked.engine,
        model,
        recipe,
        base=asked.base,
        data=data,
        ranks=asked.ranks,
        baseline=asked.baseline,
    )
    refuse_code(predictor.settings.format, overrides)
    columns_named = not _COLUMNS.isdisjoint(overridden_keys(overrides))
    rows = scored_data(recipe, predictor, data, columns_named=columns_named)
    usable = sum(place >= 0 for place in rows.rows)
    if repeated := max(0, usable - len(rows.sources)):
        say(
            f"{len(rows.sources):,} sources: {repeated:,} of the {usable:,} rows repeat one, and "
            "their targets are further references"
        )
    labels = recorded_labels(model)
    metrics = chosen_metrics(trusted_metrics(recipe, overrides), rows, labels)
    places, place = _sample(model, rows, recipe, asked)
    systems = 1 + asked.baseline + (rival is not None or asked.against is not None)
    if note := duration_note(metrics, rows.references, limit=len(places), systems=systems):
        say(note)
    settings = settings_for(recipe, predictor)
    say(decoding_line(settings, predictor))
    kept = KeptAnswers(place.folder, asked.resume, (asked.base, asked.engine), asked.ranks)
    opponent = None if rival is None else rival(rows)
    if asked.against is not None:
        opponent = open_opponent(
            asked.against, rows, settings=settings, overrides=overrides, decode=kept.decode
        )
    answering = Answering(model, predictor, settings, kept, asked.baseline)
    return _Ready(recipe, rows, places, place, labels, metrics, answering, opponent)


def _sample(model: str, rows: ScoredData, recipe: Recipe, asked: Asked) -> tuple[list[int], Place]:
    """The sources to score, a random sample if there is a limit, and where the results go."""
    count, total, name = asked.limit or recipe.evaluation.limit, len(rows.sources), rows.name
    places = sample_places(total, count)
    if not places:
        raise DataError("there is nothing to score: no rows")
    if len(places) < total:
        name = f"{name}-sample-{count}"
        say(f"scoring a random sample of {count:,} of {total:,} sources, the same one every time")
    return places, place_of(model, name, asked)
