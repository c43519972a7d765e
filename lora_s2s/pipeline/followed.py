"""Which files may be read: anything that the user names, but of what an adapter's recipe names only
the data that its manifest recorded. Heavy to import.

A recipe's constraint is completed here: a schema or grammar from its file, labels from the training
data. Training writes the content itself into the adapter's recipe, so that no file is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from lora_s2s import limits
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.errors import DataError, UsageError, quoted
from lora_s2s.examples.example import Example
from lora_s2s.examples.read import TRAIN, Examples
from lora_s2s.files import loads, naming, read_whole
from lora_s2s.hub import is_local
from lora_s2s.inference.constraint import constraint_of
from lora_s2s.pipeline.adapters import NO_DATA, recipe_of
from lora_s2s.pipeline.decoding import decoding_settings
from lora_s2s.pipeline.recipes import prepared_before
from lora_s2s.readers.recorded import Named, follow_recorded, is_pattern, record_data
from lora_s2s.recipe.constraint import LABELS, Constraint, parse
from lora_s2s.recipe.layers import Overrides, overridden_keys
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import AdapterManifest

SOURCES = "sources"
KEY = "evaluation.constraint"
_NAME_THEM = f"name the labels: --set '{KEY}=[yes, no]'"
_A_FILE = {
    "json": "a JSON Schema (an object)",
    "grammar": "a grammar in GBNF (rules such as root ::= …)",
}
_SPLITS = ("test", "validation", "train")


def recorded_sources(recipe: Recipe) -> dict[str, object]:
    """``sources`` of an adapter's manifest: a record of its data, see ``readers/recorded.py``."""
    named = {split: getattr(recipe.data, split) for split in _SPLITS}
    return record_data(named, parallel=recipe.data.format == "parallel")


def followed(
    recipe: Recipe, model: str, overrides: Overrides = (), *, split: str | None = None
) -> Recipe:
    """A recipe whose data may be read: its test data, else its validation, else its training data.

    Args:
        recipe: that of ``model``, with overrides.
        model: an untrusted folder, or a name; the recipe for a name is the user's.
        overrides: the user's; data named here is read.
        split: the data to read in place of these.

    Raises:
        DataError: the folder's recipe names other data than its manifest recorded.
    """
    folder = Path(model).expanduser()
    split = split or next(split for split in _SPLITS if getattr(recipe.data, split))
    if not (folder / "recipe.yaml").is_file() or f"data.{split}" in overridden_keys(overrides):
        return recipe
    try:
        names = follow_recorded(
            getattr(recipe.data, split),
            AdapterManifest.read(folder).sources.get(split),
            split=split,
            parallel=recipe.data.format == "parallel",
        )
    except DataError as error:
        if prepared := prepared_before(recipe):
            error.hint = (
                f"{error.hint}; it was prepared before; score on that: lora-s2s eval "
                f"{quoted(model)} --data {quoted(prepared)}"
            )
        raise
    if split == "train" and "model.name" not in overridden_keys(overrides):
        _check_tokenizer(recipe, folder)
    value = names[0] if len(names) == 1 else names
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={split: value})})


def has_pattern(named: Iterable[Named | None]) -> bool:
    """Whether a data name is a glob pattern, which would search folders."""
    return any(
        is_pattern(name)
        for value in named
        for name in ([value] if isinstance(value, str) else value or ())
    )


def _check_tokenizer(recipe: Recipe, folder: Path) -> None:
    """Refuses to download the model that a folder's recipe names, whose tokenizer prepares the
    training data.
    """
    name = recipe.model.name
    if not is_local(name, recipe.model.revision):
        raise DataError(
            f"the adapter's recipe names the model '{name}', which is not on this machine",
            hint=f"give --data FILE, or if you trust that model: --set model.name={name}",
            where=str(folder / "recipe.yaml"),
        )


