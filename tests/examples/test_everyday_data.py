"""Data as people have it: read as meant, or named with what to change."""

from __future__ import annotations

import datetime
import decimal
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from read_and_prepare import how_read, read_examples

from lora_s2s.errors import DataError
from lora_s2s.examples.example import Example
from lora_s2s.readers.rows import Rejected, Skipped

Write = Callable[[str, str], str]


def pairs(path: str | list[str], **settings: Any) -> list[tuple[str, str]]:
    return [
        (item.source, item.target)
        for item in read_examples(path, **settings)
        if isinstance(item, Example)
    ]


def left_out(path: str, **settings: Any) -> list[Rejected]:
    return [item for item in read_examples(path, **settings) if isinstance(item, Rejected)]


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def refusal(path: str | list[str], **settings: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        list(read_examples(path, **settings))
    return caught.value


# Several references.


def test_a_list_as_target_is_several_references(write: Write) -> None:
    path = write(
        "a.jsonl",
        lines({"input": "s", "output": ["one", "two", "one"]}, {"input": "t", "output": "three"}),
    )
    assert pairs(path) == [("s", "one"), ("s", "two"), ("t", "three")]
    assert any("'output' contains lists" in note for note in how_read(path).notes)
    squad = write(
        "b.jsonl", lines({"question": "q", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}})
    )
    assert pairs(squad) == [("q", "a"), ("q", "b")]
    assert pairs(path, template="say {input}")[0] == ("say s", "one")


@pytest.mark.parametrize("value", [[["a"]], [{"text": "a"}]])
def test_nested_targets_are_named(value: Any, write: Write) -> None:
    error = refusal(write("a.jsonl", lines({"source": "s", "target": value})))
    assert "target is not text" in error.message
    assert '{"items": [...]}' in str(error.hint)
    assert "json.dumps" in str(error.hint)
    assert "several references" in str(error.hint)
    assert "name the right column" not in str(error.hint)


# Objects as targets.

RECORD = (
    '{"team": "bïlling", "id": 007e1, "due": {"paid": null, "at": [true, 0.10]}, "note": "a\\n"}'
)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ('{"source": "s", "target": RECORD}', "target"),
        ('{"instruction": "s", "input": "", "output": RECORD}', "output"),
        ('{"definition": "s", "input": "", "output": RECORD}', "output"),
    ],
)
def test_an_object_as_target_is_its_json(row: str, column: str, write: Write) -> None:
    record = RECORD.replace("007e1", "7e1")
    path = write("a.jsonl", row.replace("RECORD", record) + "\n")
    ((_, target),) = pairs(path)
    assert target == record
    assert f"'{column}' contains objects, written as JSON" in how_read(path).notes


def test_an_object_with_a_list_of_texts_is_references_only_as_squad_has_it(write: Write) -> None:
    answers = {"text": ["a", "b"], "answer_start": 3}
    path = write("a.jsonl", lines({"question": "q", "answers": answers}))
    assert [target for _, target in pairs(path)] == ["a", "b"]
    assert not how_read(path).notes
    record = {"text": ["a", "b"], "team": "sales"}
    path = write("b.jsonl", lines({"question": "q", "answers": record}))
    assert pairs(path) == [("q", json.dumps(record))]


