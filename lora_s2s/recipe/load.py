"""Loads a recipe: files that extend each other, then ``--set``, then types and the schema; all
problems at once.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Union, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lora_s2s import __version__
from lora_s2s.errors import RecipeError, UsageError, nearest
from lora_s2s.hub import RECIPE
from lora_s2s.recipe.catalogue import find_recipe, shipped
from lora_s2s.recipe.fields import ALTERNATIVES, AUTO, Section
from lora_s2s.recipe.layers import Entry, Layer, Overrides, Scalar, override_layer, read_layer
from lora_s2s.recipe.private import holds_secret
from lora_s2s.recipe.schema import SECTIONS, Recipe

# No leading zeros: 012 is ten to YAML and twelve to people.
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*(_[0-9]{3})*)")
_NUMBER = re.compile(
    r"[+-]?((0|[1-9][0-9]*(_[0-9]{3})*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
)
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_KINDS: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}
_LONGEST_CHAIN, _LONGEST_NUMBER = 8, 40
# Values of earlier versions, with what to write instead. Where a run recorded one, the default
# applies.
_REMOVED = {
    ("training.on_nonfinite", "restore"): "restore was removed: write stop, and continue a stopped "
    "run with --resume-anyway at half the training.learning_rate; or write skip"
}
_HINT = (
    "lora-s2s recipes schema lists every key; lora-s2s recipes show demo prints a working recipe"
)


def load_recipe(name_or_path: str, *overrides: Overrides) -> Recipe:
    """Loads a shipped recipe by name, or a YAML file, with overrides, of which the last wins.

    Raises:
        UsageError: there is no such recipe.
        RecipeError: everything that is wrong with it, each with its place.
    """
    return _load(name_or_path, overrides, recorded=False)


def recorded_recipe(folder: Path, *overrides: Overrides) -> Recipe:
    """Loads the recipe that a run, perhaps an untrusted one, recorded in its folder: it may extend
    shipped recipes only, and hold values that were removed since. Errors are those of
    :func:`load_recipe`.
    """
    return _load(str(folder / RECIPE), overrides, recorded=True)


def _load(name_or_path: str, overrides: Sequence[Overrides], *, recorded: bool) -> Recipe:
    path = find_recipe(name_or_path)
    layers = [*_chain(path, recorded), *map(override_layer, overrides)]
    return _build(layers, name=path.stem, where=str(path), recorded=recorded)


def recipe_from_settings(name: str, *settings: Overrides) -> Recipe:
    """Builds a recipe from ``section.key=value`` words or mappings alone, of which the last wins.

    Raises:
        RecipeError: everything that is wrong with them.
    """
    mapped = any(isinstance(given, Mapping) for given in settings)
    where = "recipe" if mapped else "the command line"
    layers: list[Layer] = []
    for number, given in enumerate(settings):
        if isinstance(given, Mapping) and isinstance(parent := given.get("extends"), str):
            layers += _chain(find_recipe(parent), only_shipped=False)
            given = {key: value for key, value in given.items() if key != "extends"}
        layers.append(override_layer(given, "overrides" if number else where))
    return _build(layers, name=name, where=where)


def with_overrides(recipe: Recipe, *overrides: Overrides) -> Recipe:
    """Returns a recipe with other values for some of its keys.

    Raises:
        RecipeError: everything that is wrong with them.
    """
    given = recipe.model_dump(mode="json", exclude_unset=True)
    return recipe_from_settings(str(recipe.output.name), given, *overrides)


def with_arguments(recipe: Recipe, section: str, arguments: Mapping[str, object]) -> Recipe:
    """Returns a recipe in which a call's arguments replace keys of a section; None leaves a key.

    Raises:
        UsageError: an argument has a wrong type or is out of range.
    """
    given = {f"{section}.{key}": value for key, value in arguments.items() if value is not None}
    try:
        return with_overrides(recipe, given)
    except RecipeError as error:
        problems = [problem.removeprefix(f"overrides: {section}.") for problem in error.problems]
        raise UsageError("; ".join(problems)) from error


def with_choices_of(recipe: Recipe, resolved: Recipe) -> Recipe:
    """Returns a recipe whose ``auto`` keys have another recipe's values: those that a run has begun
    with. Where the run had the alternative instead (``max_steps``), so has this.
    """
    sections: dict[str, Section] = {}
    for name in SECTIONS:
        section, other = getattr(recipe, name), getattr(resolved, name)
        chosen = {key: getattr(other, key) for key, value in section if value == AUTO}
        for key in [*chosen]:
            instead = ALTERNATIVES.get(f"{name}.{key}", "").removeprefix(f"{name}.")
            if instead and getattr(section, instead) is None:
                chosen[instead] = getattr(other, instead)
        sections[name] = section.model_copy(update=chosen)
    return recipe.model_copy(update=sections)


def recipe_to_yaml(recipe: Recipe) -> str:
    """Returns YAML that loads to the same recipe: every key, as it was resolved."""
    sections = recipe.model_dump(mode="json")
    if recipe.training.max_steps is not None:
        del sections["training"]["epochs"]
    text: str = yaml.dump(
        sections, Dumper=TextDumper, sort_keys=False, allow_unicode=True, width=10_000
    )
    return text


class TextDumper(yaml.SafeDumper):
    """Writes control characters and unusual line breaks as escapes; PyYAML's other styles lose some
    of them.
    """

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Represents a text, in double quotes where it needs escapes."""
        return self.represent_scalar(
            "tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"'
        )


