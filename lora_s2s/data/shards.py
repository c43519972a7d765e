"""Data prepared in shards: each reads and tokenises a part of the records, and the join decides and
writes what one run would.

A shard is a folder: its rows with the base's tokens, the keys that decide on them, and the rejected
records, in the order read. Nothing is decided in it, so settings that only the decisions depend on
(limits, fractions, added tokens) can still change.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lora_s2s.console import counted
from lora_s2s.data import spool as spooling
from lora_s2s.data.characters import Characters
from lora_s2s.data.rejections import Rejections
from lora_s2s.data.split import Keys, joined
from lora_s2s.errors import DataError
from lora_s2s.examples.shard import Shard
from lora_s2s.files import described, read_jsonl
from lora_s2s.readers.rows import Rejected, Skipped
from lora_s2s.records import ShardManifest, has_manifest, verify, write
from lora_s2s.tokens.encoder import TextEncoder
from lora_s2s.tokens.loading import LANGUAGES

Identity: TypeAlias = dict[str, Any]
ROWS, KEYS, REJECTED = "rows.arrow", "keys.arrow", "rejected.jsonl"
_IDS = {f"{side}_ids": pa.list_(pa.int32()) for side in ("source", "target")}
_ROWS = pa.schema({**spooling.TEXTS, **_IDS})
_KEYS = pa.schema(
    {
        **dict.fromkeys(("source", "target", "rest", "place"), pa.uint64()),
        "split": pa.uint8(),
        "weight": pa.float32(),
    }
)
# What the rows of a shard depend on; the join decides by the rest of the identity.
_SETTINGS = ("format", "source_column", "target_column", "template")
_PARTS = {
    "format": "the version of this package",
    "code": "the version of this package",
    "data": "the data files",
    "tokenizer": "the tokenizer",
    "function": "the function in data.format",
    "settings": "data.format, data.encoding, a column, the template or a language",
    "split": "training.seed or --strict",
}


def shards_beside(out: Path) -> Path:
    """The folder of the shards that are joined into ``out``."""
    return out.with_name(f"{out.name}.shards")


def identity_of_shard(identity: Identity) -> Identity:
    """What the rows of all shards depend on.

    Args:
        identity: of the prepared data.
    """
    settings = {key: identity["settings"].get(key) for key in (*_SETTINGS, *LANGUAGES)}
    _, _, seed, strict = identity["split"]
    return {**identity, "settings": settings, "split": [seed, strict]}


class ShardSpool(spooling.Spool):
    """The rows and keys of one shard, a record batch for each block of records."""

    def __init__(
        self, folder: Path, seed: int, tokens: Sequence[str], encoder: TextEncoder
    ) -> None:
        super().__init__(folder / ROWS, seed, tokens, schema=_ROWS)
        self._encoder, self._place = encoder, (0, 0)
        sink = self._open.enter_context(pa.OSFile(str(folder / KEYS), "wb"))
        self._key_writer = self._open.enter_context(pa.ipc.new_file(sink, _KEYS))
        self.batches_written: list[list[int]] = []

    def begin(self, place: tuple[int, int]) -> None:
        """Says of which split and block the next rows are."""
        if place != self._place:
            self.flush()
            self._place = place

    def _write(self, texts: Sequence[Sequence[str | None]], keys: Keys) -> None:
        sources, targets = (
            self._encoder([text or "" for text in side], kind)
            for side, kind in zip(texts[:2], ("text", "text_target"), strict=True)
        )
        self._writer.write_batch(pa.record_batch([*texts, sources, targets], schema=_ROWS))
        self._key_writer.write_batch(pa.record_batch([*vars(keys).values()], schema=_KEYS))
        self.batches_written.append([*self._place, len(keys)])


class ShardRejections(Rejections):
    """The rejected records of one shard, with the place of each in the order read."""

    place = (0, 0)

    def _line(self, item: Rejected) -> dict[str, Any]:
        return {**asdict(item), "at": self.place, "skipped": isinstance(item, Skipped)}


@dataclass(frozen=True)
class PreparedShard:
    """One shard of prepared data.

    Attributes:
        path: its folder.
        rows: counts: ``kept`` and ``rejected``.
        reused: whether it was complete already.
    """

    path: Path
    shard: Shard
    rows: dict[str, int]
    reused: bool

    def to_dict(self) -> dict[str, object]:
        """The object of ``prepare --shard --json``."""
        return {"out": str(self.path), "shard": self.shard.to_json(), "rows": self.rows}


def complete_shard(folder: Path, shard: Shard, identity: Identity) -> PreparedShard | None:
    """A shard that was made from the same data and settings; None if there is none."""
    if not has_manifest(folder):
        return None
    try:
        manifest = _opened(folder)
    except DataError:
        return None  # damaged or of another version: replaced
    if manifest.identity != identity or manifest.shard != shard.to_json():
        return None
    return PreparedShard(folder, shard, manifest.rows, reused=True)


def write_manifest(
    folder: Path,
    shard: Shard,
    identity: Identity,
    spool: ShardSpool,
    rejected: ShardRejections,
) -> dict[str, int]:
    """Writes the manifest of a shard whose files are written; returns its counts of rows."""
    rows = {"kept": spool.rows, "rejected": rejected.reasons.total()}
    content = {
        **dict(ShardManifest.version),
        "shard": shard.to_json(),
        "identity": identity,
        "files": described(folder / name for name in (ROWS, KEYS, REJECTED)),
        "rows": rows,
        "characters": spool.characters.to_json(),
        "batches": spool.batches_written,
    }
    write(folder, content)
    return rows


def _opened(folder: Path) -> ShardManifest:
    manifest = ShardManifest.read(folder)
    missing = next((name for name in (ROWS, KEYS, REJECTED) if name not in manifest.files), None)
    if missing:
        raise DataError(
            f"the manifest does not list {missing}", hint=manifest.hint, where=str(folder)
        )
    verify(folder, manifest.files, hint=manifest.hint)
    return manifest


class JoinedShards:
    """All shards of a data set as one spool, in the order in which one run reads the records.

    Args:
        folders: of all shards, in any order.
        where: the folder that they should be in, for messages.
        identity: see :func:`identity_of_shard`.

    Raises:
        DataError: a shard is missing, damaged, or made from other data or settings; or there are
            two sets.
    """

    tokenised = True

    def __init__(self, folders: Sequence[Path], where: str, identity: Identity) -> None:
        opened = [(path, _opened(path)) for path in folders]
        order = sorted(opened, key=lambda one: one[1].shard)
        _check_complete([Shard(*manifest.shard) for _, manifest in order], where)
        for path, manifest in order:
            _check_same(path, manifest, identity)
        self._folders, self._manifests = zip(*order, strict=True)
        self.characters = Characters()
        for manifest in self._manifests:
            self.characters.add_counts(manifest.characters)
        self.rows = self.characters.rows
        # The shard of each batch, in the order read.
        self._order = [
            (split, rows, index)
            for split, _, index, _, rows in sorted(
                (split, block, index, number, rows)
                for index, manifest in enumerate(self._manifests)
                for number, (split, block, rows) in enumerate(manifest.batches)
            )
        ]

    @property
    def size(self) -> int:
        """Bytes of the rows."""
        return sum(manifest.files[ROWS].bytes for manifest in self._manifests)

    def keys(self) -> Keys:
        """The keys of all rows, in the order read."""
        parts = [
            Keys(*(column.to_numpy() for column in batch.columns))
            for _, batch in self._in_order(KEYS, _KEYS)
        ]
        return joined(parts)

    def pieces(self) -> Iterator[pa.RecordBatch]:
        """Yields the rows block by block."""
        for _, batch in self._in_order(ROWS, _ROWS):
            yield batch

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yields the rows in the batches that one run's spool has."""
        yield from batched_as_spooled(self._in_order(ROWS, _ROWS))

    @property
    def splits(self) -> set[int]:
        """The splits whose files have a usable row."""
        return {split for split, _, _ in self._order}

    def rejected(self) -> Iterator[tuple[int, Rejected]]:
        """Yields the rejected records in the order read, each with its split."""
        items = heapq.merge(
            *(read_jsonl(path / REJECTED) for path in self._folders), key=lambda item: item["at"]
        )
        for item in items:
            kind = Skipped if item["skipped"] else Rejected
            yield item["at"][0], kind(item["file"], item["line"], item["reason"], item["text"])

    def close(self) -> None:
        """Keeps the shards until all is written."""

    def _in_order(self, name: str, schema: pa.Schema) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields each batch of the shards' files with its split."""
        parts = [_batches(path / name, schema) for path in self._folders]
        for split, rows, index in self._order:
            batch = next(parts[index], None)
            if batch is None or len(batch) != rows:
                raise DataError(
                    f"{name} does not have the rows that its manifest lists",
                    hint=ShardManifest.hint,
                    where=str(self._folders[index]),
                )
            yield split, batch


