"""The shipped recipes and the JSON Schema for editors."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_s2s import limits
from lora_s2s.errors import DataError, UsageError, like_missing, nearest, quoted
from lora_s2s.files import read_whole
from lora_s2s.recipe.fields import LARGEST_NUMBER
from lora_s2s.recipe.schema import Recipe
from lora_s2s.recipe.shipped import DATA_SUFFIXES, SCHEMA, YAML, folder
from lora_s2s.recipe.shipped import shipped as shipped

_SCHEMA_IS = "yaml-language-server: $schema="
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "exclusiveMaximum": "<", "maximum": "≤"}
_FILE_SUFFIXES = (*DATA_SUFFIXES, ".json", ".ndjson", ".tmx", ".txt", ".gz", ".zst", ".zip")
_FIELD = re.compile(r"# (\w+): +(.*)")


def schema_line() -> str:
    """Returns the comment that names the JSON Schema of recipes for editors, without its mark."""
    return f"{_SCHEMA_IS}{folder() / SCHEMA}"


def for_elsewhere(text: str) -> str:
    """Returns the text of a shipped recipe for another folder: it names the schema by its path."""
    return text.replace(f"{_SCHEMA_IS}{SCHEMA}", schema_line())


def find_recipe(name_or_path: str, *, beside: Path | None = None) -> Path:
    """Returns the file of a shipped recipe's name or of a path.

    Args:
        name_or_path: ``demo``, or a path that ends in .yaml or .yml.
        beside: the folder that relative paths start from; the current one by default.

    Raises:
        UsageError: there is no such recipe or data file, or it is a data file.
    """
    known = shipped()
    if name_or_path in known:
        return known[name_or_path]
    path = (beside or Path()) / os.path.expanduser(name_or_path)
    if os.path.isfile(path):  # unlike Path's, it never raises
        if beside is None and path.name.lower().removesuffix(".gz").endswith(DATA_SUFFIXES):
            raise UsageError(
                f"a data file, not a recipe: '{name_or_path}'",
                hint=f"write its recipe: lora-s2s init --data {quoted(name_or_path)}",
            )
        return path
    if os.path.isdir(path):
        raise UsageError(f"a folder, not a recipe: '{name_or_path}'", hint=_in_folder(path))
    beside_it = _beside(name_or_path) if beside is None else []
    if beside is None and _names_file(name_or_path) and not os.path.lexists(path):
        if name_or_path.lower().endswith(_FILE_SUFFIXES):
            beside_it = [name for name in beside_it if not name.endswith(YAML)]
        meant, hint = like_missing(name_or_path, beside_it)
        of_it = f"prepared/{path.stem}", f"{path.stem}.yaml"
        if made := [name for name in of_it if os.path.exists(name)]:
            hint = f"what was made of such a file is here: lora-s2s train {quoted(made[0])}"
        raise UsageError(f"no such file: '{name_or_path}'{meant}", hint=hint)
    # Backwards, so that a recipe comes before the data of its name.
    files = [name for name in reversed(beside_it) if name.endswith((*YAML, *_FILE_SUFFIXES))]
    same = next((name for name in files if name.startswith(f"{name_or_path}.")), name_or_path)
    meant = nearest(same, [*known, *files])
    raise UsageError(
        f"no such recipe: '{name_or_path}'{meant}",
        hint="give a YAML file or a shipped recipe such as flan-t5-base; list them: lora-s2s "
        "recipes",
    )


def _in_folder(name: Path) -> str:
    """What to give in place of a folder: its recipe, or one for its files."""
    files = _beside(os.path.join(name, ""))
    recipe = os.path.join(name, "recipe.yaml")
    if recipe in files:
        return f"give its recipe: {quoted(recipe)}"
    if any(file.endswith(DATA_SUFFIXES) for file in files):
        return f"write a recipe for its files: lora-s2s init --data {quoted(name)}"
    return "give a YAML file"


def _names_file(name: str) -> bool:
    """Whether a word has the ending of a file or is a path, and not a recipe's."""
    ending = os.path.splitext(name.lower())[1]
    return ending not in YAML and (ending[1:].isidentifier() or os.path.dirname(name) > "")


def _beside(name: str) -> list[str]:
    """The files and folders of the folder that a path names, as it would name them."""
    folder = os.path.dirname(name)
    try:
        names = sorted(os.listdir(os.path.expanduser(folder) or "."))
    except (OSError, ValueError):
        return []
    return [os.path.join(folder, other) for other in names if not other.startswith(".")]


def text_of(path: Path) -> str:
    """Returns what stands in a recipe's file, comments too.

    Raises:
        DataError: it is too large, no regular file, or not UTF-8 text.
    """
    try:
        return read_whole(path, most=limits.LARGEST_RECIPE).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text (byte {error.start})", where=str(path)) from error


@dataclass(frozen=True)
class About:
    """What the head of a shipped recipe says: its first line, and what it is for, where and on
    which rows it runs, and what it takes.
    """

    summary: str
    purpose: str
    machine: str
    shape: str
    memory: str
    time: str


def about(path: Path) -> About:
    """Reads the head of a shipped recipe: ``# Purpose: …`` and the like, each of one or more
    lines.
    """
    parts = dict.fromkeys(About.__dataclass_fields__, "")
    current = "summary"
    for line in text_of(path).splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("#").strip()
        if match := _FIELD.match(line):
            current, text = match[1].lower(), match[2]
        elif not line.startswith("#  ") and parts["summary"]:
            current = ""
        if current in parts:
            parts[current] = f"{parts[current]} {text}".strip()
    short = ("purpose", "machine", "memory", "time")
    return About(**{**parts, **{name: parts[name].rstrip(".") for name in short}})


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a recipe file, with every key's description and default."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "lora-s2s recipe"
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "A shipped recipe's name or a file beside this one; keys given here win "
        "over its keys.",
    }
    return schema


def key_rows() -> list[list[str]]:
    """Returns every key of a recipe as ``section.key``, its default, what it takes, and what it
    means.
    """
    schema = json_schema()
    rows = []
    for section in Recipe.model_fields:
        model = schema["$defs"][schema["properties"][section].get("$ref", "").rsplit("/", 1)[-1]]
        for key, details in model["properties"].items():
            default = (
                "required" if key in model.get("required", ()) else _in_yaml(details.get("default"))
            )
            rows.append(
                [f"{section}.{key}", default, _takes(details), str(details.get("description", ""))]
            )
    return rows


def _takes(details: Mapping[str, Any]) -> str:
    options = details.get("anyOf", [details])
    kinds = dict.fromkeys(_one_kind(option) for option in options if option.get("type") != "null")
    bounds = [] if options == [details] else _bounds(details)
    return ", ".join([" or ".join(kinds), *bounds])


def _one_kind(option: Mapping[str, Any]) -> str:
    if words := option.get("enum") or ([option["const"]] if "const" in option else []):
        return ", ".join(map(str, words))
    if option.get("type") == "array":
        return f"list of {_takes(option['items'])}"
    kind = str(option["type"])
    word = {"string": "text", "integer": "whole number", "boolean": "true, false"}.get(kind, kind)
    return ", ".join([word, *_bounds(option)])


def _bounds(option: Mapping[str, Any]) -> list[str]:
    given = {sign: option[name] for name, sign in _BOUNDS.items() if name in option}
    return [f"{sign} {bound:,}" for sign, bound in given.items() if bound < LARGEST_NUMBER]


def _in_yaml(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
