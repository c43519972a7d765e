"""Prepared data: an Arrow file per split, ``manifest.json``, ``rejected.jsonl``."""

from __future__ import annotations

import mmap
import os
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lora_s2s.data.split import SPLITS
from lora_s2s.data_report import PairSide, Sides
from lora_s2s.errors import DataError
from lora_s2s.examples.template import check_recorded
from lora_s2s.records import PreparedManifest, has_manifest, verify
from lora_s2s.tokens.tokenise import Features, Ids

Integers = npt.NDArray[np.int32]
REJECTED, REPORT = "rejected.jsonl", "report.html"

_SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
        "source_length": pa.int32(),
        "target_length": pa.int32(),
        "source": pa.string(),
        "target": pa.string(),
        "where": pa.string(),
    }
)
# An Arrow file is a stream of messages between these.
_START, _END = b"ARROW1\0\0", b"ARROW1"
_INCOMPLETE = "not a complete Arrow file of this version"
_UNREADABLE = (pa.ArrowException, OSError, ValueError, struct.error)
_ID = 4  # bytes
_MOST_MAPPED = 1 << 27  # bytes of a file that are read before its pages are given back


class SplitWriter:
    """Writes the splits' Arrow files into a folder in record batches; ``rows`` counts by split."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._open = folder, ExitStack()
        self._writers: dict[str, pa.RecordBatchFileWriter] = {}
        self.rows = Counter[str]()

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.close()

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Appends a batch from :func:`record_batch`."""
        if split not in self._writers:
            sink = self._open.enter_context(pa.OSFile(str(self._folder / f"{split}.arrow"), "wb"))
            self._writers[split] = self._open.enter_context(pa.ipc.new_file(sink, _SCHEMA))
        self._writers[split].write_batch(batch)
        self.rows[split] += len(batch)


class KeptRow(NamedTuple):
    """One row of a split: ids of source and target with special tokens, texts, ``file:line``."""

    input_ids: Ids
    labels: Ids
    source: str
    target: str
    where: str


def record_batch(rows: Sequence[KeptRow]) -> pa.RecordBatch:
    """Rows of a split as a record batch for :class:`SplitWriter`."""
    input_ids, labels, *texts = zip(*rows, strict=True)
    columns = [
        _lists(input_ids),
        _lists(labels),
        [*map(len, input_ids)],
        [*map(len, labels)],
        *texts,
    ]
    return pa.record_batch(columns, schema=_SCHEMA)


def _lists(rows: Sequence[Ids]) -> pa.Array:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(
        offsets, np.fromiter(chain.from_iterable(rows), np.int32, int(offsets[-1]))
    )


class _Chunk(NamedTuple):
    """A record batch: its rows, and for sources and targets where their ids lie in the file and
    each row's among them.
    """

    rows: int
    starts: list[int]
    offsets: list[Integers]


