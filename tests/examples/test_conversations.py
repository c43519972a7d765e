"""FastChat's turns: each reply a pair, everything before it the source."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from read_and_prepare import how_read, read_examples

from lora_s2s.errors import DataError
from lora_s2s.examples.conversations import DIALOGUE_TEMPLATE, fit_turns, render_turns
from lora_s2s.examples.example import Example, Unusable
from lora_s2s.examples.shapes import FORMATS
from lora_s2s.examples.template import PromptTemplate
from lora_s2s.readers.rows import Rejected

Write = Callable[[str, str], str]
GOOD = [
    ("human", "Hi"),
    ("gpt", "Hello."),
    ("human", "Bye\nnow"),
    ("gpt", "See you."),
    ("human", "…"),
]


def conversation(turns: list[tuple[str, str]], **more: object) -> dict[str, object]:
    return {
        "id": "1",
        "conversations": [{"from": role, "value": text} for role, text in turns],
        **more,
    }


def read(write: Write, *rows: object, name: str = "c.jsonl") -> list[Example | Rejected]:
    text = (
        json.dumps(list(rows), indent=1)
        if name.endswith("json")
        else "\n".join(json.dumps(row) for row in rows)
    )
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
    assert found[1].source == render_turns(
        [("user", "Hi"), ("assistant", "Hello."), ("user", "Bye\nnow")]
    )


def test_a_rows_system_text_comes_first(write: Write) -> None:
    (found, _) = read(write, conversation(GOOD, system="Be kind."))
    assert isinstance(found, Example)
    assert found.source == "system: Be kind. user: Hi assistant:"


def test_examples_of_a_conversation_stay_together_and_are_cut_on_the_left(write: Write) -> None:
    found = read(write, conversation(GOOD), conversation(GOOD[:2]))
    examples = [item for item in found if isinstance(item, Example)]
    assert len({example.split_key for example in examples}) == 1
    assert all(example.turns for example in examples)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (conversation([]), "no list of turns"),
        ({"conversations": "x"}, "no list of turns"),
        ({"conversations": [{"from": "human"}]}, "a turn without a role or a text"),
        ({"conversations": ["x"]}, "a turn without a role or a text"),
        (conversation([("robot", "x"), ("gpt", "y")]), "an unknown role"),
        (conversation([("human", "x")]), "no assistant turn"),
        (conversation([("human", " "), ("gpt", "y")]), "an empty turn"),
        (conversation([("human", "x"), ("gpt", "\ud800")]), "a turn is not valid Unicode"),
        (
            {"conversations": [{"from": "human", "value": ["x"]}, {"from": "gpt", "value": "y"}]},
            "a part of a turn that is not text",
        ),
        (conversation([("human", "x"), ("gpt", "y")] * 501), "more than 1000 turns"),
        (conversation([("gpt", "first")]), "a reply before the first user turn"),
    ],
)
def test_odd_conversations_are_rejected_with_the_reason(
    row: object, reason: str, write: Write
) -> None:
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
    with pytest.raises(DataError, match="cannot guess the target column"):
        list(read_examples(path, format="pairs"))
    with pytest.raises(DataError, match="no list of turns"):
        list(
            read_examples(write("a.jsonl", '{"input": "a", "output": "b"}'), format="conversations")
        )


@pytest.mark.parametrize(
    ("row", "format"),
    [
        (
            {
                "messages": [
                    {"role": "User", "content": "Hi"},
                    {"role": "assistant", "content": "Hello."},
                ]
            },
            "messages",
        ),
        (
            {
                "conversations": [
                    {"role": "prompter", "content": "Hi"},
                    {"role": "AI", "content": "Hello."},
                ]
            },
            "messages",
        ),
        (
            {
                "conversation": [
                    {"from": "Human", "value": "Hi"},
                    {"from": " ai ", "value": "Hello."},
                ]
            },
            "conversations",
        ),
        (
            {"dialog": [{"speaker": "user", "text": "Hi"}, {"speaker": "bot", "text": "Hello."}]},
            "conversations",
        ),
        (
            {
                "turns": [
                    {"speaker": "user", "text": "Hi"},
                    {"speaker": "ChatGPT", "text": "Hello."},
                ]
            },
            "conversations",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "x"},
                    {
                        "role": "assistant",
                        "content": [{"type": "text", "text": "Hello."}],
                        "tool_calls": None,
                    },
                ]
            },
            "messages",
        ),
    ],
)
def test_names_of_lists_turns_and_roles_as_they_come(
    row: dict[str, object], format: str, write: Write
) -> None:
    path = write("c.jsonl", json.dumps(row))
    (found,) = read_examples(path)
    assert isinstance(found, Example)
    assert (found.source, found.target) == ("user: Hi assistant:", "Hello.")
    assert how_read(path).format == format
    for named in ("conversations", "messages"):
        assert list(read_examples(path, format=named)) == [found]


def test_tools_and_developers_are_heard_and_never_answer(write: Write) -> None:
    turns = [
        ("developer", "Use tools."),
        ("user", "Weather?"),
        ("tool", "12 °C"),
        ("function", "rain"),
        ("observation", "wet"),
        ("assistant", "Cold."),
        ("assistant", "And wet."),
    ]
    found = read(write, {"messages": [{"role": role, "content": text} for role, text in turns]})
    start = "system: Use tools. user: Weather? tool: 12 °C tool: rain tool: wet"
    assert [(item.source, item.target) for item in found if isinstance(item, Example)] == [
        (f"{start} assistant:", "Cold."),
        (f"{start} assistant: Cold. assistant:", "And wet."),
    ]


def test_parts_of_a_turn_are_joined_and_pictures_refused(write: Write) -> None:
    def row(*parts: object) -> dict[str, object]:
        return {
            "messages": [
                {"role": "user", "content": list(parts)},
                {"role": "assistant", "content": "ok"},
            ]
        }

    text = [{"type": "text", "text": word} for word in ("one", "two")]
    picture = {"type": "image_url", "image_url": {"url": "x"}}
    good, *bad = read(
        write,
        row(*text),
        row(text[0], picture),
        row("bare"),
        row(),
        row({"type": "text", "text": None}),
    )
    assert isinstance(good, Example)
    assert good.source == "user: one\ntwo assistant:"
    assert [item.reason for item in bad if isinstance(item, Rejected)] == [
        "a part of a turn that is not text: 'image_url'",
        "a part of a turn that is not text: 'str'",
        "an empty turn",
        "a part of a turn that is not text: 'text'",
    ]


def test_a_template_of_the_users_own_renders_dialogues(write: Write) -> None:
    template = "{% for turn in turns %}<{{ turn.role }}> {{ turn.text }} {% endfor %}<reply>"
    path = write("c.jsonl", json.dumps(conversation(GOOD)))
    first, second = read_examples(path, template=template)
    assert isinstance(first, Example)
    assert isinstance(second, Example)
    assert first.source == "<user> Hi <reply>"
    assert (
        second.source
        == render_turns(second.turns, template)
        == "<user> Hi <assistant> Hello. <user> Bye\nnow <reply>"
    )
    assert second.template == how_read(path, template=template).template == template
    assert how_read(path).template == DIALOGUE_TEMPLATE
    with pytest.raises(DataError, match=r"no column 'question'.*'turns'"):
        list(read_examples(path, template="{question}"))


TURNS = [
    ("system", "s"),
    ("user", "a b"),
    ("assistant", "c"),
    ("user", "d e f"),
    ("tool", "g"),
    ("user", "h"),
]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (99, 0),
        (16, 0),
        (15, 2),
        (13, 2),
        (12, 3),
        (10, 4),
        (7, 4),
        (6, 5),
        (5, 5),
        (4, "h"),
        (3, "h"),
        (0, "h"),
    ],
)
def test_a_dialogue_is_cut_at_whole_turns(words: int, kept: int | str) -> None:
    turns = TURNS[-1:] if kept == "h" else [TURNS[0], *TURNS[max(1, int(kept)) :]]
    assert fit_turns(TURNS, None, lambda text: len(text.split()) <= words) == render_turns(turns)


def test_cutting_asks_a_tokenizer_few_times() -> None:
    asked: list[str] = []

    def fits(text: str) -> bool:
        asked.append(text)
        return len(text.split()) <= 100

    turns = [("system", "s"), *(("user", f"word {number}") for number in range(999))]
    kept = fit_turns(turns, None, fits)
    assert len(kept.split()) == 99
    assert kept.startswith("system: s user: word ")
    assert len(asked) <= 12
    assert fit_turns([("system", "alone")], None, lambda _: False) == "system: alone assistant:"


texts = st.text(min_size=1, max_size=12).filter(
    lambda text: bool(text.strip()) and "\0" not in text
)
roles = st.sampled_from(["human", "gpt", "system", "tool", "user", "Assistant"])


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(roles, texts), min_size=1, max_size=9), st.integers(0, 40))
def test_any_conversation(turns: list[tuple[str, str]], words: int) -> None:
    shape = FORMATS["conversations"]
    prompt = PromptTemplate.of(DIALOGUE_TEMPLATE)
    row = conversation(turns)
    replies = [place for place, (role, _) in enumerate(turns) if role in ("gpt", "Assistant")]
    if not replies:
        with pytest.raises(Unusable, match="no assistant turn"):
            list(shape.examples(prompt, 0, row, "f:1"))
        return
    found = [item for item in shape.examples(prompt, 0, row, "f:1") if isinstance(item, Example)]
    # A greeting answers nothing; where no user speaks, the system text asks.
    opens = next(
        (at for at, (role, _) in enumerate(turns) if role not in ("gpt", "Assistant", "system")), 0
    )
    answers = [place for place in replies if place > opens]
    assert [item.target for item in found] == [turns[place][1] for place in answers]
    for item, place in zip(found, answers, strict=True):
        assert [text for _, text in item.turns] == [text for _, text in turns[:place]]
        fitted = fit_turns(item.turns, item.template, lambda text: len(text.split()) <= words)
        system = list(itertools.takewhile(lambda turn: turn[0] == "system", item.turns))
        rest = item.turns[len(system) :] or item.turns
        system = system if len(rest) < len(item.turns) else []
        whole = [
            render_turns([*kept, *rest[start:]])
            for kept in (system, [])
            for start in range(len(rest))
        ]
        assert fitted == next((text for text in whole if len(text.split()) <= words), whole[-1])
