"""The prepared folder: one memory-mapped Arrow file per split, ``manifest.json``, ``rejected.jsonl``."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lora_s2s.data.tokenise import Features
from lora_s2s.errors import DataError
from lora_s2s.files import read_json, sha256_file
from lora_s2s.reading.example import Example

SPLITS = ("train", "validation", "test")
MANIFEST, REJECTED = "manifest.json", "rejected.jsonl"
KIND = "lora-s2s prepared data"
FORMAT = 1
_REQUIRED = {"fingerprint": str, "files": dict, "input": dict, "report": dict, "preview": list}

_SCHEMA = pa.schema({
    "input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32()), "source_length": pa.int32(),
    "target_length": pa.int32(), "source": pa.string(), "target": pa.string(), "where": pa.string(),
})  # fmt: skip


def write_split(path: Path, chunks: Iterable[list[tuple[Example, Features]]]) -> int:
    """Writes a split's Arrow file chunk by chunk and returns its number of rows."""
    rows = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for chunk in chunks:
            rows += len(chunk)
            writer.write_batch(_record_batch(chunk))
    return rows


def _record_batch(chunk: list[tuple[Example, Features]]) -> Any:
    rows = [
        (ids.input_ids, ids.labels, len(ids.input_ids), len(ids.labels), example.source, example.target, example.where)
        for example, ids in chunk
    ]
    columns = dict(zip(_SCHEMA.names, zip(*rows, strict=True), strict=True))
    return pa.record_batch(columns, schema=_SCHEMA)


class SplitTable:
    """One split, memory-mapped: lengths, token ids and raw texts by row number."""

    def __init__(self, path: Path) -> None:
        try:
            self._table: Any = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is not a whole Arrow file", hint="prepare the data again") from error
        if self._table.schema != _SCHEMA:
            raise DataError(f"{path} has other columns than this version writes", hint="prepare the data again")
        # Plain arrays over the mapped file: pyarrow's own way to a row passes all chunks before it.
        chunks = [batch for batch in self._table.to_batches() if len(batch)]
        self._firsts = np.cumsum([0, *map(len, chunks)]).tolist()
        self._ids = [[(ids.offsets.to_numpy(), ids.values.to_numpy()) for ids in chunk.columns[:2]] for chunk in chunks]

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def source_lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each source, ``</s>`` included."""
        return np.asarray(self._table["source_length"].to_numpy(), dtype=np.int32)

    @property
    def target_lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each target."""
        return np.asarray(self._table["target_length"].to_numpy(), dtype=np.int32)

    def features(self, index: int) -> Features:
        """Returns one row's token ids, as they lie in the file."""
        chunk = bisect_right(self._firsts, index) - 1
        row = index - self._firsts[chunk]
        source, target = (values[offsets[row] : offsets[row + 1]] for offsets, values in self._ids[chunk])
        return Features(source, target)

    def sources(self) -> list[str]:
        """Returns every raw source text, rendered, before any cut."""
        return self._texts("source")

    def targets(self) -> list[str]:
        """Returns every raw target text."""
        return self._texts("target")

    def origins(self) -> list[str]:
        """Returns the ``file:line`` of every row."""
        return self._texts("where")

    def _texts(self, column: str) -> list[str]:
        texts: list[str] = self._table[column].to_pylist()
        return texts


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared folder.

    Attributes:
        path: the folder.
        manifest: what made it: ``fingerprint``, ``identity``, ``input``, ``files``, ``report``, ``preview``.
        reused: it stood there already, made from the same data and settings.
    """

    path: Path
    manifest: dict[str, Any] = field(repr=False)
    reused: bool = False

    @property
    def fingerprint(self) -> str:
        """A hash over data, tokenizer, template, lengths and seed."""
        return str(self.manifest["fingerprint"])

    @property
    def report(self) -> dict[str, Any]:
        """What was read, kept, cut and left out: the JSON object of ``prepare``."""
        return {"out": str(self.path), **self.manifest["report"]}

    @property
    def preview(self) -> list[tuple[str, str]]:
        """A few training pairs as the model sees them: unknown tokens, cuts and ``</s>`` show."""
        return [(str(source), str(target)) for source, target in self.manifest["preview"]]

    @property
    def train(self) -> SplitTable:
        """The training split, which every prepared folder has."""
        return SplitTable(self.path / "train.arrow")

    def split(self, name: str) -> SplitTable | None:
        """Returns ``train``, ``validation`` or ``test``; None where there is none."""
        return SplitTable(self.path / f"{name}.arrow") if f"{name}.arrow" in self.manifest["files"] else None


def is_prepared(path: Path) -> bool:
    """Says whether a folder looks like prepared data."""
    return (path / MANIFEST).is_file() and (path / "train.arrow").is_file()


def open_prepared(path: Path, *, reused: bool = False) -> PreparedDataset:
    """Opens a prepared folder after checking its files against the manifest.

    Raises:
        DataError: it is not one, comes from another version, or a file is damaged.
    """
    path = Path(path)
    if not is_prepared(path):
        raise DataError(f"{path} is not a folder of prepared data", hint="make one: lora-s2s prepare RECIPE")
    manifest = read_json(path / MANIFEST)
    _check_manifest(path, manifest)
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file() or entry != {"sha256": sha256_file(file), "bytes": file.stat().st_size}:
            raise DataError(f"{file} is missing or damaged", hint=f"remove {path} and prepare the data again")
    return PreparedDataset(path, manifest, reused)


def _check_manifest(path: Path, manifest: object) -> None:
    if not isinstance(manifest, dict) or (manifest.get("kind"), manifest.get("format")) != (KIND, FORMAT):
        raise DataError(f"{path / MANIFEST} does not describe prepared data of this version", hint="prepare it again")
    allowed = {*(f"{split}.arrow" for split in SPLITS), REJECTED}
    sound = all(isinstance(manifest.get(key), kind) for key, kind in _REQUIRED.items())
    if not sound or not allowed.issuperset(manifest["files"]):
        raise DataError(f"{path / MANIFEST} is damaged", hint=f"remove {path} and prepare the data again")
