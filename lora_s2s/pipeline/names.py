"""Names that a user gives: paths as text, and where a model's name leads: a path as it is, or an
adapter in the folder of adapters. Light to import.
"""

from __future__ import annotations

import os
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.errors import UsageError, nearest, quoted
from lora_s2s.hub import DEMO_NAME, adapters_inside, is_trained
from lora_s2s.records import ModelManifest
from lora_s2s.remote import fetched_folder, is_url

_ROWS = "write rows to a file, such as rows.csv or rows.jsonl, and give its name"
ADAPTERS = Path("adapters")


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
        recipe = Path(f"{name}.yaml")
        if recipe.is_file():
            meant = f"; train it first: lora-s2s train {quoted(str(recipe))}"
        if meant and not taken:
            say(f"no adapter '{name}' in {ADAPTERS}{meant}")
        return name
    if taken:
        what = "the bundled base" if name == DEMO_NAME else "the folder here"
        say(f"{name} is {what}; the adapter of that name is {folder}")
        return name
    say(f"{name} is the adapter in {folder}")
    return str(folder)


def fetched(url: str) -> Path:
    """The copy of a folder that a URL names."""
    return fetched_folder(url, ModelManifest.file)


def given_path(argument: str, value: object) -> str:
    """Returns a path or name as text; an error names the argument of another type."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(text, str):
        hint = _ROWS if argument in ("data", "recipe") else None
        message = f"{argument}: expected a path or a name, got {type(value).__name__}"
        raise UsageError(message, hint=hint)
    if not text:
        raise UsageError(f"{argument} is empty: expected a path or a name")
    return text


def optional_path(argument: str, value: object) -> str | None:
    """As :func:`given_path`; None stays None."""
    return None if value is None else given_path(argument, value)
