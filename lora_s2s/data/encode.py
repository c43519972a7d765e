"""Rows of the spool to features, in one process or several: each takes a record batch and gives
back record batches.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from lora_s2s.data.prepared import KeptRow, record_batch
from lora_s2s.data.split import REASONS, SPLITS, Decisions
from lora_s2s.data.spool import places
from lora_s2s.data.survey import SIDES, Tally
from lora_s2s.errors import ResourceError
from lora_s2s.examples.conversations import fit_turns
from lora_s2s.readers.rows import Rejected, reject
from lora_s2s.tokens.tokenise import FastEncoder, Frames, Ids, TextEncoder, features_of

# A process takes seconds to start: what fewer rows take in one.
ROWS_FOR_PROCESSES = 200_000
_MOST_PROCESSES = 16
_COLLECT_AFTER = (500_000, 50, 50)
Job: TypeAlias = tuple[int, Any, Any]  # a record batch's number, its rows' codes and copies
_FORM = f"{string.punctuation}{string.whitespace}".encode()


@dataclass(frozen=True)
class Encoding:
    """All that turns texts into features; it goes to other processes.

    Attributes:
        limits: the keywords of :func:`lora_s2s.tokens.tokenise.features_of`.
        classes: whether targets are counted.
    """

    encoder: TextEncoder
    frames: Frames
    unknown_id: int
    limits: Mapping[str, Any]
    classes: bool

    def limits_of(self, split: str, dialogue: bool) -> dict[str, Any]:
        """Returns the limits of a row: a score covers every test row, and a dialogue's newest turns
        are kept.
        """
        limits = dict(self.limits)
        if split == "test":
            limits["long_targets"] = "keep"
            limits["truncate_source"] = (
                "right" if limits["truncate_source"] == "drop" else limits["truncate_source"]
            )
        if dialogue and limits["truncate_source"] == "right":
            limits["truncate_source"] = "left"
        return limits

    def fitted(self, text: str, ids: list[int], turns: str) -> tuple[str, list[int]]:
        """Returns a dialogue cut at whole turns, as text and ids, where it is too long."""
        room = self.limits["max_source_tokens"] - len(self.frames.source)
        if len(ids) <= room or self.limits["truncate_source"] == "drop":
            return text, ids
        spoken, template = json.loads(turns)
        made: dict[str, list[int]] = {}

        def fits(shorter: str) -> bool:
            made[shorter] = self.encoder([shorter], "text")[0]
            return bool(len(made[shorter]) <= room)

        fitted = fit_turns(spoken, template, fits)
        return fitted, made.get(fitted) or self.encoder([fitted], "text")[0]


@dataclass(frozen=True)
class Encoded:
    """A batch's outcome: a record batch (as Arrow writes it) for each split, what was left out,
    what was counted.
    """

    splits: dict[str, tuple[bytes, int]]
    rejected: list[Rejected]
    tally: Tally
    rows: int


def encode_spool(
    path: Path, decisions: Decisions, encoding: Encoding, *, processes: int | None = None
) -> Iterator[Encoded]:
    """Yields what becomes of every record batch of a spool, in order.

    Args:
        processes: how many work at once; None takes as many as there are cores where the rows are
            worth it.

    Raises:
        ResourceError: one of them was ended from outside.
    """
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    slices = places(reader)
    fast = isinstance(encoding.encoder, FastEncoder)
    count = (processes or _processes(len(decisions.code))) if fast else 1
    jobs = [
        (index, decisions.code[rows], decisions.copies[rows]) for index, rows in enumerate(slices)
    ]
    if count == 1:
        yield from (
            encode_batch(reader.get_batch(index), codes, copies, encoding)
            for index, codes, copies in jobs
        )
        return
    with ExitStack() as started:
        # Each has a pipe of its own and every so manieth batch: it waits while what it sent has not
        # been taken.
        pipes = [
            started.enter_context(_process(path, encoding, jobs[first::count]))
            for first in range(count)
        ]
        for index in range(len(jobs)):
            try:
                yield pipes[index % count].recv()
            except EOFError as error:
                hint = "free some memory, or prepare on a machine that has more"
                message = "a process that tokenises was ended, as happens where memory runs out"
                raise ResourceError(message, hint=hint) from error


@contextmanager
def _process(path: Path, encoding: Encoding, jobs: Sequence[Job]) -> Iterator[Connection]:
    """Yields where the outcomes of some jobs come from, in order; the process ends with the block
    at the latest.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_encode, args=(sender, str(path), encoding, jobs), daemon=True)
    process.start()
    sender.close()  # the process has its own: when that closes, the pipe ends
    try:
        yield receiver
    finally:
        receiver.close()
        process.terminate()
        process.join()


def _encode(sender: Connection, path: str, encoding: Encoding, jobs: Sequence[Job]) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # whoever started it is interrupted too, and ends it
    gc.set_threshold(*_COLLECT_AFTER)
    reader = pa.ipc.open_file(pa.memory_map(path))
    for index, codes, copies in jobs:
        sender.send(encode_batch(reader.get_batch(index), codes, copies, encoding))


def _processes(rows: int) -> int:
    available = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(available, _MOST_PROCESSES) if rows >= ROWS_FOR_PROCESSES else 1


