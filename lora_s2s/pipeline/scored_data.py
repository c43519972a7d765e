"""What a model is scored on: the data given, or what its recipe names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_s2s.console import say, warn
from lora_s2s.errors import UsageError
from lora_s2s.evaluation.choice import choose_metrics
from lora_s2s.evaluation.evaluate import group_references
from lora_s2s.examples.columns import two_languages
from lora_s2s.examples.example import Example
from lora_s2s.examples.read import Examples
from lora_s2s.examples.shapes import FORMATS
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline.adapters import NO_DATA
from lora_s2s.pipeline.prepare import prepare_data
from lora_s2s.readers.origins import find_origins
from lora_s2s.readers.rows import Rejected, Skipped
from lora_s2s.recipe.fields import AUTO
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import InputSettings

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class ScoredData:
    """What a model is scored on: unique sources with all references of each, and a name for the
    results.
    """

    name: str
    sources: Sequence[str]
    references: Sequence[Sequence[str]]
    translation: bool


def check_files(data: str | Sequence[str]) -> None:
    """Refuses a wrong path before a model is loaded.

    Raises:
        DataError: there is no such file.
    """
    find_origins(data)


def scored_data(
    recipe: Recipe, predictor: Predictor, data: str | Sequence[str] | None, *, columns_named: bool
) -> ScoredData:
    """Returns what to score on: the data given, else the recipe's test data, else its validation
    data or split.

    Args:
        columns_named: the recipe's column names were given for this very file, so a missing one is
            an error; else a file that lacks them has its columns found by their names.

    Raises:
        DataError: the data is missing, lacks columns, or holds no usable row.
    """
    given = data or recipe.data.test or recipe.data.validation
    if given is None and recipe.data.train == NO_DATA:
        raise UsageError(
            f"{recipe.model.name} comes without a recipe that names data", hint="give --data FILE"
        )
    if given is None:
        prepared = prepare_data(recipe)
        # A column of the training table may set rows aside for a test.
        split = "validation" if prepared.split("test") is None else "test"
        table = prepared.split(split)
        if table is None:
            raise UsageError(
                "the recipe names no test data and holds out no validation data",
                hint="give --data FILE",
            )
        if split == "validation":
            say("no test data is named: scoring the validation split, which training has watched")
        column, other = prepared.manifest.input.source_column, recipe.data.target_column
        grouped = group_references(table.sources(), table.targets())
        return ScoredData(
            split, *grouped, translation=_is_translation(recipe, predictor, column, other)
        )
    if data is None and recipe.data.test is None:
        say(
            f"no test data is named: scoring the validation data {given}, which training has "
            "watched"
        )
    section = _as_trained(recipe, predictor.settings).data
    said = columns_named or data is None
    free = [
        key
        for key in ("source_column", "target_column")
        if not (said and getattr(recipe.data, key))
    ]
    examples = Examples(section.model_copy(update={"test": given}), "test", optional=free)
    rows = list(examples)
    pairs = [
        (predictor.fitted(row), row.target)
        for row in rows
        if isinstance(row, Example) and row.is_taken
    ]
    first = given if isinstance(given, str) else given[0]
    if count := sum(isinstance(row, Rejected) and not isinstance(row, Skipped) for row in rows):
        warn(
            f"{count:,} rows of {first} cannot be used and are not scored; lora-s2s prepare says "
            "why"
        )
    grouped = group_references([source for source, _ in pairs], [target for _, target in pairs])
    reading = examples.reading
    for note in reading.notes:
        say(note)
    columns = [reading.source_column, reading.target_column]
    if (
        not isinstance(given, str) and len(given) == 2
    ):  # two files of parallel lines, such as train.en and train.de
        columns = [Path(file).suffix.removeprefix(".") for file in given]
    return ScoredData(
        data_name(first), *grouped, translation=_is_translation(recipe, predictor, *columns)
    )


def _as_trained(recipe: Recipe, settings: InputSettings) -> Recipe:
    """A merged model brings no recipe, but its manifest says how a row became a source: its shape
    and template too.
    """
    said = recipe.data.model_fields_set
    known: dict[str, Any] = {}
    if "format" not in said or (recipe.data.format == "auto" and settings.format in FORMATS):
        known["format"] = settings.format
    # Found out in training: another file may have the languages the other way round.
    known["source_column"] = recipe.data.source_column or settings.source_column
    template = recipe.data.template or settings.template
    known["template"] = template if template is None or isinstance(template, str) else template[0]
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=known)})


def _is_translation(
    recipe: Recipe, predictor: Predictor, source: str | None, target: str | None
) -> bool:
    """Says whether source and target are in two languages, by the languages set or the columns'
    names.
    """
    settings = predictor.settings
    languages = (
        recipe.data.source_language or settings.source_language,
        recipe.data.target_language or settings.target_language,
    )
    return len({language for language in languages if language}) == 2 or two_languages(
        source, target
    )


def data_name(path: str) -> str:
    """Returns a folder name for the results on a data file: ``testset_w_refs`` for
    ``…/testset_w_refs.csv.gz``.
    """
    name = (
        path
        if path.startswith(("demo:", "hf:"))
        else re.sub(r"(\.[A-Za-z]+)?(\.gz)?$", "", Path(path).name)
    )
    return _NOT_IN_NAMES.sub("-", name).strip("-.") or "data"


def chosen_metrics(named: Sequence[str], data: ScoredData) -> Sequence[str]:
    """Returns the metrics that a recipe names, or those chosen by the references at hand."""
    if list(named) != [AUTO]:
        return named
    choice = choose_metrics(data.references, translation=data.translation)
    say(
        f"metrics: {', '.join(choice.metrics)} ({choice.reason}); choose others with --set "
        "evaluation.metrics=…"
    )
    return choice.metrics
