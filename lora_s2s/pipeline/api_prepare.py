"""``lora_s2s.prepare``; see :mod:`lora_s2s.pipeline.api`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, overload

from lora_s2s.display import Display
from lora_s2s.errors import UsageError
from lora_s2s.pipeline.names import optional_path
from lora_s2s.pipeline.recipes import AnyRecipe, Name, recipe_with_data
from lora_s2s.pipeline.surroundings import called
from lora_s2s.remote import is_url

if TYPE_CHECKING:
    from lora_s2s.data.shards import PreparedShard
    from lora_s2s.pipeline.prepare import PreparedData


@overload
def prepare(
    recipe: AnyRecipe,
    out: Name | None = None,
    *,
    previews: int = 3,
    strict: bool = False,
    join: bool = False,
    overrides: Mapping[str, object] | None = None,
    progress: bool | Display = True,
) -> PreparedData:
    """All data."""


@overload
def prepare(
    recipe: AnyRecipe,
    out: Name | None = None,
    *,
    shard: str,
    strict: bool = False,
    overrides: Mapping[str, object] | None = None,
    progress: bool | Display = True,
) -> PreparedShard:
    """One shard of it."""


def prepare(
    recipe: AnyRecipe,
    out: Name | None = None,
    *,
    previews: int = 3,
    strict: bool = False,
    shard: str | None = None,
    join: bool = False,
    overrides: Mapping[str, object] | None = None,
    progress: bool | Display = True,
) -> PreparedData | PreparedShard:
    """Reads, checks, splits and tokenises a recipe's data; what an earlier call made of the same
    data and settings is taken as it is.

    >>> import lora_s2s
    >>> rows = {"data.train": "demo:validation", "data.validation": "demo:test"}
    >>> recipe = lora_s2s.load_recipe("demo", rows)
    >>> data = lora_s2s.prepare(recipe, progress=False)
    >>> sorted(data.splits)
    ['test', 'train', 'validation']
    >>> data.report["rows"]["rejected"]
    0

    In shards, in any order and on several machines; the join is the folder of one run:

    >>> parts = ["1/2", "2/2"]
    >>> made = [lora_s2s.prepare(recipe, "parts", shard=one, progress=False) for one in parts]
    >>> joined = lora_s2s.prepare(recipe, "parts", join=True, progress=False)
    >>> joined.splits == data.splits
    True

    Args:
        recipe: what :func:`load_recipe` takes or returns.
        out: the folder, or a URL such as ``s3://bucket/prepared``; ``prepared/NAME`` by default.
        previews: how many pairs are kept to be shown.
        strict: stop at the first row that cannot be used.
        shard: prepare one of several parts: ``3/16`` is the third of 16.
        join: join all shards of ``out`` into the folder that one run writes.
        overrides: keys such as ``data.template`` and their values.
        progress: False shows nothing; or an object like :class:`lora_s2s.display.Display`.

    Raises:
        Error: as the command ends.
    """
    with called(progress):
        from lora_s2s.pipeline.prepare import PreparedData
        from lora_s2s.pipeline.shards import prepare_shard_to, prepare_to

        loaded, folder = recipe_with_data(recipe, overrides), optional_path("out", out)
        if shard is not None:
            if join:
                raise UsageError("shard and join exclude each other", hint="give one of them")
            return prepare_shard_to(loaded, str(shard), folder, strict=strict)
        made = prepare_to(loaded, folder, previews=previews, strict=strict, join=join)
        uploaded = {"out": folder} if folder and is_url(folder) else {}
        return PreparedData(made.path, {**made.report, **uploaded}, made.preview)
