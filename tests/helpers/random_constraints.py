"""Random regular expressions and JSON Schemas, texts that fit them, and slow references that judge
texts; answers drawn from a constraint, token by token.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_s2s.inference.constraint import Constraint
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.special_tokens import answer_prefix, special_token_templates

LETTERS = "abcxyz019 .:"
_LONGEST = 300


@dataclass(frozen=True)
class Expression:
    """A regular expression, and what it is made of."""

    kind: str
    text: str
    parts: tuple[Expression, ...] = ()
    least: int = 0
    most: int = 0

    def sample(self, chosen: random.Random) -> str:
        """Draws a text that fits."""
        if self.kind == "class":
            return chosen.choice(self.text)
        if self.kind == "choice":
            return chosen.choice(self.parts).sample(chosen)
        times = chosen.randint(self.least, self.most) if self.kind == "repeat" else 1
        return "".join(part.sample(chosen) for _ in range(times) for part in self.parts)

    @property
    def pattern(self) -> str:
        """The expression as it is written."""
        if self.kind == "class":
            return re.escape(self.text) if len(self.text) == 1 else f"[{re.escape(self.text)}]"
        inner = [part.pattern for part in self.parts]
        if self.kind == "choice":
            return f"({'|'.join(inner)})"
        if self.kind == "repeat":
            return f"(?:{''.join(inner)}){{{self.least},{self.most}}}"
        return "".join(inner)


def random_expression(chosen: random.Random, letters: str = LETTERS, depth: int = 3) -> Expression:
    """Makes an expression of letters, sets, sequences, alternatives and repetitions."""
    kind = chosen.choice(["class", "sequence", "choice", "repeat"]) if depth else "class"
    if kind == "class":
        size = chosen.choice([1, 1, 3])
        return Expression("class", "".join(sorted(chosen.sample(letters, size))))
    parts = [random_expression(chosen, letters, depth - 1) for _ in range(chosen.randint(1, 3))]
    least = chosen.randint(0, 2)
    return Expression(kind, "", tuple(parts), least, least + chosen.randint(0, 2))


def random_schema(chosen: random.Random, depth: int = 2) -> dict[str, Any]:
    """Makes a schema of all keywords that are supported."""
    simple = ["enum", "const", "string", "counted", "pattern", "integer", "between", "boolean"]
    nested = ["array", "object", "object", "anyOf", "map"] if depth else []
    kind = chosen.choice([*simple, *nested, *nested])
    low = chosen.randint(-20, 200)
    word = "".join(chosen.choices("abc é", k=3))
    makers: dict[str, Any] = {
        "enum": lambda: {"enum": [word, low, None, 'q"\\']},
        "const": lambda: {"const": word},
        "string": lambda: {"type": chosen.choice(["string", ["string", "null"]])},
        "counted": lambda: {"type": "string", "minLength": low % 3, "maxLength": 3 + low % 3},
        "pattern": lambda: {
            "type": "string",
            "pattern": f"^({random_expression(chosen, depth=1).pattern})$",
        },
        "integer": lambda: {"type": chosen.choice(["integer", "number"])},
        "between": lambda: {"type": "integer", "minimum": low, "maximum": low + 150},
        "boolean": lambda: {"type": chosen.choice(["boolean", "null"])},
        "array": lambda: {
            "type": "array",
            "items": random_schema(chosen, depth - 1),
            "minItems": low % 3,
            "maxItems": 3,
        },
        "object": lambda: _random_object(chosen, depth),
        "map": lambda: {
            "type": "object",
            "additionalProperties": random_schema(chosen, depth - 1),
        },
        "anyOf": lambda: {"anyOf": [random_schema(chosen, depth - 1) for _ in range(2)]},
    }
    made: dict[str, Any] = makers[kind]()
    return made


def _random_object(chosen: random.Random, depth: int) -> dict[str, Any]:
    names = chosen.sample(["a", "b_1", "é", "a b", 'q"'], chosen.randint(1, 3))
    return {
        "type": "object",
        "properties": {name: random_schema(chosen, depth - 1) for name in names},
        "required": [name for name in names if chosen.random() < 0.5],
    }


def random_value(chosen: random.Random, schema: dict[str, Any]) -> Any:
    """Draws a value that fits a schema."""
    if "anyOf" in schema:
        return random_value(chosen, chosen.choice(schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return chosen.choice(schema.get("enum", [schema.get("const")]))
    if "pattern" in schema:
        return None  # a drawn text would need the expression; see the tests of regexes
    kind = schema["type"]
    kind = chosen.choice(kind) if isinstance(kind, list) else kind
    count = chosen.randint(schema.get("minLength", 0), schema.get("maxLength", 6))
    values: dict[str, Any] = {
        "string": lambda: "".join(chosen.choices('ab é"\\\n\t/日', k=count)),
        "integer": lambda: chosen.randint(schema.get("minimum", -99), schema.get("maximum", 999)),
        "number": lambda: chosen.choice([0, -1.5, 1e30, 12.25, -3]),
        "boolean": lambda: chosen.random() < 0.5,
        "null": lambda: None,
        "array": lambda: [
            random_value(chosen, schema["items"])
            for _ in range(chosen.randint(schema["minItems"], schema["maxItems"]))
        ],
        "object": lambda: _random_members(chosen, schema),
    }
    return values[kind]()


def _random_members(chosen: random.Random, schema: dict[str, Any]) -> dict[str, Any]:
    if "properties" not in schema:
        names = chosen.sample(["k", "l m", ""], chosen.randint(0, 2))
        return {name: random_value(chosen, schema["additionalProperties"]) for name in names}
    return {
        name: random_value(chosen, inner)
        for name, inner in schema["properties"].items()
        if name in schema["required"] or chosen.random() < 0.5
    }


def has_pattern(schema: Any) -> bool:
    """Whether a pattern is anywhere in a schema."""
    if isinstance(schema, list):
        return any(map(has_pattern, schema))
    if not isinstance(schema, dict):
        return False
    return "pattern" in schema or any(map(has_pattern, schema.values()))


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value fits a schema, word by word of the specification."""
    if "anyOf" in schema:
        return any(fits(value, inner) for inner in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        return any(type(one) is type(value) and one == value for one in allowed)
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return any(_fits_kind(value, kind, schema) for kind in kinds)


def _fits_kind(value: Any, kind: str, schema: dict[str, Any]) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("integer", "number"):
        numbers = (int,) if kind == "integer" else (int, float)
        low, high = schema.get("minimum", -np.inf), schema.get("maximum", np.inf)
        right = isinstance(value, numbers) and not isinstance(value, bool)
        return right and low <= value <= high
    if kind == "string":
        least, most = schema.get("minLength", 0), schema.get("maxLength", np.inf)
        return (
            isinstance(value, str)
            and least <= len(value) <= most
            and re.search(schema.get("pattern", ""), value) is not None
        )
    if kind == "array":
        return (
            isinstance(value, list)
            and schema["minItems"] <= len(value) <= schema["maxItems"]
            and all(fits(one, schema["items"]) for one in value)
        )
    named, others = schema.get("properties", {}), schema.get("additionalProperties")
    return (
        isinstance(value, dict)
        and all(name in value for name in schema.get("required", []))
        and all(
            fits(one, named[name]) if name in named else others is not None and fits(one, others)
            for name, one in value.items()
        )
    )


def written(value: Any, chosen: random.Random) -> str:
    """A value as JSON, in one of the usual ways to write it."""
    separators = chosen.choice([(",", ":"), (", ", ": ")])
    return json.dumps(value, ensure_ascii=False, separators=separators)


def allowed_after(constraint: Constraint, ids: list[int], width: int) -> Any:
    """The ids that may follow."""
    mask = np.zeros((1, width), np.bool_)
    constraint.allow([ids], mask)
    return np.flatnonzero(mask[0])


def drawn(constraint: Constraint, tokenizer: Any, chosen: random.Random) -> str | None:
    """Draws an answer, each allowed token being as likely; None where it does not end."""
    ids: list[int] = []
    end = tokenizer.eos_token_id
    while len(ids) < _LONGEST:
        allowed = allowed_after(constraint, ids, len(tokenizer) + 3)
        ending = end in allowed and chosen.random() < 0.3
        ids.append(end if ending else int(chosen.choice(allowed)))
        if ids[-1] == end:
            shown = ids[len(answer_prefix(tokenizer)) :]
            text: str = tokenizer.decode(
                shown, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            return text
    return None


def writes(tokenizer: Any, text: str) -> bool:
    """Whether a tokenizer writes a text as it is: T5's loses spaces at its ends."""
    (ids,) = encode_texts([text], tokenizer, side="text_target")
    shown = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return shown == text and tokenizer.unk_token_id not in ids


def reached(constraint: Constraint, tokenizer: Any, text: str) -> bool:
    """Whether a text can be answered in the tokens that training would have it in."""
    (ids,) = encode_texts([text], tokenizer, side="text_target")
    prefix = special_token_templates(tokenizer).target.prefix
    path = [*prefix, *ids, tokenizer.eos_token_id]
    width = len(tokenizer) + 3
    return all(
        token in allowed_after(constraint, path[:place], width) for place, token in enumerate(path)
    )
