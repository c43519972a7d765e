"""The shapes of rows besides pairs of columns, each from a file as users have it: golden sources
and targets.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from read_and_prepare import how_read, read_examples

from lora_s2s.errors import DataError, UsageError
from lora_s2s.examples import read as read_module
from lora_s2s.examples.example import Example
from lora_s2s.examples.shapes import FORMATS
from lora_s2s.readers.origins import Origin
from lora_s2s.readers.rows import Rejected, Row
from lora_s2s.recipe.fields import FORMAT_NAMES

Write = Callable[[str, str], str]
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Normans",
            "paragraphs": [
                {
                    "context": "The Normans lived in\nNormandy.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "Where?",
                            "is_impossible": False,
                            "answers": [
                                {"text": "Normandy", "answer_start": 21},
                                {"text": "in\nNormandy"},
                                {"text": "Normandy"},
                            ],
                        },
                        {
                            "id": "2",
                            "question": "Who ran?",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [{"text": "Normans"}],
                        },
                        {"id": "3", "question": " ", "answers": [{"text": "x"}]},
                        {"id": "4", "question": "When?", "answers": None},
                    ],
                }
            ],
        },
        {"title": "Odd", "paragraphs": [{"context": "c", "qas": "none"}]},
        {"title": "Empty", "paragraphs": []},
    ],
}


def read(path: str, **settings: Any) -> tuple[list[tuple[str, str]], list[tuple[int, str]]]:
    found = list(read_examples(path, **settings))
    return (
        [(item.source, item.target) for item in found if isinstance(item, Example)],
        [(item.line, item.reason) for item in found if isinstance(item, Rejected)],
    )


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_recipe_knows_every_format() -> None:
    assert set(FORMAT_NAMES) == {"auto", "pairs", "parallel", *FORMATS}


def test_squad_as_published(write: Write) -> None:
    path = write("dev-v2.0.json", json.dumps(SQUAD))
    context = "context: The Normans lived in\nNormandy."
    good, bad = read(path)
    assert good == [
        (f"question: Where? {context}", "Normandy"),
        (f"question: Where? {context}", "in\nNormandy"),
        (f"question: Who ran? {context}", "unanswerable"),
        (f"question:   {context}", "x"),
    ]
    assert [reason for _, reason in bad] == [
        "missing target",
        "no list of objects under 'qas'",
        "no question",
    ]
    assert how_read(path).template == "question: {{ question }} context: {{ context }}"
    assert read(path, template="{title}: {question}")[0][0] == ("Normans: Where?", "Normandy")
    with pytest.raises(DataError, match=r"no column 'titel' \(did you mean 'title'\?\)"):
        read(path, template="{titel}")


@pytest.mark.parametrize(
    ("answers", "targets"),
    [
        ({"text": ["a", "b", "a"], "answer_start": [1, 2, 1]}, ["a", "b"]),
        ({"text": [], "answer_start": []}, None),
        ([], None),
        (["a"], ["a"]),
        ([{"text": "a"}], ["a"]),
        ("a", ["a"]),
        ([1], ["1"]),
    ],
)
def test_squad_as_the_hub_flattens_it(
    answers: object, targets: list[str] | None, write: Write
) -> None:
    row = {"id": "1", "title": "t", "question": "q", "context": "c"}
    good, _ = read(write("a.jsonl", lines({**row, "answers": answers})))
    assert good == [("question: q context: c", target) for target in targets or ["unanswerable"]]


def test_answers_that_are_no_text_are_told(write: Write) -> None:
    row = {"question": "q", "context": "c"}
    odd = [None, {"text": None}, [{"x": 1}], [["a"]], [None], {"text": [""]}]
    _, bad = read(
        write(
            "a.jsonl", lines({**row, "answers": "a"}, *({**row, "answers": value} for value in odd))
        )
    )
    assert [reason for _, reason in bad] == [
        "missing target",
        "missing target",
        "missing target",
        "target is not text: list",
        "missing target",
        "empty target",
    ]


def test_a_question_with_its_context_keeps_it(write: Write) -> None:
    assert read(write("a.csv", "question,context,answer\nq,c,a\n"))[0] == [
        ("question: q context: c", "a")
    ]


ALPACA = [
    {"instruction": "Add.", "input": "1 1", "output": "2"},
    {"instruction": "Greet.", "input": "", "output": "Hi!"},
    {"instruction": "Greet.", "input": None, "output": "Hi!\n"},
    {"instruction": "Greet {input}.", "output": "Hi."},
    {"instruction": "Blank", "input": " \n", "output": "b"},
    {"instruction": "", "input": "x", "output": "y"},
    {"instruction": None, "input": "x", "output": "y"},
    {"instruction": "x", "input": "", "output": None},
    {"instruction": "x", "input": ["y"], "output": "z"},
    {"instruction": "x", "input": "", "output": "a\x00"},
    {"instruction": "x", "input": 1e5, "output": 0.10},
]


def test_alpaca(write: Write) -> None:
    path = write("alpaca_data.json", json.dumps(ALPACA, indent=2))
    good, bad = read(path)
    assert good == [
        ("Add. 1 1", "2"),
        ("Greet.", "Hi!"),
        ("Greet.", "Hi!\n"),
        ("Greet {input}.", "Hi."),
        ("Blank", "b"),
        (" x", "y"),
        ("x 100000.0", "0.1"),
    ]
    assert [reason for _, reason in bad] == [
        "empty cell in column 'instruction'",
        "missing target",
        "column 'input' is not text: list",
        "NUL character in target",
    ]
    assert how_read(path).format == "alpaca"
    assert read(path, template="{{ instruction }}")[0][0] == ("Add.", "2")
    assert read(path, format="pairs", template="{instruction}: {input}")[0][0] == ("Add.: 1 1", "2")
    assert read(path, source_column="instruction")[0][0] == ("Add.", "2")
    with pytest.raises(UsageError, match="own columns"):
        read(path, format="alpaca", target_column="output")


def test_alpaca_in_a_table_and_with_dollys_names(write: Write) -> None:
    assert read(write("a.csv", "Instruction,Input,Output\nAdd.,1,2\nGo.,,on\n"))[0] == [
        ("Add. 1", "2"),
        ("Go.", "on"),
    ]
    row = {"instruction": "Say.", "context": "here", "response": "ok", "category": "x"}
    assert read(write("a.jsonl", lines(row)))[0] == [("Say. here", "ok")]


INSTRUCTIONS = {
    "Contributors": ["x"],
    "Definition": ["Answer it.", "Briefly."],
    "Positive Examples": [{"input": "p", "output": "q"}],
    "Instances": [
        {"id": "1", "input": "one?", "output": ["yes", "no", "yes"]},
        {"id": "2", "input": "", "output": ["x"]},
        {"id": "3", "input": "two?", "output": []},
        {"id": "4", "input": "three?", "output": "bare"},
    ],
}


def test_a_super_naturalinstructions_task(write: Write) -> None:
    path = write("task001.json", json.dumps(INSTRUCTIONS, indent=4))
    good, bad = read(path)
    both = "Answer it. Briefly."
    assert good == [
        (f"{both} Input: one? Output:", "yes"),
        (f"{both} Input: one? Output:", "no"),
        (f"{both} Output:", "x"),
        (f"{both} Input: three? Output:", "bare"),
    ]
    assert bad == [(1, "missing target")]
    text = json.dumps({**INSTRUCTIONS, "Definition": "One text."})
    assert read(write("task002.json", text), template="{definition}|{input}")[0][0] == (
        "One text.|one?",
        "yes",
    )
    flat = {"task_name": "t", "definition": "D.", "inputs": "i", "targets": "t"}
    assert read(write("flat.jsonl", lines(flat)))[0] == [("D. Input: i Output:", "t")]


def test_rows_of_another_shape_than_the_one_named_are_told(write: Write) -> None:
    path = write("a.jsonl", lines({"source": "a", "target": "b"}))
    reasons = {
        "alpaca": "missing column 'instruction'",
        "squad": "missing column 'question'",
        "messages": "no list of turns",
        "instructions": "missing column 'definition'",
    }
    for format, reason in reasons.items():
        with pytest.raises(DataError, match=f"1 × {reason}"):
            read(path, format=format)


def test_two_columns_named_by_their_languages(write: Write) -> None:
    assert read(write("a.tsv", "en\tde\none\teins\n"))[0] == [("one", "eins")]
    path = write("b.jsonl", lines({"eng_Latn": "one", "deu_Latn": "eins"}))
    assert read(path)[0] == [("one", "eins")]
    assert how_read(path).source_column == "eng_Latn"
    assert read(write("c.csv", "pt-BR,EN\num,one\n"))[0] == [("um", "one")]
    assert read(write("d.csv", "en,de\none,eins\n"), source_column="de", target_column="en")[0] == [
        ("eins", "one")
    ]
    for header in ("en,de,fr", "left,right,middle", "x1,y1,z1"):
        with pytest.raises(DataError, match="cannot guess the target column"):
            read(write("e.csv", f"{header}\n{header}\n"))


def test_translations_as_the_hub_keeps_them(write: Write) -> None:
    rows = [{"id": "1", "translation": {"en": "one", "de": "eins"}}, {"translation": None}]
    path = write("a.jsonl", lines(*rows))
    assert read(path) == ([("one", "eins")], [(2, "missing target")])
    assert read(path, source_column="de", target_column="en")[0] == [("eins", "one")]


def test_files_of_a_folder_without_known_columns_are_left_out(write: Write, tmp_path: Path) -> None:
    odd = write("d/a_notes.csv", "left,right\nx,y\n")
    write("d/b.csv", "source,target\ns,t\n")
    write("d/c_labels.json", json.dumps({"0": "no", "1": "yes"}))
    folder = str(tmp_path / "d")
    found = list(read_examples(folder))
    assert [item.source for item in found if isinstance(item, Example)] == ["s"]
    bad = [item for item in found if isinstance(item, Rejected)]
    assert [(item.file, item.line, item.kind) for item in bad] == [
        (odd, 0, "no known columns in this file"),
        (str(tmp_path / "d" / "c_labels.json"), 0, "no known columns in this file"),
    ]
    assert "'left', 'right'" in bad[0].reason
    assert how_read(folder).source_column == "source"
    # A file that the user named is no bycatch.
    assert [item.source for item in read_examples([odd, str(tmp_path / "d" / "b.csv")])] == [
        "x",
        "s",
    ]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="'left', 'right'"):
        list(read_examples(str(tmp_path / "d" / "[ac]*")))


def test_a_files_weight_reaches_its_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    class Weighted:
        name, given, weight, targets = "f", "f", 0.25, ()

        def rows(self, _: Any = None) -> Any:
            yield Row(1, {"source": "a", "target": "b"})
            yield Row(2, {"source": "a", "target": None})

    monkeypatch.setattr(
        read_module, "find_origins", lambda paths, **_: [Weighted(), Origin("demo:validation")]
    )
    found = list(read_examples("any"))
    assert [getattr(item, "weight", None) for item in found[:3]] == [0.25, None, 1.0]


def test_a_function_of_the_users_own_with_a_template(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("own_shape.py", "def pair(row):\n    return row['x'], row['y']\n")
    monkeypatch.chdir(tmp_path)
    path = write(
        "a.jsonl",
        lines({"x": "one", "y": "two"}, {"x": "NUL", "y": "\x00 "}, {"x": ["a"], "y": "b"}),
    )
    assert read(path, format="own_shape:pair", template="say: {source}") == (
        [("say: one", "two")],
        [(2, "NUL character in target"), (3, "source is not text: list")],
    )
