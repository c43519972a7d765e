"""The recipe of a command line: a file or shipped name, or data and model alone; and the command
that trains next.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_s2s.data.prepared import is_prepared
from lora_s2s.errors import DataError, UsageError, quoted
from lora_s2s.hub import locate_model
from lora_s2s.pipeline.names import given_overrides, given_path
from lora_s2s.pipeline.surroundings import called
from lora_s2s.pipeline.trained import on_other_data
from lora_s2s.readers.origins import check_there
from lora_s2s.recipe import load
from lora_s2s.recipe.catalogue import shipped
from lora_s2s.recipe.layers import Overrides, flat_keys
from lora_s2s.recipe.schema import Recipe
from lora_s2s.systems import file_name

Name = str | os.PathLike[str]
Files = Name | Sequence[Name]
AnyRecipe = Recipe | Name | Mapping[str, object]

_ENDINGS = re.compile(r"(\.[A-Za-z]+)?(\.(gz|zst|zip))?(@[0-9.]+)?$")
# A file or folder whose name says nothing of its task.
_PART = re.compile(
    r"(train|training|trainset|all|full|data|dataset|datasets|examples|rows|tmp|shared|home)",
    re.IGNORECASE,
)
# What shipped recipes call the training data.
_YOURS = re.compile(r"([a-z0-9-]+/)?(train|trainset|all)\.(csv|jsonl?)(\.gz)?")


def load_recipe(recipe: AnyRecipe, overrides: Mapping[str, object] | None = None) -> Recipe:
    """Loads a recipe: a shipped one's name, a YAML file, or a mapping.

    >>> import lora_s2s
    >>> recipe = lora_s2s.load_recipe("demo", {"training.max_steps": 2, "output.name": "short"})
    >>> recipe.training.max_steps
    2
    >>> rows = {"model": {"name": "demo"}, "data": {"train": "my rows.csv"}}
    >>> lora_s2s.load_recipe(rows).output.name
    'my-rows'

    Args:
        recipe: also a recipe that is loaded already, or what ``init`` returned.
        overrides: keys such as ``training.seed`` and their values.

    Raises:
        Error: no such recipe, or all that is wrong with it, each with its place.
    """
    with called(progress=False):
        given = given_overrides(overrides)
        if isinstance(recipe, Recipe):
            return load.with_overrides(recipe, given)
        if isinstance(recipe, Mapping):
            return _recipe_of_mapping(recipe, given)
        return load.load_recipe(given_path("recipe", recipe), given)


def chosen_recipe(
    recipe: str,
    data: Sequence[str],
    model: str | None,
    sets: Overrides,
    *,
    command: str,
    out: str | None = None,
    resume: bool = False,
) -> Recipe:
    """Returns the recipe that is named, with data and model over it, or one of data and model
    alone.

    Args:
        command: the command's name, for the hint.
        out: the folder that names a recipe of data and model alone; by default the first file does.
        resume: what was begun may go on without its data.

    Raises:
        UsageError: neither a recipe, nor both data and model.
        DataError: the recipe names no data of the user's yet.
    """
    train = data[0] if len(data) == 1 else json.dumps(list(data), ensure_ascii=False)
    said = [f"data.train={train}"] * bool(data) + [f"model.name={model}"] * bool(model)
    if recipe:
        loaded = load.load_recipe(recipe, said, sets)
        if not resume:
            _check_data(loaded, f"lora-s2s {command} {quoted(recipe)} --data FILE")
        return loaded
    if not (data and model):
        hint = f"lora-s2s {command} --data FILE --model demo, or lora-s2s {command} demo"
        if command == "train":
            hint = f"a data file suffices: lora-s2s train {quoted(data[0] if data else 'my.csv')}"
        raise UsageError("expected a RECIPE, or --data and --model together", hint=hint)
    return load.recipe_from_settings(run_name(Path(out).name if out else data[0]), said, sets)


def recipe_with_data(recipe: AnyRecipe, overrides: Mapping[str, object] | None = None) -> Recipe:
    """Loads a recipe of a call from Python, and checks that it names data of the user's.

    Raises:
        DataError: it does not yet.
    """
    loaded = load_recipe(recipe, overrides)
    _check_data(loaded, 'lora_s2s.load_recipe(RECIPE, {"data.train": "FILE"})')
    return loaded


def _check_data(recipe: Recipe, named: str) -> None:
    """Refuses the training file that shipped recipes leave to the user where there is none, before
    a model is fetched.
    """
    file = recipe.data.train
    yours = isinstance(file, str) and _YOURS.fullmatch(file) and not os.path.lexists(file)
    if yours and not prepared_before(recipe):
        raise DataError(f"no such file: {file} (data.train)", hint=f"name your file: {named}")


def check_named(recipe: Recipe, *, base: bool = True) -> None:
    """Refuses names that lead nowhere. Remote data is not fetched for that; a base of the hub is,
    but for its weights.

    Args:
        base: check the base too.
    """
    data = recipe.data
    for split in ("train", "validation", "test"):
        named = data.named(split)
        try:
            check_there([named] if isinstance(named, str) else named)
        except DataError as error:
            if folder := prepared_before(recipe):
                error.hint = f"it was prepared before; train on that: {train_command(folder)}"
            raise
    if base:
        locate_model(recipe.model.name, recipe.model.revision, weights=False)


def _recipe_of_mapping(recipe: Mapping[str, object], overrides: Mapping[str, object]) -> Recipe:
    """Returns the recipe that mappings say, named after its first file where they do not."""
    data = dict(flat_keys({**recipe, **overrides})).get("data.train")
    first = data[0] if isinstance(data, list | tuple) and data else data
    named = first if isinstance(first, str | os.PathLike) else recipe.get("extends", "run")
    return load.recipe_from_settings(run_name(str(named)), recipe, overrides)


def run_name(path: str) -> str:
    """Returns a name for a run on a file: ``my-file`` for ``data/my file.csv.gz``."""
    name = path if path.startswith(("demo:", "hf:")) else _ENDINGS.sub("", Path(path).name)
    return file_name(name) or "run"


def starter_name(path: str) -> str:
    """Returns a name for a starter recipe on a file: its folder's where the file's own says only
    what part of the data it is.

    >>> starter_name("nl2bash/all.jsonl.gz"), starter_name("my.csv"), starter_name("data/train.csv")
    ('nl2bash', 'my', 'train')
    """
    name = run_name(path)
    folder = Path(os.path.abspath(os.path.expanduser(path))).parent.name
    if not _PART.fullmatch(name) or _PART.fullmatch(folder) or path.startswith(("demo:", "hf:")):
        return name
    return run_name(f"{folder}/") if folder else name


def prepared_folder(recipe: Recipe) -> Path:
    """Where a recipe's data is prepared: ``prepared/NAME`` beside the folder of adapters."""
    return Path(recipe.output.dir).parent / "prepared" / str(recipe.output.name)


def prepared_before(recipe: Recipe) -> Path | None:
    """The folder of prepared data that is still there where a recipe's files are gone."""
    folder = prepared_folder(recipe)
    return folder if is_prepared(folder) and not on_other_data(folder, recipe) else None


def train_command(folder: Path | str) -> str:
    """Returns the command that trains on a prepared folder or its URL, ready to paste."""
    name = str(folder)
    if name.startswith("-") or name in shipped():
        name = f"./{name}"
    return f"lora-s2s train {quoted(name)}"
