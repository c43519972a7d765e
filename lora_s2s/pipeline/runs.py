"""A run's folder: ``NAME.running`` while it trains, ``NAME`` when it is done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_s2s.console import say
from lora_s2s.documents import checked
from lora_s2s.errors import Error, ResourceError, SetupError, UsageError, again
from lora_s2s.files import read_whole, write_bytes, write_text
from lora_s2s.recipe.load import recipe_to_yaml, recorded_recipe, with_choices_of
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import FinishedManifest
from lora_s2s.training.log import METRICS
from lora_s2s.training.processes import is_main_process, main_process_first
from lora_s2s.training.run_lock import run_lock
from lora_s2s.training.state import TrainResult

_RECIPE_HEAD = (
    "# Every key as this run used it. Run it again: lora-s2s train THIS_FILE --set "
    "output.name=again\n"
)


def _recipe_text(recipe: Recipe) -> str:
    return _RECIPE_HEAD + recipe_to_yaml(recipe)


@contextmanager
def recipe_of_run(folder: Path, recipe: Recipe) -> Iterator[None]:
    """Writes a run's ``recipe.yaml``. Where the block refuses to continue a run, its own comes
    back, from which the next attempt takes what ``auto`` chose.
    """
    path = folder / "recipe.yaml"
    before = read_whole(path) if path.is_file() else None
    if is_main_process():
        write_text(path, _recipe_text(recipe))
    try:
        yield
    except (UsageError, SetupError):
        if before is not None and is_main_process():
            write_bytes(path, before)
        raise


@contextmanager
def running_folder(folder: Path, *, resume: bool) -> Iterator[None]:
    """Makes the running folder and holds it; a failure takes it away only if no step had been taken
    in it.
    """
    main = is_main_process()
    with run_lock(folder, take=main):  # --overwrite does not reach a run that is alive
        with main_process_first():
            if main and folder.exists() and not resume:
                folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
            fresh = main and not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except BaseException as error:
            saved = any(folder.glob("checkpoints/step-*"))
            if fresh and not saved and not _has_steps(folder):
                shutil.rmtree(folder, ignore_errors=True)
            elif (
                main
                and saved
                and (isinstance(error, ResourceError) or not isinstance(error, Error))
            ):
                say(f"{folder} holds what is done; continue: {again()}")
            raise


def _has_steps(folder: Path) -> bool:
    log = folder / METRICS
    return log.is_file() and log.stat().st_size > 0


def finished_run(recipe: Recipe) -> dict[str, Any] | None:
    """Returns what a run that has come to its end already reported: whoever resumes until it is
    done need not know.
    """
    final = Path(recipe.output.dir) / str(recipe.output.name)
    written, running = final / "recipe.yaml", final.with_name(f"{final.name}.running")
    if running.exists() or not written.is_file():
        return None
    text = read_whole(written).decode("utf-8", "replace")
    recorded = recorded_recipe(final)
    asked = with_choices_of(recipe, recorded)
    if text != _recipe_text(asked):
        for name, section in recorded:
            for key, value in section:
                if value != (now := getattr(getattr(asked, name), key)):
                    say(f"{final} was trained with {name}.{key}: {value}; now {now}")
        return None
    with run_lock(running, take=is_main_process()):  # takes away a lock that a killed process left
        hint = f"train it again: {again('--overwrite')}"
        manifest = FinishedManifest.read(final, hint=hint)
        path = FinishedManifest.path(final)
        result = checked(TrainResult, manifest.content["training"], path, hint=hint)
    say(f"{final} is done already")
    return {"adapter": final, **vars(result), **manifest.counts.model_dump()}
