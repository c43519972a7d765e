"""Where rows come from: folders, globs, weights, parallel files, the splits that names mark,
hashes.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_s2s.demo import task
from lora_s2s.errors import DataError, UsageError
from lora_s2s.readers.origins import Origin, find_origins, named_splits
from lora_s2s.readers.rows import Row

Write = Callable[[str, str], str]


def found(paths: str | list[str], *, parallel: bool = False) -> list[Any]:
    items = [item for origin in find_origins(paths, parallel=parallel) for item in origin.rows()]
    return [
        item.fields if isinstance(item, Row) else (Path(item.file).name, item.line, item.reason)
        for item in items
    ]


def names(paths: str | list[str]) -> list[str]:
    return [Path(origin.name).name for origin in find_origins(paths)]


def test_folders_and_globs_give_their_readable_files_sorted(write: Write, tmp_path: Path) -> None:
    for name in (
        "b.csv",
        "a.jsonl.zst",
        "c.TSV.GZ",
        "d.zip",
        "e.csv.zip",
        "readme.txt",
        ".hidden.csv",
        "f.tmx",
        "sub/g.csv",
    ):
        write(f"d/{name}", "")
    assert names(str(tmp_path / "d")) == ["a.jsonl.zst", "b.csv", "c.TSV.GZ", "e.csv.zip", "f.tmx"]
    assert names(str(tmp_path / "d" / "*.csv")) == ["b.csv"]
    assert names(str(tmp_path / "d" / "**" / "*.csv")) == ["b.csv", "g.csv"]
    assert names([str(tmp_path / "d" / "b.csv"), "", "demo:test"]) == ["b.csv", "demo:test"]
    (tmp_path / "empty").mkdir()
    for nothing in ("empty", "d/*.parquet"):
        with pytest.raises(
            DataError, match=r"contains no readable file; files end in .csv,.*\.zst"
        ):
            find_origins(str(tmp_path / nothing))


def test_what_is_not_there(write: Write, tmp_path: Path) -> None:
    path = write("train.csv", "a,b\nc,d\n")
    with pytest.raises(
        DataError, match=r"no such file: .*trian.csv \(did you mean 'train.csv'\?\)"
    ):
        find_origins(str(tmp_path / "trian.csv"))
    write("trian.cvs.yaml", "")
    with pytest.raises(DataError, match=r"trian.cvs \(did you mean 'train.csv'\?\)"):
        find_origins(str(tmp_path / "trian.cvs"))
    with pytest.raises(DataError, match="no data given"):
        find_origins(["", ""])
    with pytest.raises(DataError, match="demo:train"):
        find_origins("demo:nothing")
    for odd in ("x" * 5000, "a\0b", "~no_such_user/x.csv", f"{path}/x.csv"):
        with pytest.raises(DataError):
            find_origins(odd)


def test_the_demo_task_and_its_hash() -> None:
    (origin,) = find_origins("demo:validation")
    assert origin.path is None
    assert [item.fields for item in origin.rows() if isinstance(item, Row)] == [
        {"source": source, "target": target} for source, target in task.examples("validation")
    ]
    assert origin.content_hash() != find_origins("demo:test")[0].content_hash()


def test_weights(write: Write, tmp_path: Path) -> None:
    path = write("d/a.csv", "a,b\nc,d\n")
    write("d/b.csv", "a,b\nc,d\n")

    def weights(paths: str | list[str]) -> list[float]:
        return [origin.weight for origin in find_origins(paths)]

    assert weights(path) == [1.0]
    assert weights(
        [f"{path}@2", f"{tmp_path}/d@0.5", f"{tmp_path}/d/*.csv@1000", "demo:train@3"]
    ) == [
        2,
        0.5,
        0.5,
        1000,
        1000,
        3,
    ]
    assert find_origins(f"{path}@2")[0].name == path
    assert find_origins("hf:someone/some@7") == [Origin("hf:someone/some", weight=7.0)]
    called_so = write("x.csv@2", "a,b\nc,d\n")
    write("x.csv", "a,b\n")
    assert (find_origins(called_so)[0].name, weights(called_so)) == (called_so, [1.0])
    for bad in ("0", "-1", "nan", "inf", "1001", "1e9", "two", ""):
        with pytest.raises(
            UsageError,
            match=rf"invalid weight '{bad}' for .*a.csv: expected a number above 0, at most 1,000",
        ):
            find_origins(f"{path}@{bad}")
    with pytest.raises(DataError, match=r"no such file: .*me@home\.csv"):
        find_origins(str(tmp_path / "me@home.csv"))


PAIRS = [
    ("train.en", "train.de"),
    ("X.source", "X.target"),
    ("X.src", "X.tgt"),
    ("src-train.txt", "tgt-train.txt"),
    ("train_source.txt", "train_target.txt"),
    ("a.en.gz", "a.de"),
    ("src.txt.gz", "tgt.txt.gz"),
    ("corpus.de-en.de", "corpus.de-en.en"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_parallel_files_are_known_by_their_names(first: str, second: str, tmp_path: Path) -> None:
    for name, text in ((first, 'a "quoted\t1\n\nb\u2028c\r d\n'), (second, "x\r\ny\r\nz")):
        content = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    paths = [str(tmp_path / first), str(tmp_path / second)]
    assert found(paths) == [
        {"source": 'a "quoted\t1', "target": "x"},
        {"source": "", "target": "y"},
        {"source": "b\u2028c\r d", "target": "z"},
    ]
    (origin,) = find_origins([f"{paths[0]}@3", f"{paths[1]}@3"])
    assert (origin.name, origin.weight) == (paths[0], 3.0)
    with pytest.raises(UsageError, match="are one data set but have different weights"):
        find_origins([f"{paths[0]}@3", paths[1]])


def test_files_that_only_look_parallel(write: Write) -> None:
    one, two = write("train.csv", "a,b\nc,d\n"), write("train.tsv", "a\tb\nc\td\n")
    assert len(find_origins([one, two])) == 2
    assert len(find_origins([write("src.jsonl", "{}"), write("tgt.jsonl", "{}")])) == 2
    for left, right in (
        ("asrc.txt", "atgt.txt"),
        ("a.txt", "b.txt"),
        ("a", "b"),
        ("tgt.txt", "src.txt"),
    ):
        with pytest.raises(DataError, match="no reader for"):
            find_origins([write(left, "x\n"), write(right, "y\n")])
        assert found([write(left, "x\n"), write(right, "y\n")], parallel=True) == [
            {"source": "x", "target": "y"}
        ]


def test_parallel_files_of_different_lengths(write: Write) -> None:
    paths = [write("a.en", "1\n2\n3\n4"), write("a.de", "1\n2\n")]
    for order, counts in ((paths, (4, 2)), (paths[::-1], (2, 4))):
        with pytest.raises(
            DataError, match=rf"has {counts[0]} lines, .* has {counts[1]}$"
        ) as caught:
            found(order)
        assert "different lengths" in caught.value.message


def test_a_bad_line_of_a_parallel_file_takes_its_pair_only(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(b"1\n2\n3\n")
    (tmp_path / "a.de").write_bytes(b"1\n\xff\n3\n")
    assert found([str(tmp_path / "a.en"), str(tmp_path / "a.de")]) == [
        {"source": "1", "target": "1"},
        ("a.de", 2, "invalid UTF-8: byte 2 of the file"),
        {"source": "3", "target": "3"},
    ]
    (tmp_path / "a.de").write_text("<html>\n\n\n")
    with pytest.raises(DataError, match=r"a\.de is a web page"):
        found([str(tmp_path / "a.en"), str(tmp_path / "a.de")])


def test_one_parallel_file_is_two_columns_without_header(write: Write) -> None:
    text = 'a "b\t"c"\r\n\nonly\nd\t\ne\tf\tg\n'
    expected = [
        {"source": 'a "b', "target": '"c"'},
        (3, "not two columns: 1"),
        {"source": "d", "target": ""},
        (5, "not two columns: 3"),
    ]
    for name in ("a.tsv", "a.txt", "a"):
        items = [
            item[1:] if isinstance(item, tuple) else item
            for item in found(write(name, text), parallel=True)
        ]
        assert items == expected
    assert found(write("a.jsonl", '{"s": "a"}'), parallel=True) == [{"s": "a"}]
    unit = '<tmx><tu><tuv xml:lang="en"><seg>a</seg></tuv></tu></tmx>'
    assert found(write("a.tmx", unit), parallel=True) == [{"en": "a"}]


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (
            ["trainset.csv.gz", "devset.csv.gz", "testset_w_refs.csv.gz"],
            "train:trainset.csv.gz validation:devset.csv.gz test:testset_w_refs.csv.gz",
        ),
        (
            ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-0.parquet"],
            "train:train-00000-of-00002.parquet,train-00001-of-00002.parquet test:test-0.parquet",
        ),
        (
            ["SGD.Train.jsonl", "sgd_dev.jsonl", "dummy.json"],
            "train:SGD.Train.jsonl validation:sgd_dev.jsonl other:dummy.json",
        ),
        (["all.csv", "val.csv", "notes.txt"], "train:all.csv validation:val.csv"),
        (
            ["a-training.csv", "a-eval.csv", "a-valid.csv"],
            "train:a-training.csv validation:a-eval.csv,a-valid.csv",
        ),
        (["train.csv"], ""),
        (["attrain.csv", "contest.csv"], ""),
        (["test.csv", "dev.csv"], ""),
        (["train.csv", "train_test.csv", "dev.csv"], ""),
        ([], ""),
    ],
)
def test_splits_marked_by_names(
    files: list[str], splits: str, write: Write, tmp_path: Path
) -> None:
    folder = tmp_path / "train and test"
    folder.mkdir()
    for name in files:
        write(f"train and test/{name}", "")
    marked = dict(part.split(":") for part in splits.split())
    for suffix in ("", "@2"):
        expected = {
            split: [f"{folder}/{name}{suffix}" for name in joined.split(",")]
            for split, joined in marked.items()
        }
        assert named_splits(f"{folder}{suffix}") == (expected or {"train": [f"{folder}{suffix}"]})
    assert named_splits("demo:train") == {"train": ["demo:train"]}
    assert list(named_splits(str(folder))) == list(expected or ["train"])


def test_the_hash_is_of_the_content(write: Write) -> None:
    path = write("a.csv", "source,target\na,b\n")
    before, stat = find_origins(path)[0].content_hash(), os.stat(path)
    write("a.csv", "source,target\na,c\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert find_origins(path)[0].content_hash() != before
    pair = [write("a.en", "a\n"), write("a.de", "b\n")]
    before = find_origins(pair)[0].content_hash()
    write("a.de", "c\n")
    assert find_origins(pair)[0].content_hash() not in (
        before,
        find_origins(pair[::-1])[0].content_hash(),
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_there_and_no_file_is_called_by_its_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    for name, what in (("pipe", "a device or a pipe"), ("gone", "a link to nothing")):
        with pytest.raises(DataError, match=f"is {what}, not a file"):
            find_origins(str(tmp_path / f"{name}.jsonl"))
