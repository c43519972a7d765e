"""The data to score a model on: a given file, or what its recipe names."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from lora_s2s.console import say, warn
from lora_s2s.data.prepared import PreparedDataset, is_prepared, open_prepared
from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation.choice import choose_metrics
from lora_s2s.evaluation.evaluate import group_references
from lora_s2s.examples.columns import two_languages
from lora_s2s.examples.example import Example
from lora_s2s.examples.read import COLUMNS, Examples
from lora_s2s.examples.shapes import FORMATS
from lora_s2s.pipeline.adapters import NO_DATA
from lora_s2s.pipeline.prepare import prepare_data
from lora_s2s.pipeline.recipes import run_name
from lora_s2s.readers.origins import find_origins, say_encoding
from lora_s2s.readers.rows import Rejected
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import InputSettings


@dataclass(frozen=True)
class ScoredData:
    """Unique sources with all references of each, and a name for the results.

    Attributes:
        rows: for each row of the data, in order, its place among the unique sources; −1 for a row
            that cannot be used.
        tasks: that of each source, if a column names it.
        files: what was read; None for a prepared split.
    """

    name: str
    sources: Sequence[str]
    references: Sequence[Sequence[str]]
    translation: bool
    rows: Sequence[int] = ()
    tasks: Sequence[str] = ()
    files: str | Sequence[str] | None = None

    def first_rows(self) -> dict[int, int]:
        """The first row of each source."""
        return {place: row for row, place in reversed(list(enumerate(self.rows))) if place >= 0}


class Reading(Protocol):
    """What a source is rendered by: a predictor, or :class:`AsWritten`."""

    @property
    def settings(self) -> InputSettings:
        """How training turned rows into sources."""

    def fitted(self, example: Example) -> str:
        """An example's source, as long as it is read."""


@dataclass(frozen=True)
class AsWritten:
    """Sources as they stand in the data, where no model reads them."""

    settings: InputSettings = field(default_factory=InputSettings)

    def fitted(self, example: Example) -> str:
        """The whole source."""
        return example.source


def check_files(data: str | Sequence[str]) -> None:
    """Checks paths before a model is loaded.

    Raises:
        DataError: there is no such file.
    """
    if _prepared_folder(data) is None:
        find_origins(data)


def _prepared_folder(data: str | Sequence[str] | None) -> Path | None:
    names = [data] if isinstance(data, str) else data or []
    path = Path(names[0]).expanduser() if len(names) == 1 else None
    return path if path is not None and is_prepared(path) else None


def scored_data(
    recipe: Recipe, predictor: Reading, data: str | Sequence[str] | None, *, columns_named: bool
) -> ScoredData:
    """The data to score on: what is given, else the recipe's test data, else its validation data or
    split.

    Args:
        columns_named: the recipe's column names are meant for this file, so a missing one is an
            error; otherwise, columns are guessed in a file that lacks all of them.

    Raises:
        DataError: the data is missing, lacks columns, or has no usable row.
    """
    files = data or recipe.data.test or recipe.data.validation
    if files is None and recipe.data.train == NO_DATA:
        raise UsageError(
            f"{recipe.model.name} has no recipe that names data", hint="give --data FILE"
        )
    folder = _prepared_folder(data)
    if files is None or folder is not None:
        prepared = prepare_data(recipe) if folder is None else open_prepared(folder)
        return _prepared_split(recipe, predictor, prepared, named=folder is not None)
    if data is None and recipe.data.test is None:
        say(f"no test data: scoring the validation data {files}, which training evaluated on")
    section = _as_trained(recipe, predictor.settings).data
    required = columns_named or data is None
    optional = [key for key in COLUMNS if not (required and getattr(recipe.data, key))]
    examples = Examples(section.model_copy(update={"test": files}), "test", optional=optional)
    rows = list(examples)
    read = [_read(row, predictor) for row in rows]
    pairs = [(source, target) for _, source, target in read if source is not None]
    first = files if isinstance(files, str) else files[0]
    say_encoding(first, section.encoding)
    causes = examples.causes
    if causes.faults:
        hint = causes.hint(others_are_right=True)
        unused = f"{causes.faults:,} rows of {first} cannot be used and are not scored"
        warn(f"{unused}: {causes.listed()}{f'; {hint}' if hint else ''}")
    grouped = group_references([source for source, _ in pairs], [target for _, target in pairs])
    reading = examples.reading
    columns = [reading.source_column, reading.target_column]
    if data is not None and columns != [getattr(recipe.data, key) for key in COLUMNS]:
        say(f"columns: {reading.used}")
    for note in reading.notes:
        say(note)
    if not isinstance(files, str) and len(files) == 2:  # parallel lines: train.en and train.de
        columns = [Path(file).suffix.removeprefix(".") for file in files]
    return ScoredData(
        run_name(first),
        *grouped,
        translation=_is_translation(recipe, predictor, *columns),
        rows=_rows_of(grouped[0], [(where, source) for where, source, _ in read]),
        tasks=_tasks(recipe, rows, read, grouped[0]),
        files=files,
    )


