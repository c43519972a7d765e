"""FastChat's turns: each reply a pair, everything before it the source."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from lora_s2s.errors import DataError
from lora_s2s.reading.conversations import render_turns
from lora_s2s.reading.example import Example, Rejected
from lora_s2s.reading.readers import how_read, read_examples

Write = Callable[[str, str], str]
GOOD = [("human", "Hi"), ("gpt", "Hello."), ("human", "Bye\nnow"), ("gpt", "See you."), ("human", "…")]


def conversation(turns: list[tuple[str, str]], **more: object) -> dict[str, object]:
    return {"id": "1", "conversations": [{"from": role, "value": text} for role, text in turns], **more}


def read(write: Write, *rows: object, name: str = "c.jsonl") -> list[Example | Rejected]:
    text = json.dumps(list(rows), indent=1) if name.endswith("json") else "\n".join(json.dumps(row) for row in rows)
    return list(read_examples(write(name, text)))


@pytest.mark.parametrize("name", ["c.jsonl", "c.json"])
def test_every_reply_is_a_target_and_all_before_it_the_source(name: str, write: Write) -> None:
    found = read(write, conversation([("system", "Be brief."), *GOOD]), name=name)
    assert [(item.source, item.target) for item in found if isinstance(item, Example)] == [
        ("system: Be brief. user: Hi assistant:", "Hello."),
        ("system: Be brief. user: Hi assistant: Hello. user: Bye\nnow assistant:", "See you."),
    ]
    assert len(found) == 2  # the last user turn has no reply and gives nothing


def test_predicting_renders_as_training_does(write: Write) -> None:
    found = read(write, conversation(GOOD))
    assert isinstance(found[1], Example)
    assert found[1].source == render_turns([("user", "Hi"), ("assistant", "Hello."), ("user", "Bye\nnow")])


def test_a_rows_system_text_comes_first(write: Write) -> None:
    (found, _) = read(write, conversation(GOOD, system="Be kind."))
    assert isinstance(found, Example)
    assert found.source == "system: Be kind. user: Hi assistant:"


def test_examples_of_a_conversation_stay_together_and_are_cut_on_the_left(write: Write) -> None:
    found = read(write, conversation(GOOD), conversation(GOOD[:2]))
    examples = [item for item in found if isinstance(item, Example)]
    assert len({example.split_key for example in examples}) == 1
    assert all(example.cut_left for example in examples)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (conversation([]), "no list of turns"),
        ({"conversations": "x"}, "no list of turns"),
        ({"conversations": [{"from": "human"}]}, "a turn without a role and a text"),
        ({"conversations": ["x"]}, "a turn without a role and a text"),
        (conversation([("robot", "x"), ("gpt", "y")]), "an unknown role"),
        (conversation([("human", "x")]), "no assistant turn"),
        (conversation([("human", " "), ("gpt", "y")]), "an empty turn"),
        (conversation([("human", "x"), ("gpt", "\ud800")]), "a turn is not valid Unicode"),
        (
            {"conversations": [{"from": "human", "value": ["x"]}, {"from": "gpt", "value": "y"}]},
            "a part of a turn that is not text",
        ),
        (conversation([("human", "x"), ("gpt", "y")] * 501), "more than 1000 turns"),
        (conversation([("gpt", "first")]), "a reply with nothing before it"),
    ],
)
def test_odd_conversations_are_rejected_with_the_reason(row: object, reason: str, write: Write) -> None:
    found = read(write, conversation(GOOD), row)
    assert [item.kind for item in found if isinstance(item, Rejected)] == [reason]
    assert [item.line for item in found if isinstance(item, Rejected)] == [2]
    assert len(found) == 3


def test_a_reply_that_opens_is_left_out_but_heard(write: Write) -> None:
    found = read(write, conversation([("gpt", "Welcome."), ("human", "Hi"), ("gpt", "Yes?")]))
    assert isinstance(found[0], Rejected)
    assert isinstance(found[1], Example)
    assert found[1].source == "assistant: Welcome. user: Hi assistant:"


def test_the_format_is_found_out_and_can_be_named(write: Write) -> None:
    path = write("c.jsonl", json.dumps(conversation(GOOD)))
    assert how_read(path).format == "conversations"
    with pytest.raises(DataError, match="no target column"):
        list(read_examples(path, format="pairs"))
    with pytest.raises(DataError, match="no list of turns"):
        list(read_examples(write("a.jsonl", '{"input": "a", "output": "b"}'), format="conversations"))