def batched_as_spooled(
    parts: Iterable[tuple[int, pa.RecordBatch]],
) -> Iterator[pa.RecordBatch]:
    """Yields rows in the batches in which a spool writes them: of one split, at most so many rows
    and characters.

    Args:
        parts: (split, rows) in the order read.
    """
    held: list[pa.RecordBatch] = []
    rows = characters = current = 0
    for split, part in parts:
        if split != current and held:
            yield _one(held)
            held, rows, characters = [], 0, 0
        current, lengths = split, _characters(part)
        while len(part):
            totals = characters + np.cumsum(lengths)
            over = int(np.searchsorted(totals, spooling.CHARACTERS, side="right")) + 1
            taken = min(len(part), spooling.ROWS - rows, over)
            held.append(part.slice(0, taken))
            rows, characters = rows + taken, int(totals[taken - 1])
            if rows == spooling.ROWS or characters > spooling.CHARACTERS:
                yield _one(held)
                held, rows, characters = [], 0, 0
            part, lengths = part.slice(taken), lengths[taken:]
    if held:
        yield _one(held)


def _characters(part: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """(rows,) the characters of source and target."""
    sources, targets = (pc.utf8_length(part[side]).to_numpy() for side in ("source", "target"))
    return np.asarray(sources.astype(np.int64) + targets)


def _one(held: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(held).combine_chunks().to_batches()[0]


def _batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    try:
        with pa.OSFile(str(path)) as file:
            reader = pa.ipc.open_file(file)
            if reader.schema != schema:
                raise pa.ArrowInvalid("other columns")
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                batch.validate(full=True)
                yield batch
    except pa.ArrowException as error:
        raise DataError(
            f"{path.name} is damaged: {error}", hint=ShardManifest.hint, where=str(path)
        ) from error


def shards_in(folder: Path) -> list[Path]:
    """The folders of the shards in a folder; an interrupted one is not among them."""
    return [path for path in folder.glob("?????-of-?????") if has_manifest(path)]


def _check_complete(shards: Sequence[Shard], where: str) -> None:
    """Checks that these are all shards, each once.

    Raises:
        DataError: one is missing, there are two sets, or none.
    """
    if not shards:
        raise DataError(
            f"{where} contains no shard",
            hint="make them first: lora-s2s prepare RECIPE --shard 1/4, and so on to 4/4",
        )
    counts = sorted({shard.count for shard in shards})
    if len(counts) > 1:
        listed = " and ".join(map(str, counts))
        raise DataError(
            f"{where} contains shards of different sets, of {listed}",
            hint="remove those of one set",
        )
    total = counts[0]
    missing = [one for n in range(1, total + 1) if (one := Shard(n, total)) not in shards]
    if missing:
        names = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        raise DataError(
            f"{where} lacks {counted(len(missing), 'shard')} of {total}: {names}",
            hint=f"make it: lora-s2s prepare RECIPE --shard {missing[0]}",
        )
    if len(shards) > total:
        twice = next(one for one, other in pairwise(shards) if one == other)
        raise DataError(f"{where} contains shard {twice} twice", hint="remove one of them")


def _check_same(path: Path, manifest: ShardManifest, expected: Identity) -> None:
    differing = [key for key in expected if manifest.identity.get(key) != expected[key]]
    if differing:
        shard = Shard(*manifest.shard)
        raise DataError(
            f"shard {shard} was made with something else than now: {_PARTS[differing[0]]} changed",
            hint=f"make it again: lora-s2s prepare RECIPE --shard {shard}",
            where=str(path),
        )
