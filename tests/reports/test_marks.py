"""Words that an answer shares with a reference, what is wrong with an answer, and groups."""

from __future__ import annotations

import random

import pytest

from lora_s2s.reports.answers import (
    COPIED,
    CUT,
    EMPTY,
    FORM,
    LONGER,
    NOT_JSON,
    NUMBERS,
    ONE_WORD,
    OTHER,
    REPEATS,
    RIGHT,
    UNLIKE,
    judged,
    read_examples,
)
from lora_s2s.reports.breakdown import by_class, by_length, by_rarity, choose, kinds_of_answers
from lora_s2s.reports.browser import browser
from lora_s2s.reports.described import describe
from lora_s2s.reports.marks import compare_words, marked, words_of


def longest_common(one: list[str], other: list[str]) -> int:
    """The slow way: a table of all prefixes."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for row, mine in enumerate(one, start=1):
        for place, theirs in enumerate(other, start=1):
            above, left = table[row - 1][place], table[row][place - 1]
            table[row][place] = (
                table[row - 1][place - 1] + 1 if mine == theirs else max(above, left)
            )
    return table[-1][-1]


def test_the_common_words_are_the_most_there_are_and_in_order() -> None:
    chance = random.Random(3)
    for _ in range(300):
        one, other = (chance.choices("abcd", k=chance.randint(0, 12)) for _ in range(2))
        comparison = compare_words(one, other)
        pairs = comparison.pairs()
        assert comparison.common == len(pairs) == longest_common(one, other)
        assert all(one[place] == other[row] for place, row in pairs)
        assert pairs == sorted(set(pairs))
        assert len({place for place, _ in pairs}) == len({row for _, row in pairs}) == len(pairs)


def test_words_of_any_script() -> None:
    assert words_of("Don't: 3,5 €  नमस्ते 你好") == [
        *("Don", "'", "t", ":", "3", ",", "5", "€", "नमस्ते", "你", "好")
    ]


def test_marks_say_what_is_added_and_what_is_missing() -> None:
    pieces = marked("a red  big house", "a big old house")
    assert [(piece.kind, piece.text) for piece in pieces] == [
        ("same", "a"),
        ("added", "red"),
        ("same", "big"),
        ("missing", "old"),
        ("same", "house"),
    ]
    shown = "".join(piece.space + piece.text for piece in pieces if piece.kind != "missing")
    assert shown == "a red  big house"
    # Without a common word, the reference's words would only hide the answer.
    assert [piece.kind for piece in marked("x y", "a b")] == ["added"]


@pytest.mark.parametrize(
    ("answer", "reference", "kind"),
    [
        (" one two\n", "one two", RIGHT),
        ("caf\u00e9", "cafe\u0301", RIGHT),
        ("One-two.", "one two", FORM),
        ("", "one", EMPTY),
        ("at 7 pm", "at 9 pm", NUMBERS),
        ("a red car", "a blue car", ONE_WORD),
        ("a b c", "a b c d e", CUT),
        ("a b c d e", "a b c", LONGER),
        ("a x y c", "a b d c", OTHER),
        ("x", "y", UNLIKE),
        ("go go go go go", "let us go", REPEATS),
        ("the source", "the answer", COPIED),
        ('{"a": 1', '{"a": 1}', NOT_JSON),
    ],
)
def test_what_is_wrong_with_an_answer(answer: str, reference: str, kind: str) -> None:
    assert judged(answer, [reference], "the source").kind == kind


def test_the_nearest_reference_counts() -> None:
    answer = judged("a b c", ["x", "a b d", "a b"], "s")
    assert (answer.nearest, round(answer.agreement, 2)) == ("a b", 0.8)


def rows(count: int) -> dict[int, dict[str, object]]:
    """Answers that are right on sources of up to 20 words, and half right on others."""
    made: dict[int, dict[str, object]] = {}
    for place in range(1, count + 1):
        target = "common" if place % 2 else f"rare{place}"
        answer = target if place <= 20 else f"{target} more"
        made[place] = {
            "source": "w " * place,
            "references": [target],
            "prediction": answer,
            "baseline": "common",
        }
    return made


def test_groups_by_length_rarity_and_class() -> None:
    examples = read_examples(rows(60), ["baseline", "prediction"])
    lengths = by_length(examples)
    assert [group.examples for group in lengths] == [10] * 6
    assert (lengths[0].name, lengths[-1].name) == ("1 to 10", "51 to 60")
    assert [round(group.systems[1].right) for group in lengths] == [100, 100, 0, 0, 0, 0]
    rare, common = by_rarity(examples)
    assert (rare.name, rare.examples, common.name, common.examples) == (
        *("1 (only here)", 30, "20 to 99", 30),
    )
    assert (rare.systems[0].right, common.systems[0].right) == (0, 100)
    assert by_class(examples) == []  # more classes than three sources each
    labels = {place: {**row, "references": ["ab"[place % 2]]} for place, row in rows(9).items()}
    assert [group.name for group in by_class(read_examples(labels, ["baseline"]))] == ["b", "a"]
    assert by_length(examples[:9]) == by_rarity(examples[:9]) == []


def test_chosen_examples_are_the_extremes_and_each_is_shown_once() -> None:
    held = rows(30)
    held[7]["prediction"] = "nothing of it"
    examples = read_examples(held, ["baseline", "prediction"])
    groups = {group.title: [one.place for one in group.examples] for group in choose(examples)}
    assert groups["Most damaged"][0] == 7
    assert set(groups["Most improved"]) <= {*range(2, 21, 2)}
    assert set(groups["Worst answers"]) <= {*range(21, 31)}
    places = [place for held in groups.values() for place in held]
    assert len(places) == len(set(places))
    assert ("right", (15, 19)) in kinds_of_answers(examples)


def test_a_page_holds_as_many_examples_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = read_examples(rows(50), ["prediction"])
    assert browser(examples, ["Adapter"]).held == 50
    monkeypatch.setattr("lora_s2s.reports.browser._MOST_BYTES", 2000)
    part = browser(examples, ["Adapter"])
    held = part.data["rows"]
    assert isinstance(held, list)
    places = [row[0] for row in held]
    assert 5 < part.held == len(places) < 50
    assert places == sorted(places) != [*range(1, part.held + 1)]
    systems = {"prediction": "Adapter"}
    note = describe(rows(50), systems, total=60, file="predictions.jsonl").note
    assert note.startswith(f"{part.held} of 60 scored sources, drawn at random")
