"""One shard of data files to a folder of its own; see :mod:`lora_s2s.data.shards`."""

from __future__ import annotations

from pathlib import Path

from lora_s2s.data.characters import BaseTokenizer
from lora_s2s.data.encode import rarely_collected
from lora_s2s.data.gather import gather
from lora_s2s.data.manifest import identity_of
from lora_s2s.data.shards import (
    REJECTED,
    PreparedShard,
    ShardRejections,
    ShardSpool,
    complete_shard,
    identity_of_shard,
    shards_beside,
    write_manifest,
)
from lora_s2s.data.split_files import with_split_files
from lora_s2s.examples.shard import Shard
from lora_s2s.outputs import whole_folder
from lora_s2s.recipe.schema import DataSection, ModelSection
from lora_s2s.tokens.encoder import encoder_of


def prepare_shard(
    data: DataSection,
    model: ModelSection,
    shard: Shard,
    *,
    out: Path,
    seed: int = 42,
    strict: bool = False,
) -> PreparedShard:
    """Reads and tokenises one shard of the data, or opens an existing one of the same data.

    Args:
        out: the folder that the shards are joined into; theirs are beside it.

    Raises:
        Error: see :func:`lora_s2s.data.prepare.prepare`.
    """
    data = with_split_files(data)
    identity = identity_of_shard(identity_of(data, model, seed=seed, previews=0, strict=strict))
    place = shards_beside(Path(out)) / shard.folder
    if (existing := complete_shard(place, shard, identity)) is not None:
        return existing
    base = BaseTokenizer.load(data, model)
    encoder = encoder_of(base.tokenizer)
    with whole_folder(place, replace=True) as folder, rarely_collected():
        with (
            ShardRejections(folder / REJECTED) as rejected,
            ShardSpool(folder, seed, base.added_tokens, encoder) as spool,
        ):

            def begin(of: tuple[int, int]) -> None:
                spool.begin(of)
                rejected.place = of

            gather(data, spool, rejected, seed=seed, strict=strict, shard=shard, begin=begin)
        rows = write_manifest(folder, shard, identity, spool, rejected)
    return PreparedShard(place, shard, rows, reused=False)
