"""A shard of the data: which records of the files one run of ``prepare --shard`` reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from lora_s2s import limits
from lora_s2s.errors import UsageError

# Blocks of records are dealt out in turn. Every shard parses all records, which takes a twentieth
# of the time of tokenising them, so nothing need be counted ahead, whatever the format of a file.
RECORDS = 1024
_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Shard:
    """Shard ``number`` (from 1) of ``count``."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def to_json(self) -> list[int]:
        """Number and count."""
        return [self.number, self.count]

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.number:05}-of-{self.count:05}"

    def owns(self, block: int) -> bool:
        """Whether a block of records is this shard's; each block is that of one shard."""
        return block % self.count == self.number - 1


def shard_of(text: str) -> Shard:
    """Parses ``3/16``, the third of sixteen shards.

    Raises:
        UsageError: it is not one.
    """
    match = _SHARD.fullmatch(text)
    shard = Shard(int(match[1]), int(match[2])) if match else Shard(0, 0)
    if not 1 <= shard.number <= shard.count <= limits.MOST_SHARDS:
        raise UsageError(
            f"invalid shard '{text}': expected N/COUNT from 1/COUNT to COUNT/COUNT, COUNT at most "
            f"{limits.MOST_SHARDS:,}",
            hint="the third of sixteen: 3/16",
        )
    return shard


class Blocks:
    """Numbers the records of a split in the order read, and passes those of a shard.

    Attributes:
        block: the block of the record that was passed last.
    """

    def __init__(self, shard: Shard | None) -> None:
        self._shard, self._records, self.block = shard, 0, 0

    def owned(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Yields the shard's items; all of them without a shard."""
        if self._shard is None:
            yield from items
            return
        for item in items:
            block, self._records = self._records // RECORDS, self._records + 1
            if self._shard.owns(block):
                self.block = block
                yield item
