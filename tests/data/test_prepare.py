"""A user's files to a prepared folder, whole or not at all, every row accounted for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_s2s.data.prepare import prepare
from lora_s2s.data.prepared import PreparedDataset, SplitTable, open_prepared
from lora_s2s.errors import DataError, UsageError
from lora_s2s.reading.conversations import DIALOGUE_TEMPLATE

Write = Callable[[str, str], str]
Prepare = Callable[..., PreparedDataset]


@pytest.fixture
def prepared(tokenizer_folder: Path, tmp_path: Path) -> Prepare:
    def build(train: str, **settings: Any) -> PreparedDataset:
        given = {"out": tmp_path / "prepared", "max_rejected": 1.0, **settings}
        return prepare(train=train, model_name=str(tokenizer_folder), **given)

    return build


def rows_of(count: int, *, target: str = "good {}", first: int = 0) -> str:
    rows = [{"source": f"cat {n}", "target": target.format(n)} for n in range(first, first + count)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(data: PreparedDataset, split: str) -> SplitTable:
    found = data.split(split)
    assert found is not None
    return found


def rejected(data: PreparedDataset) -> list[tuple[str, int]]:
    lines = (data.path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["reason"], row["line"]) for row in map(json.loads, lines)]


def test_the_folder_holds_texts_ids_and_lengths(write: Write, prepared: Prepare) -> None:
    data = prepared(write("a.jsonl", rows_of(40)), validation_fraction=0.25)
    train, validation = table(data, "train"), table(data, "validation")
    assert len(train) + len(validation) == 40
    assert data.split("test") is None
    features = train.features(3)
    assert features.input_ids[-1] == features.labels[-1] == 1
    assert train.source_lengths[3] == len(features.input_ids)
    assert train.target_lengths.tolist() == [len(train.features(row).labels) for row in range(len(train))]
    assert isinstance(train.source_lengths, np.ndarray)
    assert train.sources()[0].startswith("cat ")
    assert train.targets()[0] == train.sources()[0].replace("cat", "good")
    assert train.origins()[0].endswith(f"a.jsonl:{int(train.sources()[0].split()[1]) + 1}")
    assert not set(train.sources()) & set(validation.sources())


def test_the_report_accounts_for_every_row(write: Write, prepared: Prepare) -> None:
    train = (
        rows_of(3)
        + rows_of(1)
        + '{"source": "x"}\n{"source": "the", "target": "cat cat cat cat cat cat cat"}\nbroken\n'
    )
    train += '{"source": "{}", "target": "hello {"}\n{"source": "the cat sat the cat", "target": "good"}\n'
    held = write("v.jsonl", rows_of(1, target="other") + rows_of(2, first=50))
    test = write(
        "t.jsonl", '{"source": "cat 1", "target": "a"}\n{"source": "cat 1", "target": "cat cat cat cat cat"}\n'
    )
    path = write("a.jsonl", train)
    data = prepared(path, validation=held, test=test, max_source_tokens=5, max_target_tokens=7, lossless_text="off")
    report = data.report
    reasons = {
        "leaked": 2, "duplicate": 1, "missing target": 1, "target longer than 7 tokens": 1, "not valid JSON": 1,
    }  # fmt: skip
    assert report["rows"] == {"read": 14, "kept": 8, "rejected": 6, "by_reason": reasons}
    assert report["splits"] == {"train": 3, "validation": 3, "test": 2}
    assert (report["duplicates"], report["leaked"]) == (1, 3)
    assert report["truncated"] == {"source": 1, "target": 0}
    assert report["target_tokens"]["max"] == 8  # what was dropped or kept whole counts: a limit is set by it
    assert 0 < report["unknown_tokens"]["target"] < report["unknown_tokens"]["source"] < 1
    assert report["out"] == str(data.path)
    assert ("missing target", 5) in rejected(data)
    assert len(rejected(data)) == 6
    assert set(report) >= {
        "out", "rows", "splits", "source_tokens", "target_tokens", "truncated", "unknown_tokens", "duplicates",
        "leaked",
    }  # fmt: skip


def test_test_rows_are_never_left_out_for_their_length(write: Write, prepared: Prepare) -> None:
    long = '{"source": "the cat sat the cat sat", "target": "good good good good"}\n'
    limits = {"max_source_tokens": 4, "max_target_tokens": 3, "truncate_source": "drop"}
    data = prepared(write("a.jsonl", rows_of(2, target="good") + long), test=write("t.jsonl", long * 2), **limits)
    assert table(data, "test").targets() == ["good good good good"] * 2
    assert table(data, "test").source_lengths.tolist() == [4, 4]


def test_a_source_with_several_targets_stays_on_one_side(write: Write, prepared: Prepare) -> None:
    rows = "".join(json.dumps({"mr": f"cat {n}", "ref": f"sat {k}"}) + "\n" for n in range(30) for k in range(4))
    data = prepared(write("a.jsonl", rows), validation_fraction=0.3)
    sides = [set(table(data, split).sources()) for split in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 30
    assert data.manifest["input"]["source_column"] == "mr"


def test_turns_of_a_conversation_stay_on_one_side(write: Write, prepared: Prepare) -> None:
    def line(number: int) -> str:
        turns = [("human", f"cat {number}"), ("gpt", "good"), ("human", "the"), ("gpt", f"sat {number}")]
        return json.dumps({"conversations": [{"from": role, "value": text} for role, text in turns]}) + "\n"

    data = prepared(write("a.jsonl", "".join(map(line, range(40)))), validation_fraction=0.3, max_source_tokens=99)
    sides = [{source.split()[2] for source in table(data, split).sources()} for split in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 40
    assert data.manifest["input"] == {
        "template": DIALOGUE_TEMPLATE, "source_column": None, "format": "conversations", "max_source_tokens": 99,
        "truncate_source": "left", "source_language": None, "target_language": None, "carried": [],
    }  # fmt: skip


def test_a_dialogue_is_cut_at_whole_turns_and_then_on_the_left(write: Write, prepared: Prepare) -> None:
    turns = [("system", "the cat"), ("human", "hello hello"), ("gpt", "good"), ("human", "sat sat sat"), ("gpt", "a")]
    line = json.dumps({"conversations": [{"from": role, "value": text} for role, text in turns]}) + "\n"
    seen = {}
    for limit in (40, 16, 9, 6):
        data = prepared(write("a.jsonl", line), validation_fraction=0, max_source_tokens=limit)
        (row,) = [row for row, target in enumerate(data.train.targets()) if target == "a"]
        features = data.train.features(row)
        assert len(features.input_ids) <= limit
        seen[limit] = data.train.sources()[row], data.report["truncated"]["source"]
    assert seen == {
        40: ("system: the cat user: hello hello assistant: good user: sat sat sat assistant:", 0),
        16: ("system: the cat assistant: good user: sat sat sat assistant:", 1),
        9: ("user: sat sat sat assistant:", 2),
        6: ("user: sat sat sat assistant:", 2),
    }


def test_the_preview_is_what_the_model_sees(write: Write, prepared: Prepare) -> None:
    data = prepared(
        write("a.csv", "text,target\nthe {x} cat sat,good </s>\n"),
        template="hello {text}", max_source_tokens=6, lossless_text="off",
    )  # fmt: skip
    (pair,) = data.preview
    assert pair["source"]["text"] == "hello the <unk>x</s>"
    assert pair["source"]["pieces"][0] == "▁hello"
    assert pair["target"]["text"] == "good <unk>/s></s>"
    assert pair["target"]["tokens"] == len(pair["target"]["pieces"])


def test_the_same_data_and_settings_are_not_prepared_twice(write: Write, prepared: Prepare) -> None:
    path = write("a.jsonl", rows_of(20))
    first = prepared(path)
    moved = write("b.jsonl", rows_of(20))
    test = write("t.jsonl", rows_of(5, first=90))
    assert prepared(moved).reused
    assert prepared(moved).fingerprint == first.fingerprint
    for change in ({"seed": 7}, {"max_target_tokens": 9}, {"template": "{source}!"}, {"test": test}):
        changed = prepared(path, **change)
        assert not changed.reused
        assert changed.fingerprint != first.fingerprint
    write("b.jsonl", rows_of(21))
    assert not prepared(moved).reused


def test_same_sources_go_to_the_same_split_again(write: Write, prepared: Prepare, tmp_path: Path) -> None:
    held = [
        set(
            table(
                prepared(write("a.jsonl", rows_of(n)), validation_fraction=0.2, out=tmp_path / str(n)), "validation"
            ).sources()
        )
        for n in (100, 130)
    ]
    assert held[0] == held[1] & {f"cat {number}" for number in range(100)}


def test_a_failure_leaves_nothing_behind(write: Write, prepared: Prepare, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        prepared(write("a.jsonl", '{"input": "a", "target": ""}\n'))
    with pytest.raises(DataError, match="10 × target longer than 2 tokens") as caught:
        prepared(write("b.jsonl", rows_of(10)), max_target_tokens=2)
    assert "max_target_tokens" in str(caught.value.hint)
    path = write("c.jsonl", rows_of(10))
    with pytest.raises(DataError, match="every source"):
        prepared(path, validation=path)
    with pytest.raises(DataError, match="no such file"):
        prepared(path, test=str(tmp_path / "missing.csv"))
    assert sorted(child.name for child in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_another_folder_is_never_replaced(write: Write, prepared: Prepare, tmp_path: Path) -> None:
    write("mine/thesis.txt", "years of work")
    with pytest.raises(UsageError, match="not a folder of prepared data"):
        prepared(write("a.jsonl", rows_of(3)), out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "manifest", "version", "outside"])
def test_a_damaged_folder_is_refused_and_prepared_again(
    damage: str, write: Write, prepared: Prepare, tmp_path: Path
) -> None:
    path = write("a.jsonl", rows_of(30))
    folder = prepared(path).path
    arrow, manifest = folder / "validation.arrow", folder / "manifest.json"
    if damage == "cut":
        arrow.write_bytes(arrow.read_bytes()[:-50])
    elif damage == "flip":
        content = bytearray(arrow.read_bytes())
        content[len(content) // 2] ^= 1
        arrow.write_bytes(content)
    elif damage == "gone":
        arrow.unlink()
    elif damage == "manifest":
        manifest.write_text('{"half": ')
    else:
        described = json.loads(manifest.read_text())
        described["format"] = 99 if damage == "version" else described["format"]
        if damage == "outside":
            described["files"]["../a.jsonl"] = described["files"].pop("validation.arrow")
        manifest.write_text(json.dumps(described))
    with pytest.raises(DataError) as caught:
        open_prepared(folder)
    assert caught.value.hint or caught.value.where
    assert not prepared(path).reused
    assert len(table(open_prepared(folder), "train")) > 0


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder of prepared data") as caught:
        open_prepared(tmp_path)
    assert caught.value.exit_code == 3


def test_a_prepared_folder_can_be_moved(write: Write, prepared: Prepare, tmp_path: Path) -> None:
    data = prepared(write("a.jsonl", rows_of(12)))
    shutil.move(data.path, tmp_path / "elsewhere")
    moved = open_prepared(tmp_path / "elsewhere")
    assert moved.report["out"] == str(tmp_path / "elsewhere")
    assert len(table(moved, "train")) == len(table(moved, "train").sources()) > 0


def test_text_with_controls_and_surrogates_survives(write: Write, prepared: Prepare) -> None:
    rows = [
        {"source": "a\x1b[31m", "target": "[/b]\x01"},
        {"source": "x", "target": "\ud800"},
        {"source": "y", "target": "z"},
    ]
    data = prepared(write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)), validation_fraction=0)
    assert table(data, "train").sources() == ["a\x1b[31m", "y"]
    assert table(data, "train").targets() == ["[/b]\x01", "z"]
    assert rejected(data) == [("target is not valid Unicode", 2)]


@pytest.mark.parametrize("nothing", ["", [], [""]])
def test_no_training_data_at_all_is_said(nothing: Any, prepared: Prepare, write: Write) -> None:
    with pytest.raises(DataError, match="no data is named"):
        prepared(nothing, test=write("a.jsonl", rows_of(3)))
