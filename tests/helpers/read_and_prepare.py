"""Files read and prepared with a recipe's settings as keywords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_s2s.data import prepare as preparing
from lora_s2s.data import prepare_shard as shard_preparing
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.data.shards import PreparedShard, shards_beside, shards_in
from lora_s2s.examples.read import Examples
from lora_s2s.examples.reading import Reading
from lora_s2s.examples.shard import shard_of
from lora_s2s.recipe.schema import DataSection, ModelSection


def read_examples(paths: Any, *, split: str = "train", seed: int = 0, **settings: Any) -> Examples:
    """The examples of files; keywords are keys of ``data``."""
    data = DataSection(**{"train": paths, split: paths, **settings})
    return Examples(data, split, seed=seed)


def how_read(paths: Any, **settings: Any) -> Reading:
    """How files are read, decided on their first rows."""
    examples = read_examples(paths, **settings)
    for _ in examples:
        pass
    return examples.reading


def _sections(
    settings: dict[str, Any], train: Any, name: str, revision: str | None
) -> tuple[DataSection, ModelSection]:
    keys = DataSection.model_fields.keys() & settings
    data = DataSection(train=train, **{key: settings.pop(key) for key in keys})
    return data, ModelSection(name=name, revision=revision)


def prepare(
    *, train: Any, model_name: str = "demo", revision: str | None = None, **settings: Any
) -> PreparedDataset:
    """A prepared folder; keywords are keys of ``data``, or those of ``prepare``.

    ``join``: of the shards that :func:`prepare_shard` made.
    """
    data, model = _sections(settings, train, model_name, revision)
    out = Path(settings.pop("out"))
    shards = shards_in(shards_beside(out)) if settings.pop("join", False) else None
    return preparing.prepare(data, model, out=out, shards=shards, **settings)


def prepare_shard(
    shard: str, *, train: Any, model_name: str = "demo", **settings: Any
) -> PreparedShard:
    """A shard such as ``1/4``; keywords as for :func:`prepare`."""
    data, model = _sections(settings, train, model_name, None)
    out = Path(settings.pop("out"))
    return shard_preparing.prepare_shard(data, model, shard_of(shard), out=out, **settings)
