"""Data prepared, and texts answered, by the workers of a Ray cluster. Heavy to import; needs ray.

Nothing here is decided anew: the workers make the shards that ``prepare --shard`` makes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lora_s2s.console import ProgressLine
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.errors import Error, RunError, SetupError, extra
from lora_s2s.pipeline.model import open_model
from lora_s2s.pipeline.names import located
from lora_s2s.pipeline.shards import prepare_shard_to, prepare_to
from lora_s2s.pipeline.surroundings import called
from lora_s2s.recipe.schema import Recipe


def prepare_on_ray(
    recipe: Recipe, shards: int, out: str | None, *, previews: int = 3, strict: bool = False
) -> PreparedDataset:
    """Prepares a recipe's data in shards on a cluster, and joins them in this process.

    Starts a cluster of this machine unless ``RAY_ADDRESS`` names one, whose workers must see the
    same files, model and output folder. Shards that are complete are not made again.

    Args:
        shards: how many tasks.
        out, previews, strict: see :func:`lora_s2s.pipeline.shards.prepare_to`.

    Raises:
        SetupError: ray is not installed, or no cluster can be reached.
        Error: what a shard or the join raises.
    """
    with _cluster() as ray, ProgressLine("shards") as line:
        make = ray.remote(_make_shard)
        given = recipe.model_dump(mode="json")
        numbers = range(1, shards + 1)
        left = [
            make.remote(given, f"{number}/{shards}", out, strict, os.getcwd()) for number in numbers
        ]
        while left:
            ready, left = ray.wait(left)
            ray.get(ready)
            line.update({}, done=shards - len(left), total=shards)
    return prepare_to(recipe, out, previews=previews, strict=strict, join=True)


def _make_shard(
    recipe: Mapping[str, Any], shard: str, out: str | None, strict: bool, folder: str
) -> None:
    os.chdir(folder)  # where the recipe's paths begin
    with called(progress=False):
        prepare_shard_to(Recipe.model_validate(recipe), shard, out, strict=strict)


class Answers:
    """Adds a model's answers to the rows of a Ray dataset, as the column ``prediction``.

    Each worker loads the model once:

        dataset.map_batches(
            Answers, fn_constructor_args=("adapters/x",), compute=ActorPoolStrategy(size=2)
        )

    Args:
        model: see :func:`lora_s2s.load`.
        column: the column of sources; by default the rows are read as ``predict --input`` does.
        base, overrides: see :func:`lora_s2s.load`.
    """

    def __init__(
        self,
        model: str,
        *,
        column: str | None = None,
        base: str | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> None:
        with called(progress=False):
            self._model = open_model(
                located(model), base=base, overrides=overrides or {}, progress=False
            )
        self._column = column

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answers a batch: columns of one length, as arrays."""
        values = [column.tolist() for column in batch.values()]
        rows = [dict(zip(batch, row, strict=True)) for row in zip(*values, strict=True)]
        asked = rows if self._column is None else [row[self._column] for row in rows]
        return {**batch, "prediction": self._model(asked)}


@contextmanager
def _cluster() -> Iterator[Any]:
    """Yields ray, connected; its failures become errors with the next command."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    with extra("ray"):
        import ray
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False)
        except (ConnectionError, OSError, RuntimeError) as error:
            raise SetupError(
                f"cannot reach a Ray cluster: {str(error)[:200]}",
                hint="check RAY_ADDRESS; without it, a cluster of this machine is started",
            ) from error
    try:
        yield ray
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Error):
            raise error.cause from None
        raise RunError(f"a Ray task failed: {error.cause!r:.300}") from error
    except ray.exceptions.RayError as error:
        raise RunError(
            f"a Ray worker ended: {str(error)[:200]}",
            hint="run it again: shards that are complete are kept",
        ) from error
