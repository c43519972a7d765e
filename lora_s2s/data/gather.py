"""Reads the files of every split into the spool."""

from __future__ import annotations

from collections.abc import Callable

from lora_s2s.console import ProgressLine
from lora_s2s.data.rejections import Rejections
from lora_s2s.data.shards import JoinedShards
from lora_s2s.data.split import SPLITS, TRAIN
from lora_s2s.data.split_files import splits_named
from lora_s2s.data.spool import Spool
from lora_s2s.errors import DataError
from lora_s2s.examples.causes import Causes, hint_for
from lora_s2s.examples.example import Example
from lora_s2s.examples.read import Examples
from lora_s2s.examples.reading import Reading
from lora_s2s.examples.shard import Shard
from lora_s2s.readers.rows import Rejected, Skipped, reject
from lora_s2s.recipe.schema import DataSection


def gather(
    data: DataSection,
    spool: Spool,
    rejected: Rejections,
    *,
    seed: int,
    strict: bool,
    shard: Shard | None = None,
    begin: Callable[[tuple[int, int]], None] | None = None,
) -> Reading:
    """Reads every split into the spool; returns the reading of the training data.

    Args:
        shard: whose records to read; None reads all.
        begin: called with the split and block of each item, before it is added.
    """
    splits = splits_named(data)
    read = {split: Examples(data, split, seed=seed, shard=shard) for split in splits}
    with ProgressLine("read", short=True) as line:
        for split, examples in read.items():
            for item in examples:
                if begin is not None:
                    begin((SPLITS.index(split), examples.block))
                if isinstance(item, Example):
                    # As assigned by a split column or the JSON document.
                    marked = item.split or split
                    if marked == split or marked not in splits:
                        spool.add(item, SPLITS.index(marked))
                    else:
                        reason = f"row of the {marked} split, which has its own data"
                        rejected.add(reject(item.where, reason, item.source, fault=False))
                elif strict and not isinstance(item, Skipped):
                    raise _refused(item, others_are_right=spool.rows + spool.waiting > 0)
                else:
                    rejected.add(item)
                if not spool.waiting:
                    line.update({"split": split}, done=spool.rows, total=0)
            spool.flush()
    return read[SPLITS[TRAIN]].reading


def gather_joined(
    data: DataSection, shards: JoinedShards, rejected: Rejections, *, seed: int
) -> Reading:
    """Takes over the rejected records of all shards; returns the reading of the training data.

    Raises:
        DataError: a split has no usable row.
    """
    causes = {split: Causes() for split in SPLITS}
    for number, item in shards.rejected():
        rejected.add(item)
        causes[SPLITS[number]].add(item)
    read = {split: Examples(data, split, seed=seed) for split in splits_named(data)}
    for split, examples in read.items():
        if SPLITS.index(split) not in shards.splits:
            raise examples.nothing_usable(causes[split])
    return read[SPLITS[TRAIN]].decided()


def _refused(item: Rejected, *, others_are_right: bool) -> DataError:
    hint = hint_for(item, others_are_right=others_are_right) or "fix it"
    return DataError(
        f"a row cannot be used: {item.reason}",
        where=f"{item.file}:{item.line}",
        hint=f"{hint}; or omit --strict: such rows are then listed and dropped",
    )
