"""What answers may be, read: a schema or grammar from its file, the labels from the training data.

A recipe in an untrusted folder opens no file: training writes the content itself into it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lora_s2s import limits
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.errors import DataError, UsageError
from lora_s2s.examples.example import Example
from lora_s2s.examples.read import TRAIN, Examples
from lora_s2s.files import json_text, loads, naming, read_whole
from lora_s2s.pipeline.adapters import NO_DATA
from lora_s2s.pipeline.followed import followed
from lora_s2s.recipe.constraint import LABELS, Constraint, parse
from lora_s2s.recipe.layers import Overrides, overridden_keys
from lora_s2s.recipe.schema import Recipe

KEY = "evaluation.constraint"
_NAME_THEM = f"name the labels: --set '{KEY}=[yes, no]'"


def with_constraint(recipe: Recipe, model: str, overrides: Overrides = ()) -> Recipe:
    """Returns a recipe whose constraint is complete.

    Args:
        recipe: that of ``model``, with overrides.
        model: an untrusted folder, or a name.
        overrides: the user's; a file named here is read.

    Raises:
        UsageError: the training targets are no set of labels, or are not known.
        DataError: a file cannot be read, or the folder's recipe names one.
    """
    if recipe.evaluation.constraint is None:
        return recipe
    constraint = parse(recipe.evaluation.constraint)
    if constraint.is_complete:
        return recipe
    if constraint.kind == LABELS:
        return _with(recipe, _labels(_training_targets(recipe, model, overrides)))
    if KEY not in overridden_keys(overrides):
        raise DataError(
            f"the recipe of {model} names the file '{constraint.text:.200}' as {KEY}: not read",
            hint=f"if that is the file you want: --set '{KEY}={constraint.value}'",
        )
    return _with(recipe, _read(constraint))


def with_trained_constraint(recipe: Recipe, prepared: PreparedDataset) -> Recipe:
    """Returns a user's recipe whose constraint is complete, as the adapter's folder records it."""
    if recipe.evaluation.constraint is None:
        return recipe
    constraint = parse(recipe.evaluation.constraint)
    if constraint.is_complete:
        return recipe
    if constraint.kind == LABELS:
        return _with(recipe, _labels(prepared.train.targets()))
    return _with(recipe, _read(constraint))


def _with(recipe: Recipe, constraint: Constraint) -> Recipe:
    value = list(constraint.labels) or constraint.value
    evaluation = recipe.evaluation.model_copy(update={"constraint": value})
    return recipe.model_copy(update={"evaluation": evaluation})


def _labels(targets: Iterable[str]) -> Constraint:
    distinct: set[str] = set()
    for target in targets:
        distinct.add(target)
        if len(distinct) > limits.MOST_CONSTRAINT_LABELS:
            break
    try:
        return parse(sorted(distinct))
    except ValueError as error:
        problem = f"{KEY} is labels, and the training targets are not: {error}"
        raise UsageError(problem, hint=_NAME_THEM) from error


def _training_targets(recipe: Recipe, model: str, overrides: Overrides) -> Iterable[str]:
    if recipe.data.train == NO_DATA:
        raise UsageError(f"{model} has no recipe that names training data", hint=_NAME_THEM)
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
            text = json_text(loads(text))
        complete = parse(f"{constraint.kind}: {text}")
    except (ValueError, RecursionError) as error:
        raise DataError(f"not {_A_FILE[constraint.kind]}: {error}", where=str(path)) from error
    if not complete.is_complete:
        raise DataError(f"not {_A_FILE[constraint.kind]}", where=str(path))
    return complete


_A_FILE = {
    "json": "a JSON Schema (an object)",
    "grammar": "a grammar in GBNF (rules such as root ::= …)",
}
