"""How many of the scored sources a model was trained on, where that can be told."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from lora_s2s.data.prepared import PreparedDataset, is_prepared, open_prepared
from lora_s2s.errors import DataError
from lora_s2s.files import mapping, sha256_file
from lora_s2s.pipeline.recipes import prepared_folder
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import AdapterManifest, manifest_content


def trained_on_note(
    model: str, recipe: Recipe, files: str | Sequence[str], sources: Collection[str]
) -> str | None:
    """A note if an adapter was trained on scored sources; None also where nothing tells.

    The prepared data of its run counts the sources; without it, the recorded hashes of the training
    files tell whether one of them is scored.

    Args:
        recipe: the adapter's.
        files: what is scored.
        sources: the rendered ones that are scored.
    """
    folder = Path(model).expanduser()
    if not AdapterManifest.path(folder).is_file():
        return None
    if (prepared := _of_training(folder, recipe)) is not None:
        trained = {*sources}.intersection(prepared.train.each_source())
        if not trained:
            return None
        counted = f"{len(trained):,} of {len(sources):,} sources were trained on"
        return f"{counted}: the score is not one of unseen data"
    recorded = _recorded_hashes(folder)
    for name in [files] if isinstance(files, str) else files:
        path = Path(name).expanduser()
        if recorded and path.is_file() and sha256_file(path) in recorded:
            return f"{name} is training data of this adapter: the score is not one of unseen data"
    return None


def _of_training(folder: Path, recipe: Recipe) -> PreparedDataset | None:
    """The prepared data that the adapter was trained on, if it is still there."""
    place = prepared_folder(recipe)
    fingerprint = mapping(manifest_content(folder).get("data")).get("fingerprint")
    if not isinstance(fingerprint, str) or not is_prepared(place):
        return None
    try:
        prepared = open_prepared(place)
    except DataError:
        return None
    return prepared if prepared.fingerprint == fingerprint else None


def _recorded_hashes(folder: Path) -> set[str]:
    entries = AdapterManifest.read(folder).sources.get("train")
    hashes: set[str] = set()
    for entry in entries if isinstance(entries, list) else ():
        files = mapping(mapping(entry).get("sha256")).values()
        hashes.update(value for value in files if isinstance(value, str))
    return hashes
