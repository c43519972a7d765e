"""Rows written as Parquet, a thousand at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lora_s2s.errors import UsageError

_ROWS_AT_ONCE = 1024


def write_rows(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    like: Path | None,
    new: Collection[str] = (),
) -> None:
    """Writes rows to a new Parquet file.

    Args:
        columns: names, in order; a row without one has null there.
        like: a Parquet file whose types are kept for the columns that it has; other columns, and
            those of ``new``, have the types of the first thousand rows.

    Raises:
        UsageError: a later row has a value of another type.
    """
    kept = [] if like is None else [one for one in pq.read_schema(like) if one.name not in new]
    known = {field.name: field.type for field in kept}
    writer: pq.ParquetWriter | None = None
    try:
        for chunk in _chunks(iter(rows)):
            arrays = {
                name: pa.array([row.get(name) for row in chunk], type=known.get(name))
                for name in columns
            }
            table = pa.table(arrays)
            known = {field.name: field.type for field in table.schema}
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UsageError(
            f"the rows do not have the same types, which Parquet needs: {error}",
            hint="--output FILE.jsonl",
        ) from error
    finally:
        if writer is not None:
            writer.close()


def _chunks(rows: Iterator[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    while chunk := list(islice(rows, _ROWS_AT_ONCE)):
        yield chunk
