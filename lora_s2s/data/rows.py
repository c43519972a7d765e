"""The record every file reader yields, and the failures all of them share."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from lora_s2s.data.example import Rejected
from lora_s2s.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One record: the line it starts on (1-based; the row's number in Parquet) and its fields as written."""

    line: int
    fields: Mapping[str, Any]


Reader: TypeAlias = Callable[[Path], Iterator[Row | Rejected]]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what a damaged or foreign file raises while it is read into one DataError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte 0x{error.object[error.start]:02x})",
            hint=f"convert it first: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8-{path.name}",
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file ({error})", hint="fetch or compress it again") from error
    except (pa.ArrowException, OSError) as error:
        hint = "check that the file is whole and of this type"
        raise DataError(f"{path} cannot be read: {error}", hint=hint) from error