def test_a_struct_in_parquet_is_json_too(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    record = {
        "n": 3,
        "x": 0.5,
        "sure": True,
        "price": decimal.Decimal("1.50"),
        "due": datetime.date(2026, 1, 2),
        "none": None,
        "raw": None,
    }
    rows = [record, None, {**record, "raw": b"x"}]
    pq.write_table(pa.table({"source": ["s", "t", "u"], "target": rows}), path)
    written = (
        '{"n": 3, "x": 0.5, "sure": true, "price": 1.50, "due": "2026-01-02", "none": null, '
        '"raw": null}'
    )
    assert pairs(str(path)) == [("s", written)]
    reasons = [row.reason for row in left_out(str(path))]
    assert reasons == ["missing target", "target is not JSON: b'x'"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('{"x": [NaN]}', "target is not JSON: NaN"),
        ('{"x": -Infinity}', "target is not JSON: -Infinity"),
        ('{"x": ' * 900 + "1" + "}" * 900, "target is nested too deeply"),
        ('{"x": "\\ud800"}', "target is not valid Unicode"),
    ],
)
def test_an_object_that_json_cannot_write_is_rejected(
    value: str, reason: str, write: Write
) -> None:
    path = write("a.jsonl", '{"source": "s", "target": ' + value + "}\n")
    error = refusal(path)
    assert f"a.jsonl:1 {reason}" in str(error.where)
    assert error.hint is not None


# Families of line files.


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (("dev.ref0", "dev.ref1", "dev.src"), "dev.src"),
        (("asset.orig", "asset.simp.0", "asset.simp.1"), "asset.orig"),
        (
            ("tok.norm.source.txt", "tok.norm.reference1.txt", "tok.norm.reference2.txt"),
            "tok.norm.source.txt",
        ),
    ],
)
def test_a_family_of_line_files_has_several_references(
    names: tuple[str, ...], sources: str, write: Write, tmp_path: Path
) -> None:
    paths = [write(f"d/{name}", f"{name} 1\n{name} 2\n") for name in names]
    targets = [name for name in names if name != sources]
    expected = [(f"{sources} {n}", f"{target} {n}") for n in (1, 2) for target in targets]
    for given in (paths, paths[::-1], str(tmp_path / "d"), str(tmp_path / "d" / "*")):
        assert pairs(given) == expected
    error = refusal(paths[0])
    assert all(name in str(error.hint) for name in names)


def test_a_reference_that_is_blank_is_left_out(write: Write) -> None:
    paths = [write("a.src", "s\nt\n"), write("a.ref0", "one\n\n"), write("a.ref1", "\n\n")]
    assert pairs(paths) == [("s", "one")]


@pytest.mark.parametrize(
    ("files", "source"),
    [
        (("train.de", "train.en"), "de"),
        (("c.en-de.de", "c.en-de.en"), "en"),
        (("x.tgt", "x.src"), "s"),
    ],
)
def test_a_folder_of_two_line_files(
    files: tuple[str, str], source: str, write: Write, tmp_path: Path
) -> None:
    for name in files:
        write(f"d/{name}", f"{Path(name).suffix[1:]}\n")
    write("d/README.md", "hello\n")
    ((found, _),) = pairs(str(tmp_path / "d"))
    assert found.startswith(source)
    assert any("sources are the lines of" in note for note in how_read(str(tmp_path / "d")).notes)


@pytest.mark.parametrize(("source", "target"), [("de", "en"), ("en", "de"), ("en-US", "de_DE")])
def test_the_languages_of_two_line_files_can_be_named(
    source: str, target: str, write: Write, tmp_path: Path
) -> None:
    for name in ("train.de", "train.en"):
        write(f"d/{name}", f"{Path(name).suffix[1:]}\n")
    expected = [(source[:2], target[:2])]
    assert pairs(str(tmp_path / "d"), source_column=source, target_column=target) == expected
    assert pairs(str(tmp_path / "d"), source_column=source) == expected


def test_a_source_of_several_columns_is_offered_as_a_template(write: Write) -> None:
    path = write(
        "nli.csv",
        "id,premise,second part,label\n1,It rains.,It is wet.,yes\n2,It snows.,It is hot.,no\n",
    )
    with pytest.raises(DataError, match="cannot guess the source column") as caught:
        pairs(path)
    assert caught.value.hint is not None
    settings = caught.value.hint.partition("--set ")[2]
    assert settings == "data.target_column=label --set 'data.template={premise} {second part}'"
    template, target = "{premise} {second part}", "label"
    assert pairs(path, template=template, target_column=target)[0] == (
        "It rains. It is wet.",
        "yes",
    )


