"""Which examples a model or adapter is scored on, and the settings it was made with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_s2s.commands._pipeline import check_writable
from lora_s2s.errors import DataError, ToolkitError, UsageError, nearest

if TYPE_CHECKING:
    from lora_s2s.evaluation.evaluate import Evaluation
    from lora_s2s.inference.decode import DecodingSettings
    from lora_s2s.inference.loading import InputSettings
    from lora_s2s.recipe.schema import EvaluationSection, Recipe

NO_DATA = "none"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Examples:
    """Unique rendered sources with all their raw references; ``name`` names the folder of results."""

    name: str
    sources: list[str]
    references: list[list[str]]


def score_model(
    model: str,
    *,
    data: str | None = None,
    baseline: bool = False,
    limit: int | None = None,
    out: Path | None = None,
    base: str | None = None,
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Decodes and scores; writes predictions and refreshes the adapter's manifest, card and report.

    Results on another base (``base``) stay out of the adapter's folder: they are not its own.

    Returns:
        the ``--json`` object of ``eval``.
    """
    from lora_s2s.console import ProgressLine
    from lora_s2s.data.origins import find_origins
    from lora_s2s.evaluation.evaluate import evaluate
    from lora_s2s.inference.loading import load_predictor

    if data is not None:
        find_origins(data)  # a wrong path is told before a model is loaded
    recipe = recipe_of(model, sets, data=data)
    predictor = load_predictor(model, base=base, dtype=recipe.model.dtype)
    if recipe.data.train == (data or NO_DATA):
        recipe = _as_trained(recipe, predictor.settings)
    named = any(word.strip().startswith(("data.source_column", "data.target_column")) for word in sets)
    tests = examples_for(recipe, data, named_columns=named)
    count = limit or recipe.evaluation.limit
    name = f"{tests.name}-first-{count}" if count else tests.name
    folder = out or (Path(model) / "evaluations" / name if predictor.has_adapter and base is None else None)
    if folder is not None:
        check_writable(folder.parent)
    with ProgressLine("eval") as line:
        evaluation = evaluate(
            predictor,
            tests.sources,
            tests.references,
            metrics=recipe.evaluation.metrics,
            settings=decoding_settings(recipe.evaluation),
            baseline=predictor.baseline() if baseline else None,
            limit=count,
            progress=lambda what, done, total: line.update({"": what}, done=done, total=total),
        )
    written = evaluation.write(folder) if folder is not None else None
    if predictor.has_adapter and base is None:
        _record(Path(model), name, evaluation)
    return evaluation.to_json(written)


def _as_trained(recipe: Recipe, settings: InputSettings) -> Recipe:
    """A merged model brings no recipe, but its manifest says how a row became a source."""
    said = recipe.data.model_fields_set
    known = {key: getattr(settings, key) for key in ("template", "source_column", "format") if key not in said}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=known)})


def _record(adapter: Path, name: str, evaluation: Evaluation) -> None:
    from lora_s2s.evaluation.evaluate import record_scores
    from lora_s2s.evaluation.report import write_report
    from lora_s2s.export.card import write_card

    record_scores(adapter, name, evaluation)
    write_report(adapter)
    write_card(adapter)


def recipe_of(model: str, overrides: Sequence[str] = (), *, data: str | None = None) -> Recipe:
    """Returns the recipe an adapter was made with, or the defaults for a plain model, with overrides.

    Args:
        data: the data file, for a model that comes without a recipe.
    """
    from lora_s2s.recipe.load import load_recipe, recipe_from_settings

    folder = Path(model).expanduser()
    if (folder / "recipe.yaml").is_file():
        return load_recipe(str(folder / "recipe.yaml"), overrides)
    if not folder.exists() and folder.parent.is_dir() and "/" in model:
        # Also of the form of a hub id, but it stands in a folder of this machine.
        siblings = [path.name for path in folder.parent.iterdir()]
        raise UsageError(f"no such folder: {model}{nearest(folder.name, siblings)}", hint="lora-s2s adapters")
    # A model has no training data; the key is required, so it is given and never read.
    given = [f"model.name={model}", f"data.train={data or NO_DATA}"]
    return recipe_from_settings("model", [*given, *overrides])