TextDumper.add_representer(str, TextDumper.represent_str)


def _chain(path: Path, only_shipped: bool) -> list[Layer]:
    """Returns the layers of a file and of what it extends, the farthest first."""
    layers: list[Layer] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        layer = read_layer(current)
        layers.insert(0, layer)
        seen.append(current.resolve())
        current = _parent(layer, current, seen, only_shipped)
    return layers


def _parent(layer: Layer, path: Path, seen: list[Path], only_shipped: bool) -> Path | None:
    if layer.extends is None:
        return None
    name, where = layer.extends
    if only_shipped and name not in shipped():
        layer.problems.append(
            f"{where}: extends: an adapter's recipe extends shipped recipes alone, got '{name}'"
        )
        return None
    try:
        parent = find_recipe(name, beside=path.parent)
    except UsageError as error:
        layer.problems.append(f"{where}: extends: {error.message}")
        return None
    if parent.resolve() in seen or len(seen) >= _LONGEST_CHAIN:
        layer.problems.append(
            f"{where}: extends: '{name}' leads back to this recipe, or the chain is too long"
        )
        return None
    return parent


def _merge(layers: Sequence[Layer]) -> Layer:
    merged = Layer()
    for layer in layers:
        for key, entry in layer.entries.items():
            other = ALTERNATIVES.get(key)
            said = isinstance(entry.value, list) or not entry.value.is_null
            if said and other and other not in layer.entries:
                merged.entries.pop(other, None)
        merged.entries.update(layer.entries)
        merged.sections.update(layer.sections)
        merged.problems.extend(layer.problems)
        merged.broken = merged.broken or layer.broken
    return merged


def _build(layers: Sequence[Layer], *, name: str, where: str, recorded: bool = False) -> Recipe:
    merged = _merge(layers)
    values: dict[str, dict[str, object]] = {section: {} for section in Recipe.model_fields}
    problems, spoilt = list(merged.problems), set()
    for key, entry in merged.entries.items():
        section, field = key.split(".")
        removed = None
        if isinstance(entry.value, Scalar):
            removed = _REMOVED.get((key, entry.value.text))
        if removed and recorded:
            continue
        try:
            if removed:
                raise BadValue(removed)
            values[section][field] = _convert(key, entry.value)
        except BadValue as error:
            problems.append(f"{entry.where}: {key}: {error}")
            spoilt.add(key)
    values["output"]["name"] = values["output"].get("name") or name
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems.extend(
            _problem(details, merged, where)
            for details in error.errors()
            # What a file that could not be read may well have held is not missing.
            if _key(details) not in spoilt and not (merged.broken and details["type"] == "missing")
        )
    else:
        if not problems:
            return recipe
    raise RecipeError(problems, hint=_of_other_version(layers) or _HINT)


