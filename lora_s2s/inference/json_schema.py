"""What of JSON Schema a grammar can hold; anything else is refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from lora_s2s.errors import UsageError
from lora_s2s.files import loads

# By the type they belong to; those of "" are for any.
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "": frozenset({"type", "enum", "const", "anyOf", "$ref"}),
    "string": frozenset({"minLength", "maxLength", "pattern"}),
    # Of numbers with a fraction, xgrammar follows bounds to six digits alone.
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
}
_NOTES = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$schema", "$id", "$comment", "$defs", "definitions"}
)
_SUPPORTED = frozenset[str]().union(_NOTES, *_KEYWORDS.values())
# These say all of a value; what stood beside them would be ignored.
_ALONE = ("$ref", "enum", "const", "anyOf", "pattern")
_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


def check_schema(text: str) -> list[str]:
    """Checks a schema, and returns its patterns.

    Raises:
        UsageError: it is not JSON Schema, or asks for what no grammar can hold, which is named.
    """
    try:
        schema = loads(text, constant=float)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"evaluation.constraint is not a JSON Schema: {error}") from error
    if number := _not_finite(schema, "the schema"):
        message = f"evaluation.constraint is not a JSON Schema: {number:.200} is no number of JSON"
        raise UsageError(message, hint="NaN and infinities have no form in JSON")
    patterns = []
    for place, inner in _schemas(schema, "the schema"):
        if problem := _problem(inner):
            raise UsageError(
                f"evaluation.constraint is not a JSON Schema that can be followed: {place:.200} "
                f"{problem}",
                hint="docs/CONSTRAINTS.md lists what is supported",
            )
        if isinstance(inner, Mapping) and "pattern" in inner:
            patterns.append(inner["pattern"])
    return patterns


def _not_finite(value: object, place: str) -> str | None:
    """Where a value holds NaN or an infinity, with it; None if nowhere."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{place}={value}"
    pairs = enumerate(value) if isinstance(value, list) else ()
    inner = value.items() if isinstance(value, dict) else pairs
    places = (_not_finite(item, f"{place}.{key}") for key, item in inner)
    return next(filter(None, places), None)


def _schemas(schema: object, place: str) -> Iterator[tuple[str, object]]:
    """Yields a schema and all schemas in it, each with where it is."""
    yield place, schema
    if not isinstance(schema, Mapping):
        return
    for key in ("properties", "$defs", "definitions"):
        if isinstance(named := schema.get(key), Mapping):
            for name, inner in named.items():
                yield from _schemas(inner, f"{place}.{key}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _schemas(schema[key], f"{place}.{key}")
    if isinstance(listed := schema.get("anyOf"), list):
        for number, inner in enumerate(listed):
            yield from _schemas(inner, f"{place}.anyOf[{number}]")


def _problem(schema: object) -> str | None:
    if isinstance(schema, bool):
        return None
    if not isinstance(schema, Mapping):
        return f"is {schema!r:.60}, not an object"
    if unknown := next((key for key in schema if key not in _SUPPORTED), None):
        return f"has the keyword {unknown!r:.60}, which is not supported"
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if odd := next((kind for kind in kinds if str(kind) not in _KINDS), None):
        return f"has the type {odd!r:.60}; expected one of {', '.join(_KINDS)}"
    return _wrong_content(schema) or _wrong_mix(schema, [str(kind) for kind in kinds])


def _wrong_content(schema: Mapping[str, object]) -> str | None:
    for key in ("enum", "anyOf", "required"):
        value = schema.get(key)
        if key in schema and not (isinstance(value, list) and (value or key == "required")):
            return f"has {key} {value!r:.60}; expected a list that is not empty"
    for key in ("properties", "$defs", "definitions"):
        if key in schema and not isinstance(schema[key], Mapping):
            return f"has {key} {schema[key]!r:.60}; expected an object"
    reference = schema.get("$ref", "#")
    if not isinstance(reference, str) or not reference.startswith("#"):
        return f"refers to {reference!r:.100}; expected a part of the schema itself (#/$defs/…)"
    pattern = schema.get("pattern", "^$")
    if not isinstance(pattern, str) or not _is_anchored(pattern):
        return f"has the pattern {pattern!r:.100}; expected ^…$, alternatives in parentheses"
    for key in ("minLength", "maxLength", "minItems", "maxItems"):
        if key in schema and (not _is_count(schema[key])):
            return f"has {key} {schema[key]!r:.60}; expected a whole number of at least 0"
    for key in _KEYWORDS["integer"]:
        if key in schema and not _is(schema[key], "integer"):
            return f"has {key} {schema[key]!r:.60}; expected a whole number"
    return None


def _is_anchored(pattern: str) -> bool:
    """Whether a pattern is that of a whole text: ``^…$``, without alternatives outside."""
    depth, in_set = 0, False
    for piece in re.findall(r"\\.|.", pattern, flags=re.DOTALL):
        in_set = piece == "[" or (in_set and piece != "]")
        depth += 0 if in_set else (piece == "(") - (piece == ")")
        if piece == "|" and not in_set and depth == 0:
            return False
    return re.fullmatch(r"\^(?:\\.|[^\\])*\$", pattern, flags=re.DOTALL) is not None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _KINDS[kind])


def _wrong_mix(schema: Mapping[str, object], kinds: list[str]) -> str | None:
    """Returns which keyword the schema's type makes meaningless, or another one replaces."""
    said = [key for key in schema if key not in _NOTES and key != "type"]
    if alone := next((key for key in _ALONE if key in said), None):
        others = [key for key in said if key != alone]
        if kinds and alone in ("$ref", "anyOf"):
            others.append("type")
        if others:
            return f"has {alone} and {others[0]}: only one of them would be followed"
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    for value in values if isinstance(values, list) else []:
        if kinds and not any(_is(value, kind) for kind in kinds):
            return f"allows {value!r:.60}, which is not of the type {', '.join(kinds)}"
    for kind, keys in _KEYWORDS.items():
        used = next((key for key in said if kind and key in keys), None)
        if used and kind not in kinds:
            return f"has {used}; it needs the type {kind}"
    return _wrong_properties(schema)


def _wrong_properties(schema: Mapping[str, object]) -> str | None:
    named, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(named, Mapping) or not isinstance(required, list):
        return None
    if unnamed := next((name for name in required if name not in named), None):
        return f"requires {unnamed!r:.60}, which is none of its properties"
    if named and schema.get("additionalProperties", False) is not False:
        return "has properties and others (additionalProperties): name them all"
    return None
