"""Where rows come from: files, folders, globs, hub data sets (``hf:NAME[:SPLIT]``), the demo task (``demo:SPLIT``)."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_s2s.data.example import Rejected
from lora_s2s.data.json_rows import read_json, read_jsonl
from lora_s2s.data.rows import Reader, Row
from lora_s2s.data.tables import read_csv, read_parquet, read_tsv
from lora_s2s.demo import task
from lora_s2s.errors import DataError, SetupError, nearest
from lora_s2s.files import sha256_file, sha256_json

READERS: dict[str, Reader] = {
    ".csv": read_csv, ".tsv": read_tsv, ".json": read_json, ".jsonl": read_jsonl, ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}  # fmt: skip
_HUB, _DEMO = "hf:", "demo:"


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
            return READERS[_suffix(self.path)](self.path)
        if self.name.startswith(_HUB):
            return (Row(line, fields) for line, fields in enumerate(_hub_dataset(self.name), start=1))
        pairs = task.examples(self.name.removeprefix(_DEMO))
        return (Row(line, {"source": pair[0], "target": pair[1]}) for line, pair in enumerate(pairs, start=1))

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
    origins = [origin for path in ([paths] if isinstance(paths, str) else paths) for origin in _origins(path)]
    if not origins:
        raise DataError("no data is named", hint="name a file: --set data.train=FILE")
    return origins


def _origins(name: str) -> list[Origin]:
    if name.startswith((_HUB, _DEMO)):
        return [_named_origin(name)]
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


def _named_origin(name: str) -> Origin:
    if name.startswith(_DEMO) and name.removeprefix(_DEMO) not in task.SIZES:
        raise DataError(f"no such data: {name}; the demo task has {', '.join(_DEMO + split for split in task.SIZES)}")
    return Origin(name)


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
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise SetupError(
            f"the data set '{dataset}' could not be had: {reason}",
            hint="check the name, the split (hf:NAME:SPLIT) and the network, or give a local file",
        ) from error