def with_constraint(recipe: Recipe, model: str, overrides: Overrides) -> Recipe:
    """Returns a recipe whose constraint is complete.

    Args:
        recipe: that of ``model``, with overrides.
        model: an untrusted folder, or a name.
        overrides: the user's; a file named here is read.

    Raises:
        UsageError: the training targets are no set of labels, or are not known.
        DataError: a file cannot be read, or the folder's recipe names one.
    """
    constraint = _incomplete(recipe)
    if constraint is None:
        return recipe
    if constraint.kind == LABELS:
        targets = training_targets(recipe, model, overrides, hint=_NAME_THEM)
        return _with(recipe, _labels(targets))
    if KEY not in overridden_keys(overrides):
        raise DataError(
            f"the recipe of {model} names the file '{constraint.text:.200}' as {KEY}: not read",
            hint=f"if that is the file you want: --set '{KEY}={constraint.value}'",
        )
    return _with(recipe, _read(constraint))


def recipe_to_answer(model: str, overrides: Overrides = ()) -> Recipe:
    """Returns the recipe that a model answers by, its constraint complete."""
    return with_constraint(recipe_of(model, overrides), model, overrides)


def with_trained_constraint(recipe: Recipe, prepared: PreparedDataset) -> Recipe:
    """Returns a user's recipe whose constraint is complete, as the adapter's folder records it."""
    constraint = _incomplete(recipe)
    if constraint is None:
        return recipe
    if constraint.kind == LABELS:
        return _with(recipe, _labels(prepared.train.each_target()))
    return _with(recipe, _read(constraint))


def _incomplete(recipe: Recipe) -> Constraint | None:
    """A recipe's constraint if labels or a file's content are missing in it."""
    value = recipe.evaluation.constraint
    constraint = None if value is None else parse(value)
    return None if constraint is None or constraint.is_complete else constraint


def _with(recipe: Recipe, constraint: Constraint) -> Recipe:
    value = list(constraint.labels) or constraint.value
    evaluation = recipe.evaluation.model_copy(update={"constraint": value})
    return recipe.model_copy(update={"evaluation": evaluation})


def _labels(targets: Iterable[str]) -> Constraint:
    distinct: dict[str, str] = {}  # spellings of one label differ in spaces, which T5 drops
    for target in targets:
        distinct.setdefault(" ".join(target.split()), target)
        if len(distinct) > limits.MOST_CONSTRAINT_LABELS:
            break
    try:
        return parse(sorted(distinct.values()))
    except ValueError as error:
        problem = f"{KEY} is labels, and the training targets are not: {error}"
        raise UsageError(problem, hint=_NAME_THEM) from error


def training_targets(
    recipe: Recipe, model: str, overrides: Overrides, *, hint: str
) -> Iterator[str]:
    """Yields the targets that a model was trained on.

    Args:
        hint: how to do without them.

    Raises:
        UsageError: there is no training data.
        DataError: the folder's recipe names other data than its manifest recorded.
    """
    if recipe.data.train == NO_DATA:
        raise UsageError(f"{model} has no recipe that names training data", hint=hint)
    data = followed(recipe, model, overrides, split=TRAIN).data
    for example in Examples(data, TRAIN):
        if isinstance(example, Example) and example.split in ("", TRAIN):
            yield example.target


def _read(constraint: Constraint) -> Constraint:
    path = Path(constraint.text.strip()).expanduser()
    with naming(path):
        content = read_whole(path, most=limits.LARGEST_CONSTRAINT)
    try:
        text = content.decode("utf-8-sig").strip()
        if constraint.kind == "json":
            text = json.dumps(loads(text, constant=float), ensure_ascii=False)
        complete = parse(f"{constraint.kind}: {text}")
    except (ValueError, RecursionError) as error:
        raise DataError(f"not {_A_FILE[constraint.kind]}: {error}", where=str(path)) from error
    if not complete.is_complete:
        raise DataError(f"not {_A_FILE[constraint.kind]}", where=str(path))
    return complete


def check_constraint(
    recipe: Recipe, prepared: PreparedDataset, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Compiles a complete constraint, before hours go into training.

    Raises:
        UsageError: the vocabulary cannot write it, or answers would be too short for it.
    """
    constraint_of(decoding_settings(recipe.evaluation, prepared.manifest.input), tokenizer)