def _tasks(
    recipe: Recipe,
    rows: Sequence[Example | Rejected],
    read: Sequence[tuple[str, str | None, str]],
    sources: Sequence[str],
) -> list[str]:
    """The task of each source, that of its first row; none without a column of tasks.

    Raises:
        DataError: no row names a task.
    """
    column = recipe.data.task_column
    if column is None:
        return []
    tasks: dict[str, str] = {}
    for row, (_, source, _) in zip(rows, read, strict=True):
        if isinstance(row, Example) and source is not None:
            tasks.setdefault(source, row.task)
    if not any(tasks.values()):
        raise DataError(
            f"no row names a task in data.task_column '{column}'",
            hint="name a column of the scored file, or file: each file is a task",
        )
    return [tasks[source] or "(none)" for source in sources]


def _prepared_split(
    recipe: Recipe, predictor: Reading, prepared: PreparedDataset, *, named: bool
) -> ScoredData:
    """The test split of prepared data (a split column of the training table can mark test rows),
    else its validation split.

    Args:
        named: the user named the folder; else it was made of the recipe's training data.
    """
    split = "validation" if prepared.split("test") is None else "test"
    if prepared.split(split) is None:
        raise UsageError(
            f"{prepared.path} has no test or validation split"
            if named
            else "the recipe names no test data, and no validation data is held out",
            hint="give --data FILE",
        )
    settings = prepared.manifest.input
    if recipe.data.task_column is not None:
        warn("prepared data has no column of tasks: scores are over all sources; --data FILE has")
    if split == "validation" and not named:
        say("no test data: scoring the validation split, which training evaluated on")
    if named and settings.template != predictor.settings.template:
        warn(f"{prepared.path} was prepared with another template than the model was trained with")
    rows = split_to_score(recipe, predictor, prepared, split)
    return replace(rows, name=f"{run_name(str(prepared.path))}-{split}") if named else rows


def split_to_score(
    recipe: Recipe, predictor: Reading, prepared: PreparedDataset, split: str
) -> ScoredData:
    """The rows of a split of prepared data; there are none if it is missing."""
    table = prepared.split(split)
    columns = (prepared.manifest.input.source_column, recipe.data.target_column)
    sources = list(table.sources()) if table else []
    grouped = group_references(sources, table.targets() if table else [])
    return ScoredData(
        split,
        *grouped,
        translation=_is_translation(recipe, predictor, *columns),
        rows=_rows_of(grouped[0], [(str(row), source) for row, source in enumerate(sources)]),
    )


def _read(row: Example | Rejected, predictor: Reading) -> tuple[str, str | None, str]:
    """A row's place, source (None if it cannot be used) and target."""
    if isinstance(row, Example):
        used = row.is_taken
        return row.where, predictor.fitted(row) if used else None, row.target
    return f"{row.file}:{row.line}", None, ""


def _rows_of(sources: Sequence[str], read: Iterable[tuple[str, str | None]]) -> list[int]:
    """The place of each row's source; the references of one row count once."""
    places = {source: place for place, source in enumerate(sources)}
    alike = (one for one, _ in itertools.groupby(read))
    return [-1 if source is None else places[source] for _, source in alike]


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
    recipe: Recipe, predictor: Reading, source: str | None, target: str | None
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


def chosen_metrics(
    named: Sequence[str], data: ScoredData, labels: Sequence[str] = ()
) -> Sequence[str]:
    """The recipe's metrics; for ``auto`` those that fit the references, which may be ``labels``
    that the model was trained on.
    """
    if list(named) != ["auto"]:
        return named
    choice = choose_metrics(data.references, translation=data.translation, labels=labels)
    say(
        f"metrics: {', '.join(choice.metrics)} ({choice.reason}); to change: --set "
        "evaluation.metrics=…"
    )
    return choice.metrics
