"""Where rows come from: files, folders, globs, hub data sets (``hf:NAME[:SPLIT]``), the demo task (``demo:SPLIT``)."""

from __future__ import annotations

import glob
import gzip
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lora_s2s.demo import task
from lora_s2s.errors import DataError, SetupError, nearest
from lora_s2s.files import sha256_file, sha256_json
from lora_s2s.reading.example import Rejected, Row
from lora_s2s.reading.formats import read_csv, read_json, read_jsonl, read_parquet, read_tsv

READERS: dict[str, Callable[[Path], Iterator[Row | Rejected]]] = {
    ".csv": read_csv, ".tsv": read_tsv, ".json": read_json, ".jsonl": read_jsonl, ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}  # fmt: skip
_HUB, _DEMO = "hf:", "demo:"


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


@dataclass(frozen=True)
class Origin:
    """One file (``path``), or a data set that has a name only."""

    name: str
    path: Path | None = None

    def rows(self) -> Iterator[Row | Rejected]:
        """Yields the records, each with its line.

        Raises:
            DataError: what is there cannot be read at all.
            SetupError: a hub data set that cannot be had.
        """
        if self.path is not None:
            with reading(self.path):
                yield from READERS[_suffix(self.path)](self.path)
        elif self.name.startswith(_HUB):
            yield from itertools.starmap(Row, enumerate(_hub_dataset(self.name), start=1))
        else:
            for line, (source, target) in enumerate(task.examples(self.name.removeprefix(_DEMO)), start=1):
                yield Row(line, {"source": source, "target": target})

    def content_hash(self) -> str:
        """Returns a hash that changes when the rows change."""
        if self.path is not None:
            return sha256_file(self.path)
        if self.name.startswith(_HUB):
            return str(_hub_dataset(self.name)._fingerprint)
        return sha256_json(task.examples(self.name.removeprefix(_DEMO)))


def find_origins(paths: str | Sequence[str]) -> list[Origin]:
    """Returns every file or data set that ``paths`` name; a folder or glob gives its readable files, sorted.

    Raises:
        DataError: nothing is there, or nothing that a reader reads.
    """
    named = [paths] if isinstance(paths, str) else paths
    origins = [origin for name in named if name for origin in _origins(name)]
    if not origins:
        raise DataError("no data is named", hint="name a file: --set data.train=FILE")
    return origins


def _origins(name: str) -> list[Origin]:
    if name.startswith(_DEMO) and name.removeprefix(_DEMO) not in task.SIZES:
        raise DataError(f"no such data: {name}; the demo task has {', '.join(_DEMO + split for split in task.SIZES)}")
    if name.startswith((_HUB, _DEMO)):
        return [Origin(name)]
    path = Path(name).expanduser()
    if path.is_dir():
        return _readable(name, sorted(child for child in path.iterdir() if not child.name.startswith(".")))
    if path.is_file():
        if _suffix(path) not in READERS:
            raise DataError(f"no reader for {path.name}; files end in {_endings()}", where=name)
        return [Origin(name, path)]
    if glob.has_magic(name):
        return _readable(name, sorted(Path(found) for found in glob.glob(str(path), recursive=True)))
    here = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = "check the path; it is relative to the current folder"
    raise DataError(f"no such file: {name}{nearest(path.name, here)}", hint=hint)


def _readable(name: str, paths: list[Path]) -> list[Origin]:
    files = [Origin(str(path), path) for path in paths if path.is_file() and _suffix(path) in READERS]
    if not files:
        raise DataError(f"{name} holds no file that can be read; files end in {_endings()}")
    return files


def _suffix(path: Path) -> str:
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return plain.suffix.lower()


def _endings() -> str:
    return ", ".join(READERS) + ", each also with .gz"


def _hub_dataset(name: str) -> Any:
    # A second to import, and only hub data needs it.
    import datasets

    dataset, _, split = name.removeprefix(_HUB).partition(":")
    try:
        return datasets.load_dataset(dataset, split=split or "train")
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise SetupError(
            f"the data set '{dataset}' could not be had: {reason}",
            hint="check the name, the split (hf:NAME:SPLIT) and the network, or give a local file",
        ) from error
