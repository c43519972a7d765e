"""Which data may be read: anything that the user names, but of what an adapter's recipe names only
what its manifest recorded. Heavy to import.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lora_s2s.errors import DataError
from lora_s2s.hub import is_local
from lora_s2s.readers.recorded import Named, follow_recorded, is_pattern, record_data
from lora_s2s.recipe.layers import Overrides, overridden_keys
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import AdapterManifest

SOURCES = "sources"
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
    names = follow_recorded(
        getattr(recipe.data, split),
        AdapterManifest.read(folder).sources.get(split),
        split=split,
        parallel=recipe.data.format == "parallel",
    )
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
    if not is_local(recipe.model.name, recipe.model.revision):
        raise DataError(
            f"the adapter's recipe names the model '{recipe.model.name}', which is not on this "
            "machine",
            hint="give --data FILE, or if you trust that model: --set "
            f"model.name={recipe.model.name}",
            where=str(folder / "recipe.yaml"),
        )
