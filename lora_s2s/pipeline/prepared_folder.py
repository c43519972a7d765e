"""A prepared folder that is named in a recipe's place, which may be anybody's. Light to import."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lora_s2s.data.prepared import PreparedDataset, is_prepared, open_prepared
from lora_s2s.errors import DataError, UsageError, quoted
from lora_s2s.hub import RECIPE, is_local
from lora_s2s.recipe.catalogue import shipped
from lora_s2s.recipe.layers import Overrides, overridden_keys, override_words
from lora_s2s.recipe.load import recorded_recipe
from lora_s2s.recipe.schema import Recipe
from lora_s2s.tokens.loading import tokenizer_hash


def is_folder_of_data(name: str) -> bool:
    """Whether a word names a prepared folder, and no shipped recipe."""
    return bool(name) and name not in shipped() and is_prepared(Path(name).expanduser())


def open_with_recipe(folder: Path, sets: Overrides) -> tuple[Recipe, PreparedDataset]:
    """Opens a prepared folder and the recipe it was prepared with, to train on it as it is.

    Raises:
        UsageError: an override of what went into the folder.
        DataError: the folder is damaged, or the base's tokenizer has changed.
    """
    if not (folder / RECIPE).is_file():
        raise DataError(
            f"{folder} holds no {RECIPE}", hint="prepare the data again: lora-s2s prepare RECIPE"
        )
    folder = folder.expanduser()
    recipe = recorded_recipe(folder, sets)
    _check_same(folder, recipe, sets)
    given = overridden_keys(sets)
    if "output.dir" not in given:
        _check_output(folder, recipe.output.dir)
    if "training.trackers" not in given:
        _check_trackers(folder, recipe.training.trackers)
    if not is_local(recipe.model.name, recipe.model.revision):
        raise DataError(
            f"{folder} names the model '{recipe.model.name}', which is not on this machine; it is "
            "not fetched for that",
            hint=f"if that is the model you want: hf download {recipe.model.name}",
            where=str(folder / RECIPE),
        )
    prepared = open_prepared(folder, reused=True)
    tokenizer = tokenizer_hash(recipe.model.name, recipe.model.revision)
    if prepared.manifest.identity.tokenizer != tokenizer:
        hint = f"prepare it anew: lora-s2s prepare {quoted(folder / RECIPE)} --out FOLDER"
        raise DataError(
            f"{folder} was prepared with another tokenizer than that of {recipe.model.name}",
            hint=hint,
        )
    return recipe, prepared


def _check_same(folder: Path, recipe: Recipe, sets: Overrides) -> None:
    """Refuses other values for what went into a folder."""
    went_in = ("data.", "model.name", "model.revision")
    words = [word for word in override_words(sets) if word.startswith(went_in)]
    before = recorded_recipe(folder) if words else recipe
    for word in words:
        section, name = word.partition("=")[0].strip().split(".")
        if getattr(getattr(recipe, section), name) != getattr(getattr(before, section), name):
            hint = (
                f"prepare it anew: lora-s2s prepare {quoted(folder / RECIPE)} --out FOLDER --set "
                f"{quoted(word)}"
            )
            raise UsageError(f"{word}: {folder} is prepared already", hint=hint)


def _check_output(folder: Path, place: str) -> None:
    """Refuses to write outside the current folder because a prepared folder, which may be
    anybody's, says so.
    """
    if not Path(os.path.abspath(place)).is_relative_to(Path.cwd()):
        raise DataError(
            f"{folder} names the output folder '{place}', outside the current one",
            hint=f"if that is the folder you want: --set output.dir={quoted(place)}",
            where=str(folder / RECIPE),
        )


def _check_trackers(folder: Path, trackers: Sequence[str]) -> None:
    """Refuses to send a run's figures away because an untrusted prepared folder says so."""
    remote = [tracker for tracker in trackers if tracker != "tensorboard"]
    if remote:
        chosen = f"training.trackers=[{', '.join(trackers)}]"
        raise DataError(
            f"{folder} names the tracker '{remote[0]}', which can send data to another machine",
            hint=f"if that is what you want: --set {quoted(chosen)}",
            where=str(folder / RECIPE),
        )