def decoding_settings(section: EvaluationSection) -> DecodingSettings:
    """Returns the decoding part of a recipe's evaluation section."""
    from lora_s2s.inference.decode import DecodingSettings

    return DecodingSettings(
        max_new_tokens=section.max_new_tokens, num_beams=section.num_beams, batch_tokens=section.batch_tokens
    )


def examples_for(recipe: Recipe, data: str | None, *, named_columns: bool = False) -> Examples:
    """Returns what to score on: the data given, else the recipe's test data, else its validation split.

    Args:
        named_columns: the recipe's column names were given for this very file, so a missing one is an error; else
            a file that lacks them has its columns found by their names.

    Raises:
        DataError: the data is missing, lacks columns, or holds no usable row.
    """
    given = data or recipe.data.test or recipe.data.validation
    if given is None and recipe.data.train == NO_DATA:
        raise UsageError(f"{recipe.model.name} comes without a recipe that names data", hint="give --data FILE")
    if given is None:
        return _held_out(recipe)
    paths = [given] if isinstance(given, str) else list(given)
    return _grouped(data_name(paths[0]), *_read(recipe, paths, named_columns=named_columns or data is None))


def _held_out(recipe: Recipe) -> Examples:
    from lora_s2s.commands._pipeline import prepare_data
    from lora_s2s.console import say

    table = prepare_data(recipe).split("validation")
    if table is None:
        raise UsageError("the recipe names no test data and holds out no validation data", hint="give --data FILE")
    say("no test data is named: scoring the validation split")
    return _grouped("validation", table.sources(), table.targets())


def _grouped(name: str, sources: list[str], targets: list[str]) -> Examples:
    from lora_s2s.evaluation.evaluate import group_references

    return Examples(name, *group_references(sources, targets))


def _read(recipe: Recipe, paths: Sequence[str], *, named_columns: bool) -> tuple[list[str], list[str]]:
    from lora_s2s.console import warn
    from lora_s2s.data.example import Rejected
    from lora_s2s.data.readers import read_examples

    section = recipe.data
    source, target = section.source_column, section.target_column
    if not named_columns:
        names = _columns_in(paths)
        source, target = (column if column in names else None for column in (source, target))
    pairs, rejected = [], 0
    for item in read_examples(
        paths, format=section.format, source_column=source, target_column=target, template=section.template
    ):
        if isinstance(item, Rejected):
            rejected += 1
        else:
            pairs.append((item.source, item.target))
    if rejected:
        warn(f"{rejected:,} rows of {paths[0]} cannot be used and are not scored; lora-s2s prepare says why")
    return [source for source, _ in pairs], [target for _, target in pairs]


def _columns_in(paths: Sequence[str]) -> set[str]:
    from lora_s2s.data.origins import find_origins
    from lora_s2s.data.rows import Row

    for origin in find_origins(paths):
        for row in origin.rows():
            if isinstance(row, Row):
                return set(row.fields)
    raise DataError(f"{paths[0]} is empty: no row in it", hint="give a file with a header or keys, and rows")


def data_name(path: str) -> str:
    """Returns a folder name for the results on a data file: ``testset_w_refs`` for ``…/testset_w_refs.csv.gz``."""
    name = path if path.startswith(("demo:", "hf:")) else re.sub(r"(\.[A-Za-z]+)?(\.gz)?$", "", Path(path).name)
    return _NOT_IN_NAMES.sub("-", name).strip("-.") or "data"


def probe_texts(adapter: Path, count: int = 16) -> list[str]:
    """Returns real sources to compare two models on: what the adapter was scored on, its data, or the demo task's."""
    from lora_s2s.demo.task import examples
    from lora_s2s.evaluation.report import sample_rows

    scored = [str(row["source"]) for row in sample_rows(adapter, count) if "source" in row]
    if scored:
        return scored
    try:
        return examples_for(recipe_of(str(adapter)), None).sources[:count]
    except ToolkitError:
        # The data need not be on the machine that merges.
        return [source for source, _ in examples("test", count)]
