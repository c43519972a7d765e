"""A prepared folder may be anybody's: its Arrow files are compared with themselves and with the
model before anything is computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cli_parts import Invoke, write_csv

Columns = dict[str, Any]


@pytest.fixture
def prepared(invoke: Invoke, here: Path, tiny_model: Path) -> Path:
    """A small prepared folder, ``p``."""
    data = write_csv(here / "train.csv", rows=12)
    words = ("--data", data, "--model", str(tiny_model), "--set", "data.validation_fraction=0")
    invoke("prepare", *words, "--out", "p")
    return here / "p"


def columns_of(path: Path) -> Columns:
    batch = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks().to_batches()[0]
    return dict(zip(batch.schema.names, batch.columns, strict=True))


def rewrite(folder: Path, columns: Columns, compression: str | None = None) -> None:
    """Writes other columns into a prepared folder, whose manifest then says that they are right."""
    path = folder / "train.arrow"
    schema = pa.ipc.open_file(pa.memory_map(str(path))).schema
    with pa.OSFile(str(folder / "new"), "wb") as sink:
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_file(sink, schema, options=options) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays([*columns.values()], schema=schema))
    (folder / "new").replace(path)
    sign(folder)


def sign(folder: Path) -> None:
    content = (folder / "train.arrow").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["train.arrow"] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def lists(rows: list[list[int] | None]) -> Any:
    return pa.array(rows, pa.list_(pa.int32()))


def numbers(count: int, value: int | None) -> Any:
    return pa.array([value] * count, pa.int32())


def first_row(columns: Columns, name: str, change: Callable[[list[int]], list[int]]) -> Columns:
    rows = columns[name].to_pylist()
    return {**columns, name: lists([change(rows[0]), *rows[1:]])}


def other_offsets(columns: Columns) -> Columns:
    """The ids of a row begin before those of the row before it."""
    ids = columns["input_ids"]
    offsets = np.array(ids.offsets)
    offsets[3] = 0
    buffers = [None, pa.py_buffer(offsets)]
    moved = pa.Array.from_buffers(ids.type, len(ids), buffers, children=[ids.values])
    return {**columns, "input_ids": moved}


def not_utf8(columns: Columns) -> Columns:
    texts = columns["target"]
    _, offsets, content = texts.buffers()
    spoilt = pa.py_buffer(b"\xff" * content.size)
    return {**columns, "target": pa.Array.from_buffers(texts.type, 12, [None, offsets, spoilt])}


def test_a_prepared_folder_as_it_was_made_trains(invoke: Invoke, prepared: Path) -> None:
    rewrite(prepared, columns_of(prepared / "train.arrow"))
    invoke("train", "p", "--dry-run")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda c: first_row(c, "input_ids", lambda row: [2**30, *row[1:]]), "input_ids has tok"),
        (lambda c: first_row(c, "labels", lambda row: [2560, *row[1:]]), "labels has token 2560"),
        (
            lambda c: first_row(c, "labels", lambda row: [-100] * len(row)),
            "values that are not token ids",
        ),
        (
            lambda c: {**c, "source_length": numbers(12, 10**9)},
            "source_length is 0 or differs from",
        ),
        (lambda c: {**c, "target_length": numbers(12, -1)}, "target_length is 0 or differs from"),
        (
            lambda c: {**c, "labels": lists([[]] * 12), "target_length": numbers(12, 0)},
            "target_length is 0 or differs from the number of labels",
        ),
        (lambda c: {**c, "source_length": numbers(12, None)}, "a row lacks a value"),
        (lambda c: {**c, "input_ids": lists([None] * 12)}, "a row lacks a value"),
        (lambda c: {name: column.slice(0, 0) for name, column in c.items()}, "has no rows"),
        (other_offsets, "invalid columns"),
        (not_utf8, "invalid columns"),
    ],
)
def test_columns_that_contradict_each_other_or_the_model(
    spoil: Callable[[Columns], Columns], problem: str, invoke: Invoke, prepared: Path
) -> None:
    rewrite(prepared, spoil(columns_of(prepared / "train.arrow")))
    told = invoke("train", "p", "--dry-run", code=3).stderr
    assert "train.arrow is damaged" in told
    assert problem in told


def test_a_tracker_of_the_folder_is_not_started(invoke: Invoke, prepared: Path) -> None:
    recipe = prepared / "recipe.yaml"
    lines = recipe.read_text("utf-8").splitlines()
    changed = ["  trackers: [wandb]" if "trackers:" in line else line for line in lines]
    assert changed != lines
    recipe.write_text("\n".join(changed), "utf-8")
    message = invoke("train", "p", "--dry-run", code=3).stderr
    assert "p names the tracker 'wandb', which can send data to another machine" in message
    assert "hint: if that is what you want: --set 'training.trackers=[wandb]'" in message
    invoke("train", "p", "--dry-run", "--set", "training.trackers=[]")


def test_a_compressed_file_is_not_expanded(invoke: Invoke, prepared: Path) -> None:
    rewrite(prepared, columns_of(prepared / "train.arrow"), compression="zstd")
    told = invoke("train", "p", "--dry-run", code=3).stderr
    assert "train.arrow is damaged: not a complete Arrow file of this version" in told


def test_no_byte_of_an_arrow_file_ends_the_process(invoke: Invoke, prepared: Path) -> None:
    path = prepared / "train.arrow"
    content = path.read_bytes()
    length = np.int64(12).tobytes()
    assert length in content
    path.write_bytes(content.replace(length, np.int64(2**40).tobytes()))
    sign(prepared)
    invoke("train", "p", "--dry-run", code=3)


@pytest.mark.parametrize("place", ["/nowhere/deep", "../outside", "adapters/../../outside"])
def test_a_prepared_folder_writes_nowhere_else(
    place: str, invoke: Invoke, here: Path, prepared: Path
) -> None:
    made = (prepared / "recipe.yaml").read_text()
    (prepared / "recipe.yaml").write_text(made.replace("dir: adapters", f"dir: {place}"))
    told = invoke("train", "p", "--dry-run", code=3).stderr
    assert f"the output folder '{place}', outside the current one" in told
    assert f"hint: if that is the folder you want: --set output.dir={place}" in told
    invoke("train", "p", "--dry-run", "--set", f"output.dir={place}")


@pytest.mark.parametrize("template", ["{{ source.__class__ }}", "no column", ["{x}"] * 101])
def test_a_template_that_no_adapter_may_have_is_refused_before_training(
    template: object, invoke: Invoke, prepared: Path
) -> None:
    manifest = json.loads((prepared / "manifest.json").read_text())
    manifest["input"]["template"] = template
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    told = invoke("train", "p", "--dry-run", code=3).stderr
    assert "the manifest's input.template is refused" in told


def test_a_file_that_the_manifest_passes_over(invoke: Invoke, prepared: Path) -> None:
    manifest = json.loads((prepared / "manifest.json").read_text())
    del manifest["files"]["train.arrow"]
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    told = invoke("train", "p", "--dry-run", code=3).stderr
    assert "the manifest does not list train.arrow" in told
