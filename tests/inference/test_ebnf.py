"""Grammars as text, and what of them can be written: needs no xgrammar."""

from __future__ import annotations

import doctest
import random
import re

import pytest

from lora_s2s.errors import UsageError
from lora_s2s.inference import automaton, ebnf, writable
from lora_s2s.inference.json_schema import check_schema
from lora_s2s.recipe import constraint


@pytest.mark.parametrize("module", [ebnf, writable, constraint])
def test_examples_of_the_documentation(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def fits(rules: dict[str, ebnf.Choice], text: str) -> bool:
    """Follows a deterministic grammar, character by character."""
    state = rules[ebnf.ROOT]
    for character in text:
        after = [
            parts[1]
            for parts in state.sequences
            if parts and isinstance(parts[0], ebnf.Characters) and parts[0].holds(character)
        ]
        assert len(after) <= 1
        if not after or not isinstance(after[0], ebnf.Name):
            return False
        state = rules[after[0].name]
    return () in state.sequences


def test_a_deterministic_expression_is_the_same_language() -> None:
    # xgrammar's spelling of ((a|ab)*c?){1,2}[^a-y]
    printed = """root ::= ((group{1, 2} [^a-y]))
group ::= ((many maybe))
many ::= ("" | (one many))
one ::= (("a") | ("a" "b"))
maybe ::= ("" | ("c"))
"""
    made = automaton.deterministic(ebnf.read(printed))
    chosen, pattern = random.Random(4), re.compile(r"((a|ab)*c?){1,2}[^a-y]")
    fitting = 0
    for _ in range(3000):
        text = "".join(chosen.choices("aabbcz", k=chosen.randrange(8)))
        fitting += pattern.fullmatch(text) is not None
        assert fits(made, text) == (pattern.fullmatch(text) is not None), text
    assert fitting > 100


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("[]", "the schema is \\[\\], not an object"),
        ('{"type": "array", "items": {"type": "x"}}', "the schema.items has the type 'x'"),
        ('{"type": "object", "required": ["a"]}', "requires 'a', which is none of its properties"),
        ('{"type": "string", "minimum": 3}', "has minimum; it needs the type integer"),
        ('{"enum": []}', "has enum \\[\\]; expected a list that is not empty"),
        ('{"type": "string", "enum": [1]}', "allows 1, which is not of the type string"),
        ('{"$ref": "other.json"}', "refers to 'other.json'"),
        ('{"type": "string", "pattern": "a+"}', "has the pattern 'a\\+'; expected"),
        ('{"type": "string", "pattern": "^a|b$"}', "alternatives in parentheses"),
        ('{"type": "string", "pattern": "^a$", "maxLength": 3}', "only one of them"),
        ('{"type": "string", "minLength": -1}', "has minLength -1"),
        ('{"anyOf": [{"oneOf": []}]}', "the schema.anyOf\\[0\\] has the keyword 'oneOf'"),
    ],
)
def test_schemas_that_cannot_be_followed(schema: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_schema(schema)


def test_patterns_of_a_schema() -> None:
    schema = '{"anyOf": [{"type": "string", "pattern": "^(a|b)$"}, {"type": "null"}]}'
    assert check_schema(schema) == ["^(a|b)$"]
