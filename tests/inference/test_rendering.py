"""What was rendered in training is rendered again at inference, for every shape, from what the
manifest keeps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from read_and_prepare import how_read, read_examples

from lora_s2s.errors import DataError, UsageError
from lora_s2s.examples.example import Example
from lora_s2s.inference.loading import InputSettings, input_settings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline.scored_data import scored_data
from lora_s2s.recipe.load import recipe_from_settings

Build = Callable[..., Predictor]
Write = Callable[[str, str], str]
USER, BOT = {"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # name: settings, a row of training, the same row as it comes to be answered
    "pairs": ({}, {"mr": "w1", "ref": "w2"}, {"mr": "w1"}),
    "columns": ({"source_column": "A", "target_column": "b"}, {"a": "w1", "b": "w2"}, {"a": "w1"}),
    "template": (
        {"template": "w9 {a}: {c}"},
        {"a": "w1", "c": "w5", "output": "w2"},
        {"a": "w1", "c": "w5"},
    ),
    "jinja": (
        {"template": "{{ a }}{% if c %} {{ c }}{% endif %}"},
        {"a": "w1", "c": None, "output": "x"},
        {"a": "w1"},
    ),
    "translation": ({}, {"translation": {"en": "w1", "de": "w2"}}, {"translation": {"en": "w1"}}),
    "languages": ({}, {"en": "w1", "de": "w2"}, {"en": "w1"}),
    "alpaca": (
        {},
        {"instruction": "w1", "input": "w2", "output": "w3"},
        {"instruction": "w1", "input": "w2"},
    ),
    "alpaca, no input": (
        {},
        {"instruction": "w1", "input": "", "output": "w3"},
        {"instruction": "w1"},
    ),
    "squad": (
        {},
        {"question": "w1", "context": "w2", "answers": {"text": []}},
        {"question": "w1", "context": "w2"},
    ),
    "squad, nested": (
        {"template": "{{ title }} {{ question }}"},
        {
            "title": "w7",
            "paragraphs": [
                {"context": "w2", "qas": [{"question": "w1", "answers": [{"text": "w3"}]}]}
            ],
        },
        {"title": "w7", "paragraphs": [{"context": "w2", "qas": [{"question": "w1"}]}]},
    ),
    "instructions": (
        {},
        {"Definition": ["w1"], "Instances": [{"input": "w2", "output": ["w3"]}]},
        {"definition": "w1", "input": "w2"},
    ),
    "messages": ({}, {"messages": [USER, BOT, USER, BOT]}, {"messages": [USER, BOT, USER]}),
    "messages, answered": ({}, {"messages": [USER, BOT]}, {"messages": [USER, BOT]}),
    "conversations": (
        {"template": "{% for t in turns %}{{ t.text }} {% endfor %}w8"},
        {
            "system": "w4",
            "conversations": [{"from": "human", "value": "w1"}, {"from": "gpt", "value": "w2"}],
        },
        {"system": "w4", "conversations": [{"from": "human", "value": "w1"}]},
    ),
    "several templates": (
        {"template": ["w8 {a}", "w8 {{ a }}"]},
        {"a": "w1", "output": "w2"},
        {"a": "w1"},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_rendered_as_in_training(name: str, write: Write, tiny_predictor: Build) -> None:
    settings, trained, asked = ROWS[name]
    path = write("a.jsonl", json.dumps(trained) + "\n")
    examples = [item for item in read_examples(path, **settings) if isinstance(item, Example)]
    found = how_read(path, **settings)
    manifest = json.loads(
        json.dumps(
            {
                "format": found.format,
                "source_column": found.source_column,
                "template": found.template,
            }
        )
    )
    read = input_settings(manifest, where="manifest.json")
    predictor = tiny_predictor(**vars(read))
    assert predictor.render(asked) == predictor.render(trained) == examples[-1].source
    assert predictor.fitted(examples[-1]) == examples[-1].source
    if settings == {}:  # a model without a manifest tells the shape by itself
        assert (
            name in ("languages", "translation")
            or tiny_predictor().render(asked) == examples[-1].source
        )


def test_a_dialogue_is_cut_at_whole_turns_by_the_predictors_own_limit(
    tiny_predictor: Build,
) -> None:
    turns = [{"role": "system", "content": "w1"}, *[USER, BOT] * 5, USER]
    # 3 words a user's turn, 2 a reply or the system's, 1 for "assistant:", 1 for </s>
    predictor = tiny_predictor(format="messages", max_source_tokens=13, truncate_source="left")
    expected = "system: w1 user: w1 w2 assistant: w3 user: w1 w2 assistant:"
    assert predictor.render({"messages": turns}) == expected
    assert len(predictor.encode(expected)) == 12
    assert (
        tiny_predictor(format="messages", max_source_tokens=5).render({"messages": turns})
        == "user: w1 w2 assistant:"
    )
    short = tiny_predictor(format="messages", max_source_tokens=3, truncate_source="left")
    assert (
        short.tokenizer.decode(short.encode(short.render({"messages": turns}))) == "w2 <unk> </s>"
    )


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({"format": "messages"}, "Hi!", "user: Hi! assistant:"),
        ({"format": "conversations", "system": "w9"}, "Hi!", "system: w9 user: Hi! assistant:"),
        ({"format": "pairs", "system": "w9"}, "Hi!", "Hi!"),
        ({"format": "messages", "system": "w9"}, {"messages": [USER]}, "user: w1 w2 assistant:"),
        ({"format": "alpaca"}, "Add {x}.", "Add {x}."),
        ({"template": "{{ q }}{% if c %} {{ c }}{% endif %}?"}, "why", "why?"),
        ({"template": ("w1 {a}", "w2 {a}")}, "x", "w1 x"),
    ],
)
def test_a_plain_text(
    settings: dict[str, Any], text: Any, expected: str, tiny_predictor: Build
) -> None:
    assert tiny_predictor(**settings).render(text) == expected


def test_rows_that_ask_nothing_or_too_much_are_refused(tiny_predictor: Build) -> None:
    two = {"paragraphs": [{"context": "c", "qas": [{"question": "a"}, {"question": "b"}]}]}
    odd: list[tuple[str, Any, str]] = [
        ("squad", two, "2 questions in one row, expected one"),
        ("messages", {"messages": [BOT]}, "no turn to answer"),
        ("squad", {"question": "q"}, "missing column 'context'"),
        ("alpaca", {"instruction": None}, "empty cell in column 'instruction'"),
        (
            "auto",
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "not text: 'image'",
        ),
    ]
    for format, row, reason in odd:
        with pytest.raises(DataError, match=reason):
            tiny_predictor(format=format).render(row)
    with pytest.raises(UsageError, match=r"2 columns \(question, context\)") as error:
        tiny_predictor(format="squad").render("why?")
    assert str(error.value.hint).endswith('{"question": "…", "context": "…"}')


@pytest.mark.parametrize(
    "template",
    [
        [],
        [3],
        ["{a}", None],
        {"a": "b"},
        True,
        "no columns",
        "{{ a.b() }}",
        "{{ a }}" * 9999,
        ["{a}"] * 101,
        "{{ a",
    ],
)
def test_a_template_from_a_manifest_is_checked_before_anything_is_rendered(template: Any) -> None:
    with pytest.raises(DataError, match=r"input\.template") as caught:
        input_settings({"template": template}, where="manifest.json")
    assert caught.value.where == "manifest.json"
    assert input_settings({"template": ["{a}", "{b}"]}, where="m") == InputSettings(
        template=["{a}", "{b}"]
    )


def test_eval_renders_a_file_as_training_did(
    write: Write,
    tiny_predictor: Build,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def rows(file: str, words: list[str], **settings: Any) -> tuple[list[str], list[str]]:
        recipe = recipe_from_settings("x", ["model.name=x", "data.train=y", *words])
        predictor = tiny_predictor(**settings)
        scored = scored_data(recipe, predictor, file, columns_named=False)
        pairs = zip(scored.sources, scored.references, strict=True)
        found = [(source, text) for source, references in pairs for text in references]
        return [source for source, _ in found], [text for _, text in found]

    greet = write("a.jsonl", json.dumps({"instruction": "w1", "output": "w2"}) + "\n")
    (tmp_path / "d.csv").write_bytes("source,target\nGröße,w2\n".encode("cp1252"))
    rows(str(tmp_path / "d.csv"), ["data.encoding=cp1252"])
    assert "d.csv is not UTF-8: byte 0xF6 in line 2 reads 'Größe' in" in capsys.readouterr().err
    own = "{{ instruction }}!{% if input %} {{ input }}{% endif %}"
    assert rows(greet, ["data.format=auto"], format="alpaca", template=own) == (["w1!"], ["w2"])
    assert rows(greet, ["data.template=say {instruction}"], format="alpaca", template=own) == (
        ["say w1"],
        ["w2"],
    )
    assert rows(greet, ["data.template=['a {output}', 'b {output}']"]) == (["a w2"], ["w2"])
    talk = write("b.jsonl", json.dumps({"messages": [USER, BOT, USER, BOT]}) + "\n")
    fitted = ["user: w1 w2 assistant:"] * 2
    assert rows(talk, [], format="conversations", max_source_tokens=6) == (fitted, ["w3", "w3"])
    # Of languages, the direction is training's whichever way round the file has them.
    turned = write("c.jsonl", json.dumps({"de": "w1", "en": "w2"}) + "\n")
    assert rows(turned, ["data.source_column=null"], format="pairs", source_column="en") == (
        ["w2"],
        ["w1"],
    )
    assert rows(turned, [], format="pairs", source_column="fr") == (["w1"], ["w2"])


def test_eval_scores_against_the_column_that_the_recipe_names_or_says_which_it_guessed(
    write: Write, tiny_predictor: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write("a.csv", "id,text,category\n1,w1,w2\n")

    def references(*words: str) -> list[list[str]]:
        recipe = recipe_from_settings("x", ["model.name=x", "data.train=y", *words])
        scored = scored_data(recipe, tiny_predictor(), file, columns_named=False)
        return [list(texts) for texts in scored.references]

    named = ("data.source_column=text", "data.target_column=category")
    assert references(*named) == [["w2"]]
    for words, missing in (
        ((named[0], "data.target_column=note"), "note"),
        (("data.template=say {text}", "data.target_column=note"), "note"),
        (("data.source_column=ticket", named[1]), "ticket"),
    ):
        with pytest.raises(DataError, match=rf"no column '{missing}'.*'id', 'text', 'category'"):
            references(*words)
    assert "columns:" not in capsys.readouterr().err
    for others in ((), (named[0],), ("data.source_column=q", "data.target_column=a")):
        assert references(*others) == [["w2"]]
        assert "columns: source 'text', target 'category'" in capsys.readouterr().err


def test_what_files_of_a_mixture_do_not_agree_on_is_found_out_at_each_row(
    write: Write, tiny_predictor: Build
) -> None:
    trained: list[dict[str, Any]] = [
        {"source": "w1", "target": "w2"},
        {"text": "w3", "summary": "w4"},
        {"messages": [USER, BOT]},
    ]
    files = [write(f"{index}.jsonl", json.dumps(row) + "\n") for index, row in enumerate(trained)]
    examples = [item for item in read_examples(files) if isinstance(item, Example)]
    for count in (2, 3):
        found = how_read(files[:count])
        manifest = {
            "format": found.format,
            "source_column": found.source_column,
            "template": found.template,
        }
        predictor = tiny_predictor(**vars(input_settings(manifest, where="manifest.json")))
        for row, example in zip(trained[:count], examples, strict=False):
            asked = {key: value for key, value in row.items() if key not in ("target", "summary")}
            assert predictor.render(asked) == example.source
