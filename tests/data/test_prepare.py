"""A user's files to a prepared folder, whole or not at all, every row accounted for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from read_and_prepare import prepare

from lora_s2s.data.prepared import PreparedDataset, SplitTable, open_prepared
from lora_s2s.data.survey import Tally, tokens_report
from lora_s2s.errors import DataError, ResourceError, UsageError
from lora_s2s.examples.conversations import DIALOGUE_TEMPLATE
from lora_s2s.pipeline.notices import limits_line
from lora_s2s.pipeline.prepare import counts

Write = Callable[[str, str], str]
Prepare = Callable[..., PreparedDataset]


@pytest.fixture
def prepared(tokenizer_folder: Path, tmp_path: Path) -> Prepare:
    def build(train: str, **settings: Any) -> PreparedDataset:
        given = {"out": tmp_path / "prepared", "max_rejected": 1.0, **settings}
        return prepare(train=train, model_name=str(tokenizer_folder), **given)

    return build


@pytest.fixture
def prepare_as_is(tokenizer_folder: Path, tmp_path: Path) -> Prepare:
    """With the settings a user has who sets none."""

    def build(train: str, **settings: Any) -> PreparedDataset:
        return prepare(
            train=train, model_name=str(tokenizer_folder), out=tmp_path / "prepared", **settings
        )

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
    assert train.target_lengths.tolist() == [
        len(train.features(row).labels) for row in range(len(train))
    ]
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
    train += (
        '{"source": "{}", "target": "hello {"}\n{"source": "the cat sat the cat", "target": '
        '"good"}\n'
    )
    held = write("v.jsonl", rows_of(1, target="other") + rows_of(2, first=50))
    test = write(
        "t.jsonl",
        '{"source": "cat 1", "target": "a"}\n{"source": "cat 1", "target": "cat cat cat cat '
        'cat"}\n',
    )
    path = write("a.jsonl", train)
    data = prepared(
        path,
        validation=held,
        test=test,
        max_source_tokens=5,
        max_target_tokens=7,
        lossless_text="off",
    )
    report = data.report
    reasons = {
        "source is held out": 2,
        "duplicate": 1,
        "missing target": 1,
        "target longer than 7 tokens": 1,
        "not valid JSON": 1,
    }
    assert report["rows"] == {"read": 14, "kept": 8, "rejected": 6, "by_reason": reasons}
    assert report["splits"] == {"train": 3, "validation": 3, "test": 2}
    assert (report["duplicates"], report["leaked"]) == (1, 3)
    assert report["truncated"] == {"source": 1, "target": 0}
    assert limits_line(report) == "limits: sources 5 tokens (set; 1 cut), targets 7 tokens (set)"
    assert (
        report["target_tokens"]["max"] == 8
    )  # what was dropped or kept whole counts: a limit is set by it
    assert 0 < report["unknown_tokens"]["target"] < report["unknown_tokens"]["source"] < 1
    assert report["out"] == str(data.path)
    assert ("missing target", 5) in rejected(data)
    assert len(rejected(data)) == 6
    assert set(report) >= {
        "out",
        "rows",
        "splits",
        "source_tokens",
        "target_tokens",
        "truncated",
        "unknown_tokens",
        "duplicates",
        "leaked",
    }


def test_test_rows_are_never_left_out_for_their_length(write: Write, prepared: Prepare) -> None:
    long = '{"source": "the cat sat the cat sat", "target": "good good good good"}\n'
    limits = {"max_source_tokens": 4, "max_target_tokens": 3, "truncate_source": "drop"}
    data = prepared(
        write("a.jsonl", rows_of(2, target="good") + long),
        test=write("t.jsonl", long * 2),
        **limits,
    )
    assert table(data, "test").targets() == ["good good good good"] * 2
    assert table(data, "test").source_lengths.tolist() == [4, 4]


def test_a_source_with_several_targets_stays_on_one_side(write: Write, prepared: Prepare) -> None:
    rows = "".join(
        json.dumps({"mr": f"cat {n}", "ref": f"sat {k}"}) + "\n"
        for n in range(30)
        for k in range(4)
    )
    data = prepared(write("a.jsonl", rows), validation_fraction=0.3)
    sides = [set(table(data, split).sources()) for split in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 30
    assert data.manifest.input.source_column == "mr"


def test_inference_reads_rows_as_training_data_was_read(write: Write, prepared: Prepare) -> None:
    train = "".join(f'{{"question": "cat {n}", "answer": "good"}}\n' for n in range(20))
    data = prepared(write("a.jsonl", train), test=write("b.jsonl", rows_of(5, first=50)))
    assert data.report["splits"]["test"] == 5
    assert data.manifest.input.source_column == "question"


def test_turns_of_a_conversation_stay_on_one_side(write: Write, prepared: Prepare) -> None:
    def line(number: int) -> str:
        turns = [
            ("human", f"cat {number}"),
            ("gpt", "good"),
            ("human", "the"),
            ("gpt", f"sat {number}"),
        ]
        return (
            json.dumps({"conversations": [{"from": role, "value": text} for role, text in turns]})
            + "\n"
        )

    data = prepared(
        write("a.jsonl", "".join(map(line, range(40)))),
        validation_fraction=0.3,
        max_source_tokens=99,
    )
    sides = [
        {source.split()[2] for source in table(data, split).sources()}
        for split in ("train", "validation")
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 40
    assert data.manifest.content["input"] == {
        "template": DIALOGUE_TEMPLATE,
        "source_column": None,
        "format": "conversations",
        "max_source_tokens": 99,
        "max_target_tokens": 8,
        "truncate_source": "left",
        "source_language": None,
        "target_language": None,
        "carried": [],
        "special_tokens": [],
    }


def test_a_dialogue_is_cut_at_whole_turns_and_then_on_the_left(
    write: Write, prepared: Prepare
) -> None:
    turns = [
        ("system", "the cat"),
        ("human", "hello hello"),
        ("gpt", "good"),
        ("human", "sat sat sat"),
        ("gpt", "a"),
    ]
    line = (
        json.dumps({"conversations": [{"from": role, "value": text} for role, text in turns]})
        + "\n"
    )
    seen: dict[int, tuple[str, int]] = {}
    for limit in (40, 16, 9, 6):
        data = prepared(write("a.jsonl", line), validation_fraction=0, max_source_tokens=limit)
        (row,) = [row for row, target in enumerate(data.train.targets()) if target == "a"]
        features = data.train.features(row)
        assert len(features.input_ids) <= limit
        seen[limit] = data.train.sources()[row], data.report["truncated"]["source"]
        assert data.report["system"] == "the cat"
    assert seen == {
        40: ("system: the cat user: hello hello assistant: good user: sat sat sat assistant:", 0),
        16: ("system: the cat assistant: good user: sat sat sat assistant:", 1),
        9: ("user: sat sat sat assistant:", 2),
        6: ("user: sat sat sat assistant:", 2),
    }


@pytest.mark.parametrize("other", [("system", "a cat"), ("human", "hello")])
@pytest.mark.parametrize("first", [("system", "the cat"), ("human", "hello")])
def test_a_system_text_that_only_some_conversations_have_is_not_recorded(
    write: Write, prepared: Prepare, first: tuple[str, str], other: tuple[str, str]
) -> None:
    lines = []
    for opening, asked in ((first, "sat"), (other, "on")):
        turns = [opening, ("human", asked), ("gpt", "good")]
        lines.append({"conversations": [{"from": who, "value": text} for who, text in turns]})
    data = prepared(write("a.jsonl", "\n".join(map(json.dumps, lines))), validation_fraction=0)
    assert data.report["system"] == ""
    tally = Tally(systems={first[1]})
    tally.add(Tally(systems={other[1]}))  # of another batch
    assert tokens_report(tally)["system"] == ("hello" if first == other else "")


def test_the_preview_is_what_the_model_sees(write: Write, prepared: Prepare) -> None:
    data = prepared(
        write("a.csv", "text,target\nthe {x} cat sat,good </s>\n"),
        template="hello {text}",
        max_source_tokens=6,
        lossless_text="off",
    )
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
    for change in (
        {"seed": 7},
        {"max_target_tokens": 9},
        {"encoding": "cp1252"},
        {"template": "{source}!"},
        {"test": test},
    ):
        changed = prepared(path, **change)
        assert not changed.reused
        assert changed.fingerprint != first.fingerprint
    write("b.jsonl", rows_of(21))
    assert not prepared(moved).reused


def test_same_sources_go_to_the_same_split_again(
    write: Write, prepared: Prepare, tmp_path: Path
) -> None:
    held = [
        set(
            table(
                prepared(
                    write("a.jsonl", rows_of(n)), validation_fraction=0.2, out=tmp_path / str(n)
                ),
                "validation",
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


def test_a_disk_too_small_for_what_is_kept_is_told_before_tokenising(
    write: Write, prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "".join(
        json.dumps({"source": f"cat {n} {'x' * 1000}", "target": "good"}) + "\n" for n in range(200)
    )
    path = write("a.jsonl", long)

    def prepared_with(free: int) -> PreparedDataset:
        monkeypatch.setattr(
            "lora_s2s.files.shutil.disk_usage", lambda _: SimpleNamespace(free=free)
        )
        return prepared(path)

    with pytest.raises(
        ResourceError, match=r"out of disk space: 0\.\d MiB are needed, 0\.1 MiB are free"
    ) as told:
        prepared_with(100_000)
    assert told.value.where == str(tmp_path)
    assert [child.name for child in tmp_path.iterdir()] == ["a.jsonl"]
    assert len(prepared_with(250_000).train) > 150
    path = write("b.jsonl", long * 4)  # copies are left out: they need no space
    assert len(prepared_with(250_000).train) > 150


def some_bad(good: int, bad: int) -> str:
    return rows_of(good) + "broken\n" * bad


@pytest.mark.parametrize(("good", "bad"), [(99, 1), (396, 4), (3, 0)])
def test_up_to_one_row_in_a_hundred_may_be_unusable(
    good: int, bad: int, write: Write, prepare_as_is: Prepare
) -> None:
    rows = prepare_as_is(write("a.jsonl", some_bad(good, bad))).report["rows"]
    assert (rows["kept"], rows["rejected"]) == (good, bad)


@pytest.mark.parametrize(
    ("good", "bad", "allowed"),
    [(98, 1, "0.02"), (93, 7, "0.07"), (90, 10, "0.1"), (71, 29, ""), (1, 200, "")],
)
def test_more_is_refused_with_a_limit_that_works(
    good: int, bad: int, allowed: str, write: Write, prepare_as_is: Prepare, tmp_path: Path
) -> None:
    path = write("a.jsonl", some_bad(good, bad))
    with pytest.raises(DataError) as caught:
        prepare_as_is(path)
    total = good + bad
    assert caught.value.message == (
        f"{bad} of {total} rows cannot be used, more than data.max_rejected=0.01: {bad} × not "
        "valid JSON"
    )
    allow = f"; or allow more: --set data.max_rejected={allowed}" if allowed else ""
    assert caught.value.hint == (
        f"fix these lines: one JSON object per line, with keys and texts in double quotes{allow}"
    )
    shown = [
        f"{path}:{good + n} not valid JSON: Expecting value at column 1 (broken)"
        for n in range(1, min(bad, 3) + 1)
    ]
    assert caught.value.where == "; ".join(shown)
    assert [child.name for child in tmp_path.iterdir()] == ["a.jsonl"]
    most = float(allowed or 1)
    assert prepare_as_is(path, max_rejected=most).report["rows"]["rejected"] == bad


@pytest.mark.parametrize(("long", "allowed"), [(10, ""), (2, ""), (1, "0.1")])
def test_more_rows_too_long_than_may_be_rejected_end_it(
    long: int, allowed: str, write: Write, prepare_as_is: Prepare, tmp_path: Path
) -> None:
    path = write("a.jsonl", rows_of(10) + rows_of(long, target="good good good good {}", first=50))
    with pytest.raises(
        DataError, match=f"{long} of {10 + long} rows .* longer than data.max_target_tokens=5$"
    ) as no:
        prepare_as_is(path, max_target_tokens=5)
    hint = str(no.value.hint)
    assert hint.startswith("--set data.max_target_tokens=32 keeps")
    assert hint.endswith(f"data.max_rejected={allowed} drops them" if allowed else "cut cuts them")
    assert [child.name for child in tmp_path.iterdir()] == ["a.jsonl"]
    assert (
        prepare_as_is(path, max_target_tokens=5, max_rejected=float(allowed or 1)).report["rows"][
            "rejected"
        ]
        == long
    )
    assert (
        prepare_as_is(path, max_target_tokens=5, long_targets="cut").report["truncated"]["target"]
        == long
    )
    assert prepare_as_is(path).report["rows"]["rejected"] == 0


def test_strict_stops_at_the_first_bad_row(
    write: Write, prepare_as_is: Prepare, tmp_path: Path
) -> None:
    path = write("a.jsonl", rows_of(500) + '{"source": "a", "target": " "}\nbroken\n')
    with pytest.raises(DataError, match="a row cannot be used: empty target") as caught:
        prepare_as_is(path, strict=True)
    assert caught.value.where == f"{path}:501"
    assert "--strict" in str(caught.value.hint)
    assert [child.name for child in tmp_path.iterdir()] == ["a.jsonl"]
    assert prepare_as_is(write("a.jsonl", rows_of(5)), strict=True).report["rows"]["kept"] == 5


def test_a_folder_whose_files_name_their_splits_gives_all_three(
    write: Write, prepared: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count, first in (
        ("train-1", 7, 0),
        ("train-2", 3, 50),
        ("dev", 4, 100),
        ("test", 2, 200),
        ("more", 9, 300),
    ):
        write(f"d/{name}.jsonl", rows_of(count, first=first))
    data = prepared(str(tmp_path / "d"))
    assert data.report["splits"] == {"train": 10, "validation": 4, "test": 2}
    assert table(data, "test").sources() == ["cat 200", "cat 201"]
    said = capsys.readouterr().err
    assert "splits by file names (train 2, validation 1, test 1)" in said
    assert (
        f"warning: {tmp_path / 'd'}: 1 file omitted, no split in the file name: more.jsonl\n"
        in said
    )
    # Named beside a validation of its own, the folder is training data as a whole.
    whole = prepared(str(tmp_path / "d"), validation=write("v.jsonl", rows_of(1, first=999)))
    assert whole.report["splits"] == {"train": 25, "validation": 1}


def test_a_files_weight_repeats_its_rows_or_sets_some_aside(
    write: Write, prepared: Prepare
) -> None:
    twice, half = write("a.jsonl", rows_of(100)), write("b.jsonl", rows_of(200, first=1000))
    data = prepared([f"{twice}@2", f"{half}@0.5"], validation_fraction=0.1)
    report = data.report
    aside = report["rows"]["by_reason"]["set aside by its file's weight"]
    assert 60 < aside < 120
    assert report["rows"]["read"] == 300
    assert report["rows"]["kept"] == 300 - aside
    assert f"; {300 - aside} kept, by the files' weights: {report['splits']['train']} train, " in (
        counts(report)
    )
    train, held = table(data, "train").sources(), table(data, "validation").sources()
    assert len(held) == len(set(held)) == report["splits"]["validation"]
    times = {source: train.count(source) for source in train}
    assert {int(source.split()[1]) < 1000: count for source, count in times.items()} == {
        True: 2,
        False: 1,
    }
    assert len(times) + len(held) + aside == 300
    assert not set(train) & set(held)
    plain = prepared([twice, half], validation_fraction=0.1)
    assert not plain.reused
    assert plain.report["rows"]["kept"] == 300


def test_files_of_different_formats_and_columns_mix(write: Write, prepared: Prepare) -> None:
    csv = write("a.csv", "question,answer\nthe cat,sat\n")
    lines = write("b.jsonl", rows_of(2))
    array = write("c.json", '[{"instruction": "hello", "input": "", "output": "good"}]')
    data = prepared([csv, lines, array], validation_fraction=0)
    assert data.train.sources() == ["the cat", "cat 0", "cat 1", "hello"]
    assert [Path(where).name for where in data.train.origins()] == [
        "a.csv:2",
        "b.jsonl:1",
        "b.jsonl:2",
        "c.json:1",
    ]


def test_each_class_has_a_row_in_validation_and_classes_are_counted(
    write: Write, prepared: Prepare
) -> None:
    kinds = ["good"] * 300 + ["sat"] * 6 + ["hello"] * 2
    rows = [json.dumps({"source": f"cat {n}", "target": kind}) for n, kind in enumerate(kinds)]
    data = prepared(write("a.jsonl", "\n".join(rows)), validation_fraction=0.02)
    held = table(data, "validation").targets()
    assert set(held) == {"good", "sat", "hello"}
    assert data.report["classes"] == {
        kind: kinds.count(kind) - held.count(kind) for kind in ("good", "sat", "hello")
    }
    assert any("one target makes up 9" in sentence for sentence in data.report["advice"])
    assert "<td>hello</td><td>1</td>" in (data.path / "report.html").read_text()


def test_pairs_alike_and_targets_that_stand_in_their_source_are_counted(
    write: Write, prepared: Prepare
) -> None:
    pairs = [
        ("The cat", "sat."),
        ("the  cat!", "Sat"),
        ("the cat", "sat."),
        ("the cats", "sat"),
        ("good hello", "hello"),
    ]
    rows = "".join(json.dumps({"source": one, "target": two}) + "\n" for one, two in pairs)
    report = prepared(write("a.jsonl", rows), validation_fraction=0).report
    assert (report["near_duplicates"], report["duplicates"]) == (2, 0)
    assert report["target_in_source"] == 0.2
    assert "2 pairs equal to another up to case, spaces and punctuation" in report["advice"]


@pytest.mark.parametrize("edit", ["same size", "same second"])
def test_an_edited_file_is_prepared_again(edit: str, write: Write, prepared: Prepare) -> None:
    path = write("a.jsonl", rows_of(5))
    stamp = Path(path).stat()
    first = prepared(path)
    write("a.jsonl", rows_of(5).replace("good 3", "good 7") if edit == "same size" else rows_of(6))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    second = prepared(path)
    assert not second.reused
    assert second.fingerprint != first.fingerprint


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
    data = prepared(
        write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)), validation_fraction=0
    )
    assert table(data, "train").sources() == ["a\x1b[31m", "y"]
    assert table(data, "train").targets() == ["[/b]\x01", "z"]
    assert rejected(data) == [("target is not valid Unicode", 2)]


@pytest.mark.parametrize("nothing", ["", [], [""]])
def test_no_training_data_at_all_is_said(nothing: Any, prepared: Prepare, write: Write) -> None:
    with pytest.raises(DataError, match="no data given"):
        prepared(nothing, test=write("a.jsonl", rows_of(3)))


def test_rows_that_the_table_marks_as_test_never_train(
    write: Write, prepare_as_is: Prepare, tmp_path: Path
) -> None:
    marks = ["train"] * 6 + ["dev"] * 2 + ["test"] * 3
    rows = [{"source": f"s{n}", "target": f"t{n}", "split": mark} for n, mark in enumerate(marks)]
    path = write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare_as_is(path)
    assert prepared.report["splits"] == {"train": 6, "validation": 2, "test": 3}
    test = prepared.split("test")
    assert test is not None
    assert sorted(test.targets()) == ["t10", "t8", "t9"]
    # Beside test data of its own, the table's test rows are skipped, and no faults.
    other = write("b.jsonl", json.dumps({"source": "x", "target": "y"}) + "\n")
    prepared = prepare_as_is(path, test=other)
    assert prepared.report["splits"] == {"train": 6, "validation": 2, "test": 1}
    assert prepared.report["rows"]["by_reason"] == {
        "row of the test split, which has its own data": 3
    }


def test_a_part_of_a_validation_file(write: Write, prepare_as_is: Prepare) -> None:
    def lines(name: str, count: int) -> str:
        return "".join(
            json.dumps({"source": f"{name} {n}", "target": f"t{n}"}) + "\n" for n in range(count)
        )

    path, dev = write("a.jsonl", lines("a", 40)), write("dev.jsonl", lines("dev", 400))
    for weight, least, most in (("0.25", 70, 130), ("0.5", 160, 240), ("3", 400, 400)):
        splits = prepare_as_is(path, validation=f"{dev}@{weight}").report["splits"]
        assert least <= splits["validation"] <= most
        assert splits["train"] == 40
