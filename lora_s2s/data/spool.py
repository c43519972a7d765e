"""Rows between reading and tokenising: texts in record batches on disk, hashes in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from typing_extensions import Self

from lora_s2s.data.characters import Characters
from lora_s2s.data.split import Keys, joined, keys_of
from lora_s2s.examples.example import Example

ROWS = 4096
# Long conversations repeat all earlier turns for each reply, so batches are limited in characters
# too.
CHARACTERS = 1 << 24
TEXTS = {name: pa.string() for name in ("source", "target", "where", "turns")}
_SCHEMA = pa.schema(TEXTS)


class Spooled(Protocol):
    """All examples between reading and tokenising, in the order read.

    Attributes:
        characters: counts of the texts.
        rows: the number of examples.
        tokenised: whether batches have ``source_ids`` and ``target_ids``, by the base's tokenizer.
    """

    characters: Characters
    rows: int
    tokenised: bool

    @property
    def size(self) -> int:
        """Bytes on disk."""

    def keys(self) -> Keys:
        """The keys of all rows; can be called only once."""

    def pieces(self) -> Iterator[pa.RecordBatch]:
        """Yields all rows in order, in batches of any size."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yields all rows in order, in the batches that a spool has."""

    def close(self) -> None:
        """Frees the disk."""


class Spool:
    """A temporary file of all examples of all splits, in the order read.

    Args:
        seed: for the rows' places; see :mod:`lora_s2s.data.split`.
        tokens: to count in the texts.
    """

    tokenised = False

    def __init__(
        self,
        path: Path,
        seed: int,
        tokens: Sequence[str] = (),
        *,
        schema: pa.Schema = _SCHEMA,
    ) -> None:
        self._path, self._seed, self._schema = path, seed, schema
        self._open = ExitStack()
        self._writer = self._open.enter_context(
            pa.ipc.new_file(self._open.enter_context(pa.OSFile(str(path), "wb")), schema)
        )
        self._keys: list[Keys] = []
        self._batch: list[Example] = []
        self._splits: list[int] = []
        self._characters = 0
        self.characters = Characters(tokens)
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.close()

    @property
    def waiting(self) -> int:
        """The number of examples not written yet."""
        return len(self._batch)

    def add(self, example: Example, split: int) -> None:
        """Adds an example of a split; call :meth:`flush` after the last one."""
        self._batch.append(example)
        self._splits.append(split)
        self._characters += len(example.source) + len(example.target)
        if len(self._batch) == ROWS or self._characters > CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Writes the examples added since the last call."""
        batch, splits = self._batch, self._splits
        self._batch, self._splits, self._characters = [], [], 0
        if not batch:
            return
        texts = {
            name: [getattr(row, name) for row in batch] for name in ("source", "target", "where")
        }
        turns = [json.dumps([row.turns, row.template]) if row.turns else None for row in batch]
        self._write([*texts.values(), turns], keys_of(batch, splits, self._seed))
        self.characters.add(texts["source"], texts["target"])
        self.rows += len(batch)

    def _write(self, texts: Sequence[Sequence[str | None]], keys: Keys) -> None:
        self._writer.write_batch(pa.record_batch([*texts], schema=self._schema))
        self._keys.append(keys)

    @property
    def size(self) -> int:
        """See :class:`Spooled`."""
        return self._path.stat().st_size

    def keys(self) -> Keys:
        """The keys of all rows; can be called only once, as they are not kept."""
        return joined(self._keys)

    def pieces(self) -> Iterator[pa.RecordBatch]:
        """See :class:`Spooled`."""
        # Not memory-mapped, or all of it would count as this process's memory.
        with pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file)
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)

    batches = pieces

    def close(self) -> None:
        """See :class:`Spooled`."""
        self._path.unlink()
