"""The data to score a model on: a given file, or what its recipe names."""

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
    """Unique sources with all references of each, and a name for the results."""

    name: str
    sources: Sequence[str]
    references: Sequence[Sequence[str]]
    translation: bool


def check_files(data: str | Sequence[str]) -> None:
    """Checks paths before a model is loaded.

    Raises:
        DataError: there is no such file.
    """
    find_origins(data)


def scored_data(
    recipe: Recipe, predictor: Predictor, data: str | Sequence[str] | None, *, columns_named: bool
) -> ScoredData:
    """The data to score on: what is given, else the recipe's test data, else its validation data or
    split.

    Args:
        columns_named: the recipe's column names are meant for this file, so a missing one is an
            error; otherwise, columns are guessed in a file that lacks them.

    Raises:
        DataError: the data is missing, lacks columns, or has no usable row.
    """
    files = data or recipe.data.test or recipe.data.validation
    if files is None and recipe.data.train == NO_DATA:
        raise UsageError(
            f"{recipe.model.name} has no recipe that names data", hint="give --data FILE"
        )
    if files is None:
        prepared = prepare_data(recipe)
        # A split column of the training table can mark test rows.
        split = "validation" if prepared.split("test") is None else "test"
        table = prepared.split(split)
        if table is None:
            raise UsageError(
                "the recipe names no test data, and no validation data is held out",
                hint="give --data FILE",
            )
        if split == "validation":
            say("no test data: scoring the validation split, which training evaluated on")
        column, other = prepared.manifest.input.source_column, recipe.data.target_column
        grouped = group_references(table.sources(), table.targets())
        return ScoredData(
            split, *grouped, translation=_is_translation(recipe, predictor, column, other)
        )
    if data is None and recipe.data.test is None:
        say(f"no test data: scoring the validation data {files}, which training evaluated on")
    section = _as_trained(recipe, predictor.settings).data
    required = columns_named or data is None
    optional = [
        key
        for key in ("source_column", "target_column")
        if not (required and getattr(recipe.data, key))
    ]
    examples = Examples(section.model_copy(update={"test": files}), "test", optional=optional)
    rows = list(examples)
    pairs = [
        (predictor.fitted(row), row.target)
        for row in rows
        if isinstance(row, Example) and row.is_taken
    ]
    first = files if isinstance(files, str) else files[0]
    if count := sum(isinstance(row, Rejected) and not isinstance(row, Skipped) for row in rows):
        warn(
            f"{count:,} rows of {first} cannot be used and are not scored; lora-s2s prepare lists "
            "the reasons"
        )
    grouped = group_references([source for source, _ in pairs], [target for _, target in pairs])
    reading = examples.reading
    for note in reading.notes:
        say(note)
    columns = [reading.source_column, reading.target_column]
    if not isinstance(files, str) and len(files) == 2:  # parallel lines: train.en and train.de
        columns = [Path(file).suffix.removeprefix(".") for file in files]
    return ScoredData(
        data_name(first), *grouped, translation=_is_translation(recipe, predictor, *columns)
    )


def _as_trained(recipe: Recipe, settings: InputSettings) -> Recipe:
    """A recipe that reads rows as in training: a merged model's manifest records format, column and
    template.
    """
    changes: dict[str, Any] = {}
    if "format" not in recipe.data.model_fields_set or (
        recipe.data.format == "auto" and settings.format in FORMATS
    ):
        changes["format"] = settings.format
    # As chosen in training: another file may have the two languages in the other order.
    changes["source_column"] = recipe.data.source_column or settings.source_column
    template = recipe.data.template or settings.template
    changes["template"] = template if template is None or isinstance(template, str) else template[0]
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changes)})


def _is_translation(
    recipe: Recipe, predictor: Predictor, source: str | None, target: str | None
) -> bool:
    """Whether source and target languages differ, by the recipe or the columns' names."""
    settings = predictor.settings
    languages = (
        recipe.data.source_language or settings.source_language,
        recipe.data.target_language or settings.target_language,
    )
    return len({language for language in languages if language}) == 2 or two_languages(
        source, target
    )


def data_name(path: str) -> str:
    """A name for the results on a data file: ``testset_w_refs`` for
    ``data/testset_w_refs.csv.gz``.
    """
    name = (
        path
        if path.startswith(("demo:", "hf:"))
        else re.sub(r"(\.[A-Za-z]+)?(\.gz)?$", "", Path(path).name)
    )
    return _NOT_IN_NAMES.sub("-", name).strip("-.") or "data"


def chosen_metrics(named: Sequence[str], data: ScoredData) -> Sequence[str]:
    """The recipe's metrics; for ``auto`` those that fit the references."""
    if list(named) != [AUTO]:
        return named
    choice = choose_metrics(data.references, translation=data.translation)
    say(
        f"metrics: {', '.join(choice.metrics)} ({choice.reason}); to change: --set "
        "evaluation.metrics=…"
    )
    return choice.metrics