TICKETS = "ticket_id,body of it,category,agent note\n" + "".join(
    f"{n},the printer number {n} fails,{n % 2},we sent link number {n}\n" for n in range(6)
)
BOTH = "--set 'data.source_column=body of it' --set 'data.target_column=agent note'"


@pytest.mark.parametrize(
    ("text", "settings", "column", "hint"),
    [
        (TICKETS, {}, "target column; the file has 'ticket_id', 'body of it'", BOTH),
        (
            TICKETS,
            {"source_column": "body of it"},
            "target column: 'category' or 'agent note'; the file has 'ticket_id'",
            BOTH,
        ),
        (TICKETS.replace("body of it", "text"), {}, "target column: 'category' or", "=text "),
        (
            TICKETS.replace("category", "label"),
            {},
            "source column; the file has",
            "--set data.target_column=label --set 'data.template={body of it} {agent note}'",
        ),
        (
            TICKETS,
            {"target_column": "agent note"},
            "source column; the file has",
            BOTH,
        ),
    ],
)
def test_a_target_that_is_not_the_only_possible_one_is_asked_for(
    text: str, settings: dict[str, str], column: str, hint: str, write: Write
) -> None:
    path = write("tickets.csv", text)
    with pytest.raises(DataError, match=f"cannot guess the {column}") as caught:
        pairs(path, **settings)
    assert hint in str(caught.value.hint)
    assert "NAME" not in str(caught.value.hint)
    assert pairs(path, source_column="ticket_id", target_column="agent note")
    # A clear name, or another text that is known as an input, leaves no doubt.
    for header in ("id,text,label,note", "id,text,category,passage"):
        named = write("named.csv", header + TICKETS[TICKETS.index("\n") :])
        assert pairs(named)[0][1] in ("0", "we sent link number 0")


TEAMS = [("printer", "sales"), ("screen", "billing"), ("mouse", "sales")] * 3


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (("subject", "body", "team"), "printer order the printer 0 is broken"),
        (("a subject", "it's: `ls` #", "our team"), "printer order the printer 0 is broken"),
        (("% subject", "body", "team"), "the printer 0 is broken"),
        (("subject\n", "body", "team"), "the printer 0 is broken"),
    ],
)
@pytest.mark.parametrize("record", [False, True])
def test_a_column_of_labels_or_objects_is_offered_as_the_target(
    names: tuple[str, str, str], source: str, record: bool, write: Write
) -> None:
    rows = [
        dict(zip(names, (f"{thing} order", f"the {thing} {n} is broken", team), strict=True))
        for n, (thing, team) in enumerate(TEAMS)
    ]
    if record:
        rows = [{**row, names[2]: {"n": 1}} for row in rows]
    rows = [{"id": n, "created": f"2026-01-01 10:0{n}", **row} for n, row in enumerate(rows)]
    path = write("tickets.jsonl", lines(*rows))
    error = refusal(path)
    assert error.message.startswith("cannot guess the target column; the file has 'id', ")
    words = shlex.split(str(error.hint).partition(": ")[2].partition(";")[0])
    settings = dict(word.removeprefix("data.").split("=", 1) for word in words[1::2])
    assert pairs(path, **settings)[0] == (source, '{"n": 1}' if record else "sales")


# Tables without a header.


