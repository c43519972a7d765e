"""Rows between reading and tokenising: texts in record batches on disk, hashes in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lora_s2s.data.characters import Characters
from lora_s2s.data.split import Keys, joined, keys_of
from lora_s2s.examples.example import Example

ROWS = 4096
# Long conversations repeat all earlier turns for each reply, so batches are limited in characters
# too.
_CHARACTERS = 1 << 24
_SCHEMA = pa.schema({name: pa.string() for name in ("source", "target", "where", "turns")})


class Spool:
    """A temporary file of all examples of all splits, in the order read.

    Args:
        seed: for the rows' places; see :mod:`lora_s2s.data.split`.
        tokens: to count in the texts.
    """

    def __init__(self, path: Path, seed: int, tokens: Sequence[str] = ()) -> None:
        self.path, self._seed = path, seed
        self._open = ExitStack()
        self._writer = self._open.enter_context(
            pa.ipc.new_file(self._open.enter_context(pa.OSFile(str(path), "wb")), _SCHEMA)
        )
        self._keys: list[Keys] = []
        self._batch: list[Example] = []
        self._splits: list[int] = []
        self._characters = 0
        self.characters = Characters(tokens)
        self.rows = 0

    def __enter__(self) -> Spool:
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
        if len(self._batch) == ROWS or self._characters > _CHARACTERS:
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
        self._writer.write_batch(pa.record_batch([*texts.values(), turns], schema=_SCHEMA))
        self._keys.append(keys_of(batch, splits, self._seed))
        self.characters.add(texts["source"], texts["target"])
        self.rows += len(batch)

    def keys(self) -> Keys:
        """The keys of all rows; can be called only once, as they are not kept."""
        return joined(self._keys)


def places(reader: Any) -> list[slice]:
    """The slice of rows of each record batch of a spool."""
    counts = (reader.get_batch(index).num_rows for index in range(reader.num_record_batches))
    ends = np.cumsum([0, *counts]).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]
