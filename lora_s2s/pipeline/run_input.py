"""What ``train`` is asked to train: a recipe, a data file or a prepared folder. Light to import:
what is wrong with names and files is reported before torch loads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.errors import UsageError, quoted
from lora_s2s.pipeline.names import fetched
from lora_s2s.pipeline.prepared_folder import is_folder_of_data, open_with_recipe
from lora_s2s.pipeline.recipes import (
    AnyRecipe,
    check_named,
    chosen_recipe,
    load_recipe,
    recipe_with_data,
)
from lora_s2s.pipeline.trained import RunOptions, check_run_folder
from lora_s2s.pipeline.wishes import (
    Wishes,
    check_base,
    existing_recipe,
    kept_settings,
    look,
    starter_path,
)
from lora_s2s.readers.origins import is_data_name
from lora_s2s.recipe.catalogue import shipped
from lora_s2s.recipe.layers import Overrides, overridden_keys, read_layer
from lora_s2s.recipe.schema import Recipe
from lora_s2s.recipe.written import untouched_writer, words_given
from lora_s2s.remote import is_url


def asked_run(
    recipe: str,
    data: Sequence[str] | None,
    model: str | None,
    sets: Overrides | None,
    *,
    command: str = "train",
    options: RunOptions | None = None,
    dry_run: bool = False,
) -> tuple[Recipe, PreparedDataset | None]:
    """The recipe of a command line, and its data if a prepared folder is named; for a data file,
    the recipe that is written for it.

    Args:
        command: the command's name; only ``train`` writes a recipe.
        options: of the run.
        dry_run: write nothing.

    Raises:
        UsageError: a data file, and the command takes none.
    """
    data, sets, options = data or (), sets or (), options or RunOptions()
    if is_url(recipe):
        recipe = str(fetched(recipe))
    if is_folder_of_data(recipe):
        if data or model:
            raise UsageError(
                f"{recipe} is prepared data: omit --data and --model",
                hint="lora-s2s prepare --help",
            )
        return open_with_recipe(Path(recipe), sets)
    if data or not is_data(recipe):
        chosen = chosen_recipe(recipe, data, model, sets, command=command, resume=options.resume)
        if not options.resume:
            check_named(chosen, base=command != "plan")
        if command == "train" and not dry_run:
            check_run_folder(chosen, options, may_be_done=True)
        return chosen, None
    if command != "train":
        hint = f"write its recipe first: lora-s2s init --data {quoted(recipe)} --yes"
        raise UsageError(f"{recipe} is a data file, expected a recipe", hint=hint)
    given = [f"model.name={model}", *sets] if model else sets
    return _recipe_of_data(recipe, given, options, dry_run=dry_run), None


def recipe_and_data(
    recipe: AnyRecipe, overrides: Mapping[str, object], options: RunOptions
) -> tuple[Recipe, PreparedDataset | None]:
    """The recipe to train, and its data where that is prepared already; for a data file, the recipe
    that is written for it.
    """
    if isinstance(recipe, str | os.PathLike):
        return asked_run(os.fspath(recipe), None, None, overrides, options=options)
    return (load_recipe if options.resume else recipe_with_data)(recipe, overrides), None


def is_data(name: str) -> bool:
    """Whether a word names data to train on, and no recipe."""
    if not name or name in shipped() or not is_data_name(name):
        return False
    path = Path(name).expanduser()
    return path.suffix != ".json" or not read_layer(path).sections


def starter_of(name: str, sets: Overrides | None) -> Path:
    """The recipe that a data file has: that of the run which the user named, if there is one."""
    path = starter_path(name, sets or ())
    return path if path.is_file() else starter_path(name, ())


def _recipe_of_data(name: str, sets: Overrides, options: RunOptions, *, dry_run: bool) -> Recipe:
    """The recipe of a data file: decided, shown and written as by ``init --yes``. One that was
    written by ``init`` or edited is used as it is, and that of a run to resume. Of one that
    ``train`` wrote, what the user gave is kept.

    Raises:
        UsageError: there is a recipe of this name for other data.
    """
    there = starter_of(name, sets)
    kept: dict[str, object] = {}
    if there.is_file():
        writer = untouched_writer(there)
        if options.resume or writer != "train":
            existing = existing_recipe(there, name, sets)
            if not dry_run:
                check_run_folder(existing, options, may_be_done=True)
            file = quoted(name)
            why, anew = {
                "init": ("init wrote it", f"init {file}"),
                "train": ("to resume a run", f"train {file} --overwrite"),
                None: ("edited by hand", f"init {file} --overwrite{words_given(there)}"),
            }[writer]
            say(f"{there} is used as it is ({why}); to decide anew: lora-s2s {anew}")
            return existing
        kept = kept_settings(there, name, sets)
    # A wrong column is told before a taken name.
    looked = look(Wishes([name], sets, kept=kept))
    check_named(looked.given)
    if not dry_run:
        check_run_folder(looked.given, options)
    if "model.name" not in {*kept, *overridden_keys(sets)}:
        check_base(looked.facts)
    from lora_s2s.pipeline.init import starter_recipe, write
    from lora_s2s.training.processes import main_process_first

    with main_process_first():
        starter = starter_recipe(looked, command="train")
        if dry_run:
            say(f"dry run: {looked.path} is not written")
            return starter.recipe
        write(starter)
    return starter.recipe