@pytest.mark.parametrize(
    ("name", "text", "first"),
    [
        ("a.tsv", "kat\tk a t\nboot\tb o t\nvis\tv i s\nhuis\th u i s\n", ("kat", "k a t")),
        (
            "b.csv",
            "I love this.,positive\nI hate it.,negative\nIt is fine.,positive\n",
            ("I love this.", "positive"),
        ),
        ("c.tsv", "great\tpos\nbad\tneg\ngood\tpos\npoor\tneg\nfine\tpos\n", ("great", "pos")),
        (
            "d.csv",
            '"Who, and when?",Ann in 1901\n"And where, then?",In Rome now\n',
            ("Who, and when?", "Ann in 1901"),
        ),
    ],
)
def test_a_table_without_a_header_keeps_its_first_row(
    name: str, text: str, first: tuple[str, str], write: Write
) -> None:
    path = write(name, text)
    assert pairs(path)[0] == first
    assert len(pairs(path)) == text.count("\n")
    assert any("was read as data, not as a header" in note for note in how_read(path).notes)


@pytest.mark.parametrize(
    "header",
    [
        "text\tlabel",
        "wort\twoord",
        "utterance_text\tkind",
        "Frage\tAntwort",
        "English\tGerman",
        "en\tde",
        "0\t1",
    ],
)
def test_a_header_stays_a_header(header: str, write: Write) -> None:
    rows = (
        "please look at this\tone\nplease look at that\ttwo\nplease look\tone\nlook at that\ttwo\n"
    )
    path = write("a.tsv", f"{header}\n{rows}")
    source, target = header.split("\t")
    assert len(pairs(path, source_column=source, target_column=target)) == 4
    how = how_read(path, target_column=target)
    assert (how.source_column, how.notes) == (source, ())


def test_a_first_line_that_may_be_either_is_told(write: Write) -> None:
    path = write("a.csv", "hello,hallo\nworld,welt\nhouse,haus\n")
    assert any("was read as a header" in note for note in how_read(path).notes)
    assert len(pairs(path, source_column="column1", target_column="column2")) == 3
    tatoeba = write("b.tsv", "Hello.\tHallo.\nGo!\tGeh!\n")
    assert pairs(tatoeba)[0] == ("Hello.", "Hallo.")


def test_three_columns_without_a_header_are_asked_for_by_number(write: Write) -> None:
    path = write("a.tsv", "A dog ran .\trun ( dog )\tplain\nA cat sat .\tsit ( cat )\tplain\n")
    assert pairs(path, source_column="column1", target_column="column2")[0] == (
        "A dog ran .",
        "run ( dog )",
    )
    error = refusal(path)
    assert "'column1', 'column2', 'column3'" in error.message
    assert "data.source_column=column1 --set data.target_column=column2" in str(error.hint)
    assert "was read as data, not as a header" in str(error.hint)
    named = write("b.tsv", "A dog ran .\trun ( dog )\tplain\nA cat sat .\tsit ( cat )\tplain\n")
    assert pairs(named, source_column="A dog ran .", target_column="plain") == [
        ("A cat sat .", "plain")
    ]


# Objects of splits, columns in JSON, nested instances.


def test_an_object_of_splits(write: Write) -> None:
    split = {"train": [{"source": "a", "target": "b"}] * 2, "dev": [{"source": "c", "target": "d"}]}
    path = write(
        "a.json",
        json.dumps({"version": "1", **split, "test": [{"source": "e", "target": "f"}]}, indent=1),
    )
    found = [item for item in read_examples(path) if isinstance(item, Example)]
    assert [(item.source, item.split) for item in found] == [
        ("a", "train"),
        ("a", "train"),
        ("c", "validation"),
        ("e", "test"),
    ]
    assert pairs(path, split="test") == [("e", "f")]
    assert {item.kind for item in left_out(path, split="test") if isinstance(item, Skipped)} == {
        "row of another split"
    }


@pytest.mark.parametrize("indent", [None, 2])
def test_columns_as_lists(indent: int | None, write: Write) -> None:
    columns = {"source": ["a", "b", "c"], "target": ["x", ["y", "z"], None]}
    path = write("a.json", json.dumps(columns, indent=indent))
    assert pairs(path) == [("a", "x"), ("b", "y"), ("b", "z")]
    assert [item.reason for item in left_out(path)] == ["missing target"]
    one = write("b.json", json.dumps({"question": "q", "answers": ["a", "b"]}))
    assert pairs(one) == [("q", "a"), ("q", "b")]


