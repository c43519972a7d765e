"""Which files belong to which split. Light to import."""

from __future__ import annotations

from pathlib import Path

from lora_s2s.console import counted, say, warn
from lora_s2s.data.split import SPLITS, TRAIN
from lora_s2s.readers.origins import named_splits
from lora_s2s.recipe.schema import DataSection


def with_split_files(data: DataSection) -> DataSection:
    """The section with the files of each split, if a folder's file names assign them to splits."""
    if not isinstance(data.train, str) or data.validation or data.test:
        return data
    files = named_splits(data.train)
    others = files.pop("other", [])
    if len(files) < 2:
        return data
    listed = ", ".join(f"{split} {len(named)}" for split, named in files.items())
    say(f"{data.train}: splits by file names ({listed})")
    if others:
        names = f"{Path(others[0]).name}{', …' if len(others) > 1 else ''}"
        count = counted(len(others), "file")
        warn(f"{data.train}: {count} omitted, no split in the file name: {names}")
    return data.model_copy(update=files)


def splits_named(data: DataSection) -> list[str]:
    """``train``, and the other splits with their own files."""
    return [split for split in SPLITS if split == SPLITS[TRAIN] or data.named(split)]