class SplitTable:
    """One split: lengths, token ids and raw texts by row number.

    Where each row's ids lie is in memory, 8 bytes a row; the rest is read from the file when it is
    asked for, since what is mapped of it would count as this process's memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pa.OSFile(str(path))
            self._chunks = [*_chunks(path)]
        except _UNREADABLE as error:
            raise self._damaged(_INCOMPLETE) from error
        self._firsts = np.cumsum([0, *(chunk.rows for chunk in self._chunks)]).tolist()

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def check(self) -> None:
        """Checks the columns, whose offsets Arrow itself does not verify.

        Raises:
            DataError: invalid offsets, texts that are not UTF-8, missing values, wrong lengths, a
                row without tokens, a negative id, or no rows.
        """
        rows = 0
        for batch in self._read():
            try:
                batch.validate(full=True)
            except pa.ArrowInvalid as error:
                raise self._damaged(f"invalid columns: {error}") from error
            if any(column.null_count for column in batch.columns):
                raise self._damaged("a row lacks a value")
            rows += len(batch)
            if not len(batch):
                continue
            for ids, length in (("input_ids", "source_length"), ("labels", "target_length")):
                self._check_ids(batch, ids, length)
        if not rows:
            raise self._damaged("it has no rows")

    def _check_ids(self, batch: pa.RecordBatch, ids: str, length: str) -> None:
        lengths = pc.list_value_length(batch[ids])
        if not lengths.equals(batch[length]) or not pc.all(pc.greater(lengths, 0)).as_py():
            raise self._damaged(f"{length} is 0 or differs from the number of {ids}")
        tokens = pc.list_flatten(batch[ids])
        if tokens.null_count or pc.min(tokens).as_py() < 0:
            raise self._damaged(f"{ids} has values that are not token ids")

    def check_vocabulary(self, size: int) -> None:
        """Checks the token ids against the size of a vocabulary.

        Raises:
            DataError: an id is too large.
        """
        for batch in self._read():
            for ids in ("input_ids", "labels"):
                largest = pc.max(pc.list_flatten(batch[ids])).as_py()
                if largest is not None and largest >= size:
                    raise self._damaged(
                        f"{ids} has token {largest}, but the model's vocabulary has {size:,}"
                    )

    def _read(self) -> Iterator[pa.RecordBatch]:
        """Yields all rows in batches that are read, not mapped.

        Raises:
            DataError: the file was replaced, cut off or deleted since it was opened.
        """
        try:
            with pa.OSFile(str(self._path)) as file:
                yield from _batches(file)
        except _UNREADABLE as error:
            raise self._damaged(_INCOMPLETE) from error

    def _damaged(self, problem: str) -> DataError:
        return DataError(
            f"{self._path.name} is damaged: {problem}",
            hint="prepare the data again",
            where=str(self._path),
        )

    @property
    def source_lengths(self) -> Integers:
        """Tokens of each source, ``</s>`` included."""
        return self._lengths(0)

    @property
    def target_lengths(self) -> Integers:
        """Tokens of each target."""
        return self._lengths(1)

    def _lengths(self, side: int) -> Integers:
        lengths = [np.diff(chunk.offsets[side]) for chunk in self._chunks]
        return np.concatenate([np.zeros(0, np.int32), *lengths])

    @property
    def target_facts(self) -> dict[str, int]:
        """The lengths of targets that an adapter records: the 99th percentile, and the longest."""
        lengths = self.target_lengths
        if not len(lengths):
            return {}
        p99 = int(np.quantile(lengths, 0.99, method="inverted_cdf"))
        return {"target_p99": p99, "longest_target": int(lengths.max())}

    def features(self, index: int) -> Features:
        """One row's token ids."""
        place = bisect_right(self._firsts, index) - 1
        chunk, row = self._chunks[place], index - self._firsts[place]
        source, target = (
            self._ids(start, *offsets[row : row + 2].tolist())
            for start, offsets in zip(chunk.starts, chunk.offsets, strict=True)
        )
        return Features(source, target)

    def _ids(self, start: int, first: int, end: int) -> Ids:
        size = _ID * (end - first)
        content = self._file.read_at(size, start + _ID * first)
        if len(content) != size:
            raise self._damaged("it has become shorter")
        return np.frombuffer(content, np.int32)

    def sources(self) -> list[str]:
        """Every rendered source text, before truncation."""
        return [*self.each_source()]

    def targets(self) -> list[str]:
        """Every raw target text."""
        return [*self.each_target()]

    def origins(self) -> list[str]:
        """``file:line`` of every row."""
        return [*self._texts("where")]

    def each_source(self) -> Iterator[str]:
        """Yields every rendered source text, a batch in memory."""
        return self._texts("source")

    def each_target(self) -> Iterator[str]:
        """Yields every raw target text, a batch in memory."""
        return self._texts("target")

    def _texts(self, column: str) -> Iterator[str]:
        for batch in self._read():
            yield from batch[column].to_pylist()

    def distinct_targets(self) -> int:
        """The number of distinct target texts, by a hash of each."""
        hashes = (
            np.unique([hash(target) for target in batch["target"].to_pylist()])
            for batch in self._read()
        )
        return len(np.unique(np.concatenate([np.zeros(0, np.int64), *hashes])))


