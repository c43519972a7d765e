"""A sweep's folder: begun once, and continued only by the same sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.documents import Document
from lora_s2s.errors import UsageError
from lora_s2s.files import write_json
from lora_s2s.pipeline.study import mend_journal
from lora_s2s.recipe.load import recipe_to_yaml
from lora_s2s.recipe.schema import Recipe
from lora_s2s.recipe.space import Varied


class SweepFile(Document):
    """``sweep.json``: what the trials of a sweep have in common."""

    file = "sweep.json"
    version = (("kind", "lora-s2s sweep"), ("format", 1))
    about = "a sweep"
    hint = "sweep into another --out"

    recipe: str
    data: str
    vary: dict[str, str]
    score: str


def check_folder(
    folder: Path,
    recipe: Recipe,
    prepared: PreparedDataset,
    space: Sequence[Varied],
    score: str,
) -> None:
    """Begins a sweep's folder, or checks that it holds this sweep and removes what a killed process
    left. The caller holds the sweep's lock.

    Raises:
        UsageError: it holds something else.
        DataError: ``sweep.json`` is damaged.
    """
    vary = {one.key: str(one) for one in space}
    sweep = SweepFile(
        recipe=recipe_to_yaml(recipe), data=prepared.fingerprint, vary=vary, score=score
    )
    path = SweepFile.path(folder)
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not a sweep's folder", hint="give another --out FOLDER")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {**dict(SweepFile.version), **sweep.model_dump()})
        return
    before = SweepFile.read(folder)
    differing = [key for key, value in sweep if getattr(before, key) != value]
    if differing:
        raise UsageError(
            f"{folder} holds another sweep; these differ: {', '.join(differing)}",
            hint="give another --out FOLDER, or remove this one",
            where=str(path),
        )
    mend_journal(folder)
    say(f"continuing the sweep in {folder}")