def _of_other_version(layers: Sequence[Layer]) -> str | None:
    """The hint for a file that another version of the package wrote; None if none is."""
    other = {layer.version for layer in layers} - {"", __version__}
    if not other:
        return None
    return (
        f"the recipe was written by lora-s2s {max(other)}, and this is {__version__}: install that "
        "version, or write the recipe again with lora-s2s init"
    )


def _key(details: ErrorDetails) -> str:
    return ".".join(str(part) for part in details["loc"][:2])


def _problem(details: ErrorDetails, merged: Layer, where: str) -> str:
    """Words one of pydantic's findings, with the line its value stands on."""
    text = str(details["msg"]).removeprefix("Value error, ").replace("Input should be", "should be")
    # What sections exclude together begins with the key that excludes the others.
    between = re.match(r"[a-z_]+\.[a-z_]+", text) if not details["loc"] else None
    key = between[0] if between else _key(details)
    entry: Entry | None = merged.entries.get(key)
    place = entry.where if entry else merged.sections.get(key.split(".")[0], where)
    if details["type"] == "missing":
        return f"{place}: {key} is required"
    if between:
        return f"{place}: {text}"
    got = f"; got {details['input']!r}" if entry else ""
    return f"{place}: {key}: {text}{got}"


class BadValue(ValueError):
    """The text does not fit its field; the message says what was expected and got."""


def _convert(key: str, raw: Scalar | list[Scalar]) -> object:
    """Returns the Python value of what was written for the known field ``section.key``; raises
    BadValue.
    """
    section, name = key.split(".")
    field = SECTIONS[section].model_fields[name]
    return _fitted(raw, field.annotation)


def _fitted(raw: Scalar | list[Scalar], annotation: object) -> object:
    options = (
        get_args(annotation)
        if get_origin(annotation) in (Union, types.UnionType)
        else (annotation,)
    )
    lists = [option for option in options if get_origin(option) is list]
    if isinstance(raw, list):
        if not lists:
            raise BadValue(f"expected {_named(options)}, got a list")
        return [_fitted(item, get_args(lists[0])[0]) for item in raw]
    if holds_secret(raw.text):
        raise BadValue(
            "a password or token; a recipe goes into adapters and reports, so it holds none"
        )
    if raw.is_null:
        if types.NoneType in options:
            return None
        raise BadValue(f"expected {_named(options)}, got nothing")
    if lists and len(options) == len(lists):
        # One word, or words with commas, stand for a list where nothing else is allowed.
        return [
            _fitted(Scalar(part.strip(), quoted=True), get_args(lists[0])[0])
            for part in raw.text.split(",")
        ]

    scalars = [
        option
        for option in options
        if option is not types.NoneType and get_origin(option) is not list
    ]
    words = [option for option in scalars if get_origin(option) is Literal]
    if any(raw.text in get_args(option) for option in words):
        return raw.text
    numbers = [option for option in scalars if words and option in (int, float)]
    try:
        return _scalar(raw.text, (numbers or scalars)[0])
    except BadValue as error:
        if numbers:
            raise BadValue(f"expected {_named(options)}, got '{raw.text}'") from error
        raise BadValue(
            f"{error}, or a list such as [{raw.text}]" if lists else str(error)
        ) from error


def _scalar(text: str, kind: object) -> object:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if text in choices:
            return text
        raise BadValue(
            f"expected one of {', '.join(choices)}; got '{text}'{nearest(text, choices)}"
        )
    if kind is str:
        return text
    if kind is int and len(text) <= _LONGEST_NUMBER and _INTEGER.fullmatch(text):
        return int(text)
    if kind is float and _NUMBER.fullmatch(text):
        return float(text)
    if kind not in (int, float) and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    raise BadValue(f"expected {_KINDS.get(kind, 'true or false')}, got '{text}'")


def _named(options: tuple[object, ...]) -> str:
    words = [_kind_of(option) for option in options if option is not types.NoneType]
    return " or ".join(words)


def _kind_of(option: object) -> str:
    if get_origin(option) is Literal:
        return ", ".join(get_args(option))
    return "a list" if get_origin(option) is list else _KINDS.get(option, "one of its words")
