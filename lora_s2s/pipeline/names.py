"""Names that a user gives: paths as text, and where a model's name leads: a path as it is, or an
adapter in the folder of adapters. Light to import.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.errors import SetupError, UsageError, nearest, quoted
from lora_s2s.hub import (
    DEMO_NAME,
    RECIPE,
    adapters_inside,
    check_is_folder,
    is_trained,
    locate_model,
)
from lora_s2s.records import ModelManifest
from lora_s2s.remote import fetched_folder, is_url
from lora_s2s.training.run_lock import check_not_running

_ROWS = "write rows to a file, such as rows.csv or rows.jsonl, and give its name"
ADAPTERS = Path("adapters")
_BEGIN_PATHS = ("", ".", "..", ADAPTERS.name)


def located(name: str) -> str:
    """Returns the folder of an adapter named without it, ``adapters/NAME``, and the fetched copy
    of a folder that a URL names; a path or another name as it is.

    An existing path and the bundled base win over an adapter of the same name; both cases are
    reported, and so is an adapter of a similar name.
    """
    if is_url(name):
        return str(fetched(name))
    folder = ADAPTERS / name
    if name != Path(name).name:
        return name
    taken = name == DEMO_NAME or Path(name).exists()
    if not is_trained(folder):
        if not taken and folder.with_name(f"{name}.running").is_dir():
            return str(folder)  # which is then refused: its training has not finished
        meant = nearest(name, adapters_inside(ADAPTERS))
        if meant and not taken:
            say(f"no adapter '{name}' in {ADAPTERS}{meant}")
        return name
    if taken:
        what = "the bundled base" if name == DEMO_NAME else "the folder here"
        say(f"{name} is {what}; the adapter of that name is {folder}")
        return name
    say(f"{name} is the adapter in {folder}")
    return str(folder)


def located_model(name: str) -> str:
    """As :func:`located`, of something that answers; a model of the hub is fetched but for its
    weights, so that a misspelt name is reported before anything heavy loads.

    Raises:
        UsageError: no such folder.
        SetupError: neither an adapter, nor a model on this machine or the hub.
    """
    place = located(name)
    if Path(place).expanduser().is_dir():
        return place
    check_model_path(place)
    try:
        locate_model(place, weights=False)
    except SetupError as error:
        recipe = Path(f"{name}.yaml")
        untrained = "" if "/" in name else f"no adapter '{name}' in {ADAPTERS}; "
        hint = "lora-s2s adapters lists what is trained here; or give a folder or a hub id"
        if recipe.is_file():
            hint = f"train it first: lora-s2s train {quoted(recipe)}"
        raise SetupError(untrained + error.message, hint=hint) from error
    return place


def check_model_path(model: str) -> None:
    """Refuses a path of a model where no folder is."""
    folder = Path(model).expanduser()
    if not folder.exists() and _names_a_folder(model):
        check_finished(model)
        siblings = [path.name for path in filter(Path.is_dir, folder.parent.glob("*"))]
        raise UsageError(
            f"no such folder: {model}{nearest(folder.name, siblings)}", hint="lora-s2s adapters"
        )


def check_finished(model: str) -> None:
    """Raises UsageError for the name of an adapter whose training has not finished."""
    folder = Path(model).expanduser()
    running = folder.with_name(f"{folder.name}.running")
    if running.is_dir() and not folder.exists():
        check_not_running(running, "name another adapter")
        raise UsageError(
            f"the training of {model} has not finished", hint=f"continue: {resume_command(running)}"
        )


def resume_command(run: Path) -> str:
    """The command that continues the unfinished run in a folder, whatever it was started with."""
    return f"lora-s2s train {quoted(run / RECIPE)} --resume"


def _names_a_folder(model: str) -> bool:
    """Whether a name that is no folder here was meant as one, and not as a hub id."""
    first, slash, _ = model.partition("/")
    # A hub id may have one slash; with a local parent, it is a path.
    return bool(slash) and (first in _BEGIN_PATHS or first[0] == "~" or Path(first).is_dir())


def named_models(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The name of each model for clients, and what it is loaded from; ``NAME=MODEL`` names one.

    Raises:
        UsageError: two have the same name.
    """
    named = [_named(text) for text in texts]
    names = [name for name, _ in named]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            f"two models are called '{twice}'", hint=f"name one of them: other={named[-1][1]}"
        )
    return named


def _named(text: str) -> tuple[str, str]:
    name, given, model = text.partition("=")
    if given and name and model and not Path(text).exists():
        return name, located_model(model)
    # A local path says nothing to clients, and is none of their business.
    return (Path(text).resolve().name if Path(text).exists() else text), located_model(text)


def located_adapter(name: str) -> str:
    """As :func:`located`, of an adapter.

    Raises:
        UsageError: its training has not finished.
        DataError: no such folder.
    """
    place = located(name)
    check_finished(place)
    check_is_folder(Path(place).expanduser())
    return place


def fetched(url: str) -> Path:
    """The copy of a folder that a URL names."""
    return fetched_folder(url, ModelManifest.file)


def given_path(argument: str, value: object) -> str:
    """Returns a path or name as text; an error names the argument of another type."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(text, str):
        hint = _ROWS if argument in ("data", "recipe") else None
        if isinstance(value, Mapping) and "." in "".join(map(str, value)):
            hint = "settings such as model.name are given as overrides={…}"
        message = f"{argument}: expected a path or a name, got {type(value).__name__}"
        raise UsageError(message, hint=hint)
    if not text:
        raise UsageError(f"{argument} is empty: expected a path or a name")
    return text


def given_overrides(overrides: object) -> Mapping[str, object]:
    """Returns settings from Python; None gives none.

    Raises:
        UsageError: they are no mapping.
    """
    if overrides is None:
        return {}
    if isinstance(overrides, Mapping):
        return overrides
    got = type(overrides).__name__
    raise UsageError(f"overrides: expected settings such as {{'training.seed': 1}}, got {got}")


def optional_path(argument: str, value: object) -> str | None:
    """As :func:`given_path`; None stays None."""
    return None if value is None else given_path(argument, value)
