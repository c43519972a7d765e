"""From the text that was written to the value its field wants."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

from lora_s2s.errors import nearest
from lora_s2s.recipe.layers import SECTIONS, Scalar
from lora_s2s.recipe.schema import LATER

# No leading zeros: 012 is ten to YAML and twelve to people.
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*(_[0-9]{3})*)")
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*(_[0-9]{3})*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class BadValue(ValueError):
    """The text does not fit its field; the message says what was expected and got."""


def convert(key: str, raw: Scalar | list[Scalar]) -> Any:
    """Returns the Python value of a raw one.

    Args:
        key: ``section.key`` of a known field.
        raw: what was written.

    Raises:
        BadValue: it does not fit, or comes in a later version.
    """
    section, name = key.split(".")
    later = LATER.get(key, ())
    if isinstance(raw, Scalar) and raw.text.lower() in later:
        default = SECTIONS[section].model_fields[name].default
        raise BadValue(f"'{raw.text}' is not in this version; use {str(default).lower()}")
    return _convert(raw, SECTIONS[section].model_fields[name].annotation)


def _convert(raw: Scalar | list[Scalar], annotation: Any) -> Any:
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    lists = [option for option in options if get_origin(option) is list]
    if isinstance(raw, list):
        if not lists:
            raise BadValue(f"expected {_named(options)}, got a list")
        return [_convert(item, get_args(lists[0])[0]) for item in raw]
    if raw.is_null:
        if types.NoneType in options:
            return None
        raise BadValue(f"expected {_named(options)}, got nothing")
    if lists and len(options) == len(lists):
        # One word, or words with commas, stand for a list where nothing else is allowed.
        return [_convert(Scalar(part.strip(), quoted=True), get_args(lists[0])[0]) for part in raw.text.split(",")]
    for option in options:
        if option is not types.NoneType and get_origin(option) is not list:
            return _scalar(raw.text, option)
    raise BadValue(f"expected {_named(options)}, got '{raw.text}'")


def _scalar(text: str, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        choices = {str(choice).lower() if isinstance(choice, bool) else choice: choice for choice in get_args(kind)}
        if text in choices:
            return choices[text]
        raise BadValue(f"expected one of {', '.join(choices)}; got '{text}'{nearest(text, choices)}")
    if kind is bool:
        if text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
    elif kind is int:
        if _INTEGER.fullmatch(text):
            return int(text)
    elif kind is float:
        if _NUMBER.fullmatch(text):
            return float(text)
    else:
        return text
    raise BadValue(f"expected {_KINDS[kind]}, got '{text}'")


_KINDS: dict[Callable[..., Any], str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


def _named(options: tuple[Any, ...]) -> str:
    words = [
        "a list" if get_origin(option) is list else _KINDS.get(option, "one of its words")
        for option in options
        if option is not types.NoneType
    ]
    return " or ".join(words)