@contextmanager
def rarely_collected() -> Iterator[None]:
    """While entered, Python looks for cycles seldom: rows hold none, and looking took a third of
    the time.
    """
    usual = gc.get_threshold()
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


class _Row(NamedTuple):
    """One row of the spool, and what was decided about it."""

    source: str
    target: str
    where: str
    turns: str | None
    code: int
    copies: int


def encode_batch(batch: Any, codes: Any, copies: Any, encoding: Encoding) -> Encoded:
    """Tokenises a record batch of the spool, every different text once.

    Args:
        codes, copies: (rows,) what was decided about each; see
        :class:`lora_s2s.data.split.Decisions`.
    """
    rows = [*map(_Row, *batch.to_pydict().values(), codes.tolist(), copies.tolist())]
    live = [row for row in rows if row.code not in REASONS]
    left_out = [
        reject(row.where, REASONS[row.code], row.source) for row in rows if row.code in REASONS
    ]
    outcome = _Outcome(encoding, left_out)
    sources = _by_text([row.source for row in live], encoding.encoder, "text")
    targets = _by_text([row.target for row in live], encoding.encoder, "text_target")
    for row, source, target in zip(live, sources, targets, strict=True):
        outcome.take(row, source, target)
    return outcome.encoded(len(rows))


def _by_text(texts: Sequence[str], encoder: TextEncoder, side: str) -> list[list[int]]:
    distinct = list(dict.fromkeys(texts))
    encoded = encoder(distinct, side)
    if len(distinct) == len(texts):
        return encoded
    known = dict(zip(distinct, encoded, strict=True))
    return [known[text] for text in texts]


class _Outcome:
    """What a batch's rows become, row by row."""

    def __init__(self, encoding: Encoding, rejected: list[Rejected]) -> None:
        self._encoding, self._rejected = encoding, rejected
        self._kept: dict[str, list[KeptRow]] = {split: [] for split in SPLITS}
        self._lengths: dict[str, list[int]] = {side: [] for side in SIDES}
        self._alike: list[int] = []
        self._forms: dict[str, list[int]] = {"train": [], "held": []}
        self._tally = Tally()
        frames, limits = encoding.frames, encoding.limits
        self._rooms = (
            limits["max_source_tokens"] - len(frames.source),
            limits["max_target_tokens"] - len(frames.target),
        )

    def take(self, row: _Row, source: list[int], target: list[int]) -> None:
        """Takes one row with the ids of its texts, nothing cut yet."""
        self._lengths["source"].append(len(source))
        self._lengths["target"].append(len(target))
        most_source, most_target = self._rooms
        if 0 < len(source) <= most_source and 0 < len(target) <= most_target:  # nearly every row
            frames = self._encoding.frames
            self._keep(row, row.source, frames.source.around(source), frames.target.around(target))
        else:
            self._cut(row, source, target)

    def _cut(self, row: _Row, source: list[int], target: list[int]) -> None:
        encoding, split, text = self._encoding, SPLITS[row.code], row.source
        if row.turns is not None:
            text, source = encoding.fitted(row.source, source, row.turns)
        features = features_of(
            source, target, encoding.frames, **encoding.limits_of(split, row.turns is not None)
        )
        if isinstance(features, str):
            self._rejected.append(reject(row.where, features, row.target))
            return
        self._tally.truncated["source"] += features.source_truncated or text != row.source
        self._tally.truncated["target"] += features.target_truncated
        self._keep(row, text, features.input_ids, features.labels)

    def _keep(self, row: _Row, text: str, input_ids: Ids, labels: Ids) -> None:
        split = SPLITS[row.code]
        kept = KeptRow(input_ids, labels, text, row.target, row.where)
        self._kept[split] += [kept] if row.copies == 1 else [kept] * row.copies
        source_form, pair_form = _without_form(row)
        self._alike.append(pair_form)
        self._forms["train" if split == "train" else "held"].append(source_form)
        self._tally.copied += row.target in text
        self._tally.identical += row.target == row.source
        if self._encoding.classes and split == "train":
            self._tally.classes[row.target] += row.copies

    def encoded(self, rows: int) -> Encoded:
        """Returns what became of all rows."""
        tally, frames = self._tally, self._encoding.frames
        for side in SIDES:
            tally.lengths[side] = np.bincount(
                np.array(self._lengths[side], int) + len(getattr(frames, side))
            )
        tally.alike = [np.array(self._alike, np.uint64)]
        tally.forms = {side: [np.array(forms, np.uint64)] for side, forms in self._forms.items()}
        tally.kept = len(self._alike)
        splits = {}
        for split, kept in self._kept.items():
            if kept:
                batch = record_batch(kept)
                splits[split] = (batch.serialize().to_pybytes(), len(kept))
                for side, column in zip(SIDES, batch.columns[:2], strict=True):
                    ids = column.values.to_numpy()
                    tally.tokens[side] += len(ids)
                    tally.unknown[side] += int((ids == self._encoding.unknown_id).sum())
        return Encoded(splits, self._rejected, tally, rows)


def _without_form(row: _Row) -> tuple[int, int]:
    """Returns hashes of a row's source and of its pair without their case, spaces and (ASCII)
    punctuation.
    """
    source = row.source.casefold().encode().translate(None, _FORM)
    pair = source + b"\0" + row.target.casefold().encode().translate(None, _FORM)
    return _number(source), _number(pair)


def _number(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