def test_nested_instances(write: Write) -> None:
    task = {
        "id": "1",
        "instruction": "Add.",
        "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "0"}],
    }
    path = write("a.jsonl", lines(task))
    assert [target for _, target in pairs(path)] == ["2", "0"]
    assert [source for source, _ in pairs(path)] == ["Add. Input: 1 1 Output:", "Add. Output:"]
    assert len(pairs(write("b.json", json.dumps(task)))) == 2


@pytest.mark.parametrize(
    "document",
    [
        {"a1": {"source": "a", "target": "b"}, "a2": {"source": "c", "target": "d"}},
        {"source": {"0": "a", "1": "c"}, "target": {"0": "b", "1": "d"}},
    ],
)
def test_an_object_of_objects(document: Any, write: Write) -> None:
    path = write("a.json", json.dumps(document))
    assert pairs(path) == [("a", "b"), ("c", "d")]
    assert how_read(path).notes


# Turns.


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


def test_a_greeting_is_skipped_and_no_fault(write: Write) -> None:
    greeted = chat(("gpt", "Hello!"), ("human", "one"), ("human", "two"), ("gpt", "three"))
    path = write("a.jsonl", lines(greeted, greeted))
    assert pairs(path) == [("assistant: Hello! user: one user: two assistant:", "three")] * 2
    assert [(type(item), item.kind) for item in left_out(path)] == [
        (Skipped, "a reply before the first user turn")
    ] * 2
    system = chat(("system", "Be brief."), ("gpt", "Hi"), ("human", "x"), ("gpt", "y"))
    assert [target for _, target in pairs(write("b.jsonl", lines(system)))] == ["y"]
    only = chat(("system", "Say hi."), ("gpt", "Hi"))
    assert pairs(write("c.jsonl", lines(only))) == [("system: Say hi. assistant:", "Hi")]


def test_tool_calls_are_turns(write: Write) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "order", "arguments": '{"n": 2}'}}
    turns = [
        {"role": "user", "content": "two cups"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "done"},
        {"role": "assistant", "content": "ordered"},
    ]
    found = pairs(write("a.jsonl", lines({"messages": turns})))
    written = '{"name": "order", "arguments": {"n": 2}}'
    assert found == [
        ("user: two cups assistant:", written),
        (f"user: two cups assistant: {written} tool: done assistant:", "ordered"),
    ]
    old = {
        "role": "assistant",
        "content": "",
        "function_call": {"name": "order", "arguments": {"n": 2}},
    }
    assert pairs(write("b.jsonl", lines({"messages": [turns[0], old]}))) == [found[0]]
    sharegpt = chat(
        ("human", "two cups"),
        ("function_call", written),
        ("observation", "done"),
        ("gpt", "ordered"),
    )
    assert pairs(write("c.jsonl", lines(sharegpt))) == found
    odd = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    assert "tool call" in refusal(write("d.jsonl", lines({"messages": [turns[0], odd]}))).message


# Names of columns, languages, splits.


@pytest.mark.parametrize(
    ("header", "source"),
    [
        ("text,category", "text"),
        ("sentence,class", "sentence"),
        ("message,reply", "message"),
        ("label,text", "text"),
        ("english,german", "english"),
        ("frage,antwort", "frage"),
        ("id,utterance,intent", "utterance"),
        ("Unnamed: 0,document,abstract", "document"),
        ("topic,tweet", "tweet"),
        ("headline,content", "content"),
    ],
)
def test_everyday_names_of_columns(header: str, source: str, write: Write) -> None:
    names = header.split(",")
    path = write(
        "a.csv",
        f"{header}\n" + "".join(",".join(f"{name}{n}" for name in names) + "\n" for n in range(4)),
    )
    assert how_read(path).source_column == source
    assert pairs(path)[0][0] == f"{source}0"


