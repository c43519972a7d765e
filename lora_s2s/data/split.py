"""Splits by source, never by row: texts that share a source (or a conversation) stay on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def _place(source: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}\0{source}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_of(source: str, fraction: float, seed: int) -> str:
    """Returns ``validation`` for about ``fraction`` of all sources, else ``train``; rows added later move nothing."""
    return "validation" if _place(source, seed) < fraction else "train"


def validation_sources(sources: Iterable[str], fraction: float, seed: int) -> set[str]:
    """Returns the sources that go to validation: at least one and not all, where there are two and ``fraction`` > 0."""
    distinct = sorted(set(sources), key=lambda source: (_place(source, seed), source))
    if fraction <= 0 or len(distinct) < 2:
        return set()
    chosen = {source for source in distinct if split_of(source, fraction, seed) == "validation"}
    return (chosen or {distinct[0]}) - ({distinct[-1]} if len(chosen) == len(distinct) else set())
