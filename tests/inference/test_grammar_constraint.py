"""Regular expressions, schemas and grammars: every answer is valid, every valid text can be
answered.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_constraints import (
    LETTERS,
    allowed_after,
    drawn,
    fits,
    has_pattern,
    random_expression,
    random_schema,
    random_value,
    reached,
    writes,
    written,
)
from tiny_tokenizers import write_tokenizer

from lora_s2s.errors import Error, UsageError
from lora_s2s.inference.constraint import Constraint, constraint_of
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.torch_engine import TorchEngine
from lora_s2s.tokens.loading import load_tokenizer
from lora_s2s.tokens.lossless import ALWAYS, beyond_reach, lossless_tokenizer

pytest.importorskip("xgrammar", reason="pip install 'lora-s2s[grammar]'")

# SentencePiece, the same with lossless text, bytes, byte-level pieces, pieces with byte fallback.
KINDS = ["demo", "lossless", "byt5", "bart", "gemma"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tokenizer_of(request.param, tmp_path_factory.mktemp(request.param))


def tokenizer_of(kind: str, folder: Path) -> Any:
    if kind == "demo":
        return load_tokenizer("demo")
    if kind == "lossless":
        return lossless_tokenizer(load_tokenizer("demo"), ALWAYS)
    return load_tokenizer(write_tokenizer(kind, folder))


def constraint(value: Any, tokenizer: Any) -> Constraint:
    made = constraint_of(DecodingSettings(64, constraint=value), tokenizer)
    assert made is not None
    return made


def made_or_refused(value: str, tokenizer: Any) -> Constraint | str:
    try:
        return constraint(value, tokenizer)
    except UsageError as error:
        return error.message


def test_random_expressions(tokenizer: Any) -> None:
    chosen, answers = random.Random(5), 0
    for _ in range(25):
        expression = random_expression(chosen, LETTERS + "\n{é")
        pattern = expression.pattern
        texts = [text for text in (expression.sample(chosen) for _ in range(4)) if text]
        made = made_or_refused(f"regex: {pattern}", tokenizer)
        if isinstance(made, str):
            nothing = not texts or all(beyond_reach(tokenizer, text) for text in texts)
            assert nothing, (pattern, made)
            continue
        for text in texts:
            assert reached(made, tokenizer, text) or not writes(tokenizer, text), (pattern, text)
        for answer in (drawn(made, tokenizer, chosen) for _ in range(4)):
            answers += answer is not None
            assert answer is None or re.fullmatch(pattern, answer), (pattern, answer)
    assert answers > 60


@pytest.mark.parametrize("kind", ["lossless", "byt5", "bart"])
def test_random_schemas(kind: str, tmp_path: Path) -> None:
    tokenizer, chosen = tokenizer_of(kind, tmp_path / kind), random.Random(7)
    answers = 0
    for _ in range(25):
        schema = random_schema(chosen)
        made = made_or_refused(f"json: {json.dumps(schema)}", tokenizer)
        if isinstance(made, str):
            assert kind == "lossless", (schema, made)
            assert "cannot write" in made, schema
            continue
        for _ in range(3):
            text = written(random_value(chosen, schema), chosen)
            if not has_pattern(schema) and writes(tokenizer, text):
                assert reached(made, tokenizer, text), (schema, text)
            answer = drawn(made, tokenizer, chosen)
            answers += answer is not None
            assert answer is None or fits(json.loads(answer), schema), (schema, answer)
    assert answers > 30


def test_a_grammar(tokenizer: Any) -> None:
    made = constraint('grammar: root ::= "(" root ")" | [ab]+ # nested', tokenizer)
    for text in ("a", "((bab))", "(a)"):
        assert reached(made, tokenizer, text)
    for text in ("", "(a", "a)", "c"):
        assert not reached(made, tokenizer, text)


def test_halves_of_characters_are_no_characters(tmp_path: Path) -> None:
    # UTF-8 could spell U+D800, and no decoder would take it.
    tokenizer, chosen = tokenizer_of("byt5", tmp_path), random.Random(2)
    made = constraint('json: {"type": "string", "minLength": 3, "maxLength": 3}', tokenizer)
    ids = [byte + 3 for byte in b'"\xed']
    assert {int(token) - 3 for token in allowed_after(made, ids, 300)} == {*range(0x80, 0xA0)}
    assert all(len(json.loads(str(drawn(made, tokenizer, chosen)))) == 3 for _ in range(40))


def test_a_dot_is_no_newline(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("byt5", tmp_path)
    made = constraint("regex: a.[^b]", tokenizer)
    assert reached(made, tokenizer, "axc")
    assert reached(made, tokenizer, "ax\n")
    assert not reached(made, tokenizer, "a\nc")


def test_alternatives_that_cannot_be_written_are_left_out() -> None:
    tokenizer = load_tokenizer("demo")
    made = constraint("regex: (yes|na~|no)[!~]", tokenizer)
    chosen = random.Random(1)
    assert {drawn(made, tokenizer, chosen) for _ in range(40)} == {"yes!", "no!"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("regex: a{b", "not a valid regular expression"),
        (r"regex: a\b", "Word boundary is not supported"),
        ("regex: ~+", "vocabulary cannot write '~'"),
        ("regex: ()", "allows the empty answer alone"),
        ("regex: ((a{1,99}){1,99}){1,99}", "parts, repetitions counted; expected at most 50,000"),
        ("regex: [ab]*a[ab]{20}", "needs more than 5,000 states"),
        (f"regex: {'(' * 200}a{')' * 200}", "nests 200 levels"),
        ('grammar: root ::= "a" root', "no finite text fits it"),
        ("grammar: root ::= other", "not a valid grammar in GBNF"),
        ('json: {"type": "object"}', "vocabulary cannot write '{', '}'"),
        ('json: {"type": "strin"}', "the schema has the type 'strin'"),
        ('json: {"not": {}}', "the keyword 'not', which is not supported"),
        ('json: {"type": "string", "pattern": "^.*$"}', "can match a quote"),
        ("json: {nonsense", "not a JSON Schema"),
        ('json: {"enum": [1, NaN]}', "the schema.enum.1=nan is no number of JSON"),
        ('json: {"items": {"const": -Infinity}}', "the schema.items.const=-inf is no number"),
    ],
)
def test_constraints_that_cannot_be_had(value: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        constraint(value, load_tokenizer("demo"))
    assert message in caught.value.message


def test_tokens_that_join_in_an_unknown_way(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("blenderbot", tmp_path)
    with pytest.raises(Error, match="cannot follow how") as caught:
        constraint("regex: a+", tokenizer)
    assert "list of labels" in str(caught.value.hint)
    assert constraint(("yes", "no"), tokenizer).most_tokens == 5


def test_rows_that_join_a_batch_leave_the_others_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = load_tokenizer("demo")
    rule = constraint("regex: (a|b)+", tokenizer)
    ids = tokenizer("a b a b a b", add_special_tokens=False).input_ids
    advanced, steps = type(rule)._advanced, []

    def counted(self: Any, state: Any, token: int, *, copy: bool) -> Any:
        steps.append(token)
        return advanced(self, state, token, copy=copy)

    def allowed(*answers: list[int]) -> np.ndarray:
        mask = np.zeros((len(answers), len(tokenizer)), np.bool_)
        rule.allow(answers, mask)
        return mask

    monkeypatch.setattr(type(rule), "_advanced", counted)
    first = tokenizer("ab", add_special_tokens=False).input_ids
    alone = allowed(first)
    allowed([])
    both = allowed([*first, ids[-1]], first)
    assert steps == [*first, ids[-1]]
    assert (both[1] == alone[0]).all()


def test_answers_by_any_search(tiny_t5: Callable[..., Any]) -> None:
    tokenizer = lossless_tokenizer(load_tokenizer("demo"), ALWAYS)
    model = tiny_t5(vocab_size=len(tokenizer) + 8)
    predictor = Predictor("tiny", TorchEngine("tiny", model, tokenizer), tokenizer)
    sources = ["a", "a table for two", "on friday", "7 pm"]
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 2, 3]}, "day": {"enum": ["friday", "monday\n"]}},
        "required": ["n", "day"],
    }
    value = f"json: {json.dumps(schema)}"
    seen = set()
    for search in ({}, {"num_beams": 3}, {"temperature": 4.0}, {"temperature": 4.0, "seed": 1}):
        settings = DecodingSettings(60, constraint=value, **search)
        for answer in decode(predictor, sources, settings):
            assert answer.stopped
            assert fits(json.loads(answer.text), schema), answer.text
            seen.add(json.dumps(json.loads(answer.text)))
    assert len(seen) > 3