def unit(**texts: str) -> str:
    return (
        "<tu>"
        + "".join(
            f'<tuv xml:lang="{code.replace("_", "-")}"><seg>{text}</seg></tuv>'
            for code, text in texts.items()
        )
        + "</tu>"
    )


def tmx(*units: str) -> str:
    return f'<?xml version="1.0"?><tmx version="1.4"><header/><body>{"".join(units)}</body></tmx>'


def test_language_codes_match_each_other(write: Write) -> None:
    path = write(
        "a.tmx", tmx(unit(EN="a", de="b"), unit(en_US="c", de_DE="d"), unit(en_gb="e", DE_AT="f"))
    )
    expected = [("a", "b"), ("c", "d"), ("e", "f")]
    assert pairs(path) == expected
    assert pairs(path, source_column="de", target_column="en") == [
        (target, source) for source, target in expected
    ]
    assert pairs(path, source_column="en-US", target_column="de_CH") == expected


def test_translations_with_a_column_of_splits(write: Write) -> None:
    rows = [
        {"translation": {"en": f"a{n}", "de": "b"}, "split": mark}
        for n, mark in enumerate(["train", "test"])
    ]
    path = write("a.jsonl", lines(*rows))
    assert [item.split for item in read_examples(path) if isinstance(item, Example)] == [
        "train",
        "test",
    ]
    assert how_read(path).unused == ()


def test_units_of_another_pair_are_skipped(write: Write) -> None:
    path = write(
        "a.tmx",
        tmx(unit(en="a", de="b"), unit(en="c", fr="d"), unit(fr="e", de="f"), unit(en="g", de="")),
    )
    named = {"source_column": "en", "target_column": "de"}
    assert pairs(path, **named) == [("a", "b")]
    kinds = [(type(item), item.kind) for item in left_out(path, **named)]
    assert kinds == [(Skipped, "another language pair")] * 2 + [(Rejected, "empty target")]
    assert "--set data.source_column=en --set data.target_column=de" in str(refusal(path).hint)


def test_codes_in_each_row_are_told(write: Write) -> None:
    row = {"src_lang": "eng_Latn", "tgt_lang": "deu_Latn", "source": "a", "target": "b"}
    (warning,) = how_read(write("a.jsonl", lines(row, {**row, "src_lang": "fra_Latn"}))).warnings
    assert "'src_lang': eng_Latn, fra_Latn" in warning
    assert (
        how_read(write("b.jsonl", lines({**row, "src_lang": "a text", "tgt_lang": "x"}))).warnings
        == ()
    )


@pytest.mark.parametrize("column", ["split", "Fold", "subset"])
def test_a_column_divides_the_table(column: str, write: Write) -> None:
    rows = [
        {"text": f"t{n}", "summary": f"s{n}", column: mark}
        for n, mark in enumerate(["train", "Dev", "test", "train"])
    ]
    path = write("a.jsonl", lines(*rows))
    found = [item for item in read_examples(path) if isinstance(item, Example)]
    assert [item.split for item in found] == ["train", "validation", "test", "train"]
    reading = how_read(path)
    assert (reading.split_column, reading.unused) == (column, ())
    assert any(f"the column '{column}' assigns rows to splits" in note for note in reading.notes)
    assert pairs(path, split="validation") == [("t1", "s1")]
    # A file of one split that says so throughout is what the user named it for.
    assert len(pairs(write("b.jsonl", lines(rows[0], rows[3])), split="test")) == 2
    odd = write("d.jsonl", lines(*rows, {"text": "t", "summary": "s", column: "holdout"}))
    assert [item.reason for item in left_out(odd)] == ["unknown split: holdout"]
    numbers = write("c.jsonl", lines({"text": "t", "summary": "s", column: "3"}))
    assert how_read(numbers).split_column is None


# Hints by cause.


