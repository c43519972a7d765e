"""A shard of a recipe's data. Heavy to import."""

from __future__ import annotations

from pathlib import Path

from lora_s2s.console import counted
from lora_s2s.data.prepare_shard import prepare_shard
from lora_s2s.data.shards import PreparedShard
from lora_s2s.examples.shard import shard_of
from lora_s2s.pipeline.prepare import prepared_folder
from lora_s2s.recipe.schema import Recipe


def prepare_shard_of(
    recipe: Recipe, shard: str, out: Path | None = None, *, strict: bool = False
) -> PreparedShard:
    """Prepares one shard of a recipe's data, or opens it where it is complete.

    Args:
        shard: such as ``3/16``.
        out: the folder that the shards are joined into.
    """
    return prepare_shard(
        recipe.data,
        recipe.model,
        shard_of(shard),
        out=out or prepared_folder(recipe),
        seed=recipe.training.seed,
        strict=strict,
    )


def shard_lines(made: PreparedShard) -> list[str]:
    """What a shard has, and the command that joins all."""
    kept, rejected = (made.rows[key] for key in ("kept", "rejected"))
    left_out = f", {rejected:,} rejected" if rejected else ""
    before = ", as before" if made.reused else ""
    return [
        f"shard {made.shard}: {counted(kept, 'row')}{left_out} ({made.path}{before})",
        f"next, once all {made.shard.count} are made: the same command with --join",
    ]