def _chunks(path: Path) -> Iterator[_Chunk]:
    """Yields what a table keeps of each record batch of a file, which is mapped meanwhile."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    content, read = pa.py_buffer(mapped), 0
    for batch in _batches(pa.BufferReader(content)):
        batch.validate()
        sides = batch.columns[:2]
        places = [side.values.buffers()[1].address - content.address for side in sides]
        yield _Chunk(len(batch), places, [side.offsets.to_numpy().copy() for side in sides])
        read += batch.nbytes
        if read > _MOST_MAPPED and hasattr(mapped, "madvise"):
            read = 0
            mapped.madvise(mmap.MADV_DONTNEED)


def _batches(mapped: Any) -> Iterator[pa.RecordBatch]:
    """Yields the record batches of an Arrow file: those of a mapped one are not copied.

    Raises:
        pa.ArrowException, struct.error: it is not one, is cut off, or has other columns.
    """
    start = mapped.read(len(_START))
    mapped.seek(max(0, mapped.size() - len(_END)))
    if (start, mapped.read()) != (_START, _END):
        raise pa.ArrowInvalid("not a complete file")
    mapped.seek(len(_START))
    messages = iter(pa.ipc.MessageReader.open_stream(mapped))
    schema = next(messages, None)
    if schema is None or schema.type != "schema" or pa.ipc.read_schema(schema) != _SCHEMA:
        raise pa.ArrowInvalid("other columns")
    for message in messages:
        if message.type != "record batch" or _is_compressed(message.metadata.to_pybytes()):
            raise pa.ArrowInvalid("compressed data of unknown size")
        yield pa.ipc.read_record_batch(message, _SCHEMA)


def _is_compressed(message: bytes) -> bool:
    """Whether a record batch is compressed, which pyarrow does not expose: read from the fields
    ``Message.header`` (2) and ``RecordBatch.compression`` (3) of ``Message.fbs``.
    """
    root: int = struct.unpack_from("<I", message)[0]
    header = _field(message, root, 2)
    batch: int = header + struct.unpack_from("<I", message, header)[0]
    return _field(message, batch, 3) != batch


def _field(content: bytes, table: int, number: int) -> int:
    """The position of a field in a flatbuffer's table; the table's position if absent."""
    fields: int = table - struct.unpack_from("<i", content, table)[0]
    size, place = struct.unpack_from("<H", content, fields)[0], 4 + 2 * number
    offset: int = struct.unpack_from("<H", content, fields + place)[0] if place < size else 0
    return table + offset


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared folder.

    Attributes:
        path: the folder.
        manifest: settings, report and preview.
        reused: whether it existed already.
    """

    path: Path
    manifest: PreparedManifest = field(repr=False)
    reused: bool = False

    @property
    def fingerprint(self) -> str:
        """A hash of data, tokenizer, template, lengths and seed."""
        return self.manifest.fingerprint

    @property
    def report(self) -> dict[str, object]:
        """The object of ``prepare --json``: the folder, and the report from the manifest."""
        return {"out": str(self.path), **cast(dict[str, object], self.manifest.content["report"])}

    @property
    def preview(self) -> list[Sides[PairSide]]:
        """Training pairs as the model sees them; see :func:`lora_s2s.data.report.sample_pairs`."""
        return self.manifest.preview

    @property
    def train(self) -> SplitTable:
        """The training split."""
        return SplitTable(self.path / "train.arrow")

    def split(self, name: str) -> SplitTable | None:
        """``train``, ``validation`` or ``test``; None if absent."""
        return (
            SplitTable(self.path / f"{name}.arrow")
            if f"{name}.arrow" in self.manifest.files
            else None
        )

    def tables(self) -> list[SplitTable]:
        """All splits."""
        return [table for table in map(self.split, SPLITS) if table is not None]


def is_prepared(path: Path) -> bool:
    """Whether a folder looks like prepared data."""
    return has_manifest(path) and os.path.isfile(path / "train.arrow")


def open_prepared(path: Path, *, reused: bool = False) -> PreparedDataset:
    """Opens a prepared folder after verifying its files.

    Raises:
        DataError: it is not one, is of another version, or a file is damaged.
    """
    path = Path(path)
    if not is_prepared(path):
        raise DataError(
            f"{path} is not a folder of prepared data", hint="make one: lora-s2s prepare RECIPE"
        )
    hint = f"remove {path} and prepare the data again"
    manifest = PreparedManifest.read(path, hint=hint)
    if "train.arrow" not in manifest.files:
        raise DataError("the manifest does not list train.arrow", hint=hint, where=str(path))
    verify(path, manifest.files, hint=hint)
    check_recorded(manifest.input.template, where=str(PreparedManifest.path(path)))
    prepared = PreparedDataset(path, manifest, reused)
    for table in prepared.tables():
        table.check()
    return prepared