def test_python_dicts_are_named(write: Write) -> None:
    path = write("a.jsonl", "".join(f"{ {'id': n, 'text': None, 'ok': True} }\n" for n in range(5)))
    error = refusal(path)
    assert "Python dicts" in str(error.hint)
    assert [f"{path}:{n} " in str(error.where) for n in (1, 2, 3, 4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Stück für Größe"),
        ("cp1252", "Größe"),
        ("cp1252", "doesn’t “know”"),
        ("mac_roman", "Stück für Größe"),
        ("mac_roman", "déjà été préparé"),
        ("cp850", "Stück für Größe"),
        ("cp1251", "Скажите пожалуйста"),
        ("shift_jis", "これはテストです"),
        ("gb18030", "今天我们去公园散步吧"),
        ("euc_kr", "안녕하세요 오늘은"),
    ],
)
def test_an_encoding_is_guessed_and_its_setting_named(
    encoding: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "a b.csv"
    path.write_bytes(f"text;summary\n{text};x\n".encode(encoding))
    error = refusal(str(path))
    assert error.message == f"{path} is not UTF-8: none of 1 rows can be used"
    assert str(error.hint).endswith(f" in {encoding}: --set data.encoding={encoding}")
    assert text.split()[0][:2] in str(error.hint)
    assert pairs(str(path), encoding=encoding) == [(text, "x")]
    path.write_bytes(f"{text};summary\na;x\n".encode(encoding))
    error = refusal(str(path))
    assert error.message == f"{path} is not UTF-8: the header cannot be read"
    assert str(error.hint).endswith(f": --set data.encoding={encoding}")


def test_lines_in_two_encodings_are_no_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text;summary\nGröße;x\n".encode() + "Größe;y\n".encode("cp1252"))
    examples = read_examples(str(path))
    assert len(list(examples)) == 2
    error = examples.causes.too_many(1, 0.01)
    assert error is not None
    assert error.message == f"{path} is not UTF-8: 1 of 2 rows cannot be read"
    assert "other lines are UTF-8" in str(error.hint)
    assert "--set" not in str(error.hint)


def test_escaped_quotes_are_read_where_all_rows_have_them(write: Write) -> None:
    rows = 'text,summary\n"say \\"hi\\", twice",a\n"C:\\\\dir\\new",b\n"ends \\"so\\"",c\n'
    assert pairs(write("a.csv", rows)) == [
        ('say "hi", twice', "a"),
        ("C:\\\\dir\\new", "b"),
        ('ends "so"', "c"),
    ]
    # As csv writes them, backslashes are text.
    assert pairs(write("b.csv", 'text,summary\n"a \\""b\\"" c",d\n')) == [('a \\"b\\" c', "d")]
    mixed = write("c.csv", 'text,summary\n"say \\"hi\\" now","a\n"one ""two"" three" x,c\n')
    assert "quot" in str(refusal(mixed).hint)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (chat(("wizard", "a"), ("gpt", "b")), "'wizard'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "only text parts"),
        ({"source": ["a", "b"], "target": "c"}, "module:function"),
        (
            {"source": "a", "target": ""},
            "name the right column: --set data.target_column=NAME",
        ),
    ],
)
def test_the_hint_follows_from_the_reason(row: dict[str, Any], said: str, write: Write) -> None:
    error = refusal(write("a.jsonl", lines(row)))
    assert said in str(error.hint)
    assert "a.jsonl:1" in str(error.where)


def test_reading_ends_early_where_nothing_can_be_used(write: Write) -> None:
    taken = 0
    with pytest.raises(
        DataError, match=r"no row of the first 1,000 of .*a\.jsonl has a usable source"
    ):
        for _ in read_examples(write("a.jsonl", "oops\n" * 50_000)):
            taken += 1
    assert taken == 999
    good = "oops\n" * 900 + lines({"source": "a", "target": "b"}) + "oops\n" * 3000
    assert len(left_out(write("b.jsonl", good))) == 3900
