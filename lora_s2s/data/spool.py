"""Rows between reading and tokenising: texts on disk in record batches, their hashes in memory."""

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
# Replies of long conversations repeat all earlier turns: a batch is bounded in characters too.
_CHARACTERS = 1 << 24
_SCHEMA = pa.schema({name: pa.string() for name in ("source", "target", "where", "turns")})


class Spool:
    """Every example of every split, in the order read: a file to be filled, closed, and removed in
    the end.

    Args:
        seed: of the rows' places; see :mod:`lora_s2s.data.split`.
        tokens: to be counted in the texts.
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
        """How many examples are not written yet."""
        return len(self._batch)

    def add(self, example: Example, split: int) -> None:
        """Adds one example of a split; :meth:`flush` writes the last ones."""
        self._batch.append(example)
        self._splits.append(split)
        self._characters += len(example.source) + len(example.target)
        if len(self._batch) == ROWS or self._characters > _CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Writes what was added since the last time."""
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
        """Returns the keys of all rows, once: they are not kept."""
        return joined(self._keys)


def places(reader: Any) -> list[slice]:
    """Returns where each record batch of a spool lies among all its rows."""
    counts = (reader.get_batch(index).num_rows for index in range(reader.num_record_batches))
    ends = np.cumsum([0, *counts]).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]
