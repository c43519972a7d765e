"""A recipe's data in shards, and prepared data in object storage. Heavy to import."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from lora_s2s.console import counted, say
from lora_s2s.data.prepare_shard import prepare_shard
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.data.shards import PreparedShard, shards_beside, shards_in
from lora_s2s.errors import UsageError
from lora_s2s.examples.shard import shard_of
from lora_s2s.files import loads
from lora_s2s.outputs import whole_folder
from lora_s2s.pipeline.names import fetched
from lora_s2s.pipeline.prepare import prepare_data
from lora_s2s.pipeline.recipes import prepared_folder
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import PreparedManifest, ShardManifest
from lora_s2s.remote import is_url, listed, small_file, upload_folder

_OURS = (PreparedManifest, ShardManifest)


def prepare_to(
    recipe: Recipe, out: str | None, *, previews: int, strict: bool, join: bool
) -> PreparedDataset:
    """Prepares a recipe's data into a folder, which is uploaded where a URL is given.

    Args:
        out: a folder or URL; ``prepared/NAME`` by default, and beside an upload.
        previews, strict: see :func:`lora_s2s.data.prepare.prepare`.
        join: take the rows from the shards beside ``out``; those of a folder are then removed.
    """
    url = out if out is not None and is_url(out) else None
    folder = prepared_folder(recipe) if out is None or url else Path(out)
    shards = None
    if join:
        shards = _fetched_shards(url) if url else shards_in(shards_beside(folder))
    prepared = prepare_data(recipe, folder, previews=previews, strict=strict, shards=shards)
    if url:
        _upload(prepared.path, url)
    if join:
        shutil.rmtree(shards_beside(folder), ignore_errors=True)
    return prepared


def prepare_shard_to(recipe: Recipe, shard: str, out: str | None, *, strict: bool) -> PreparedShard:
    """Prepares one shard of a recipe's data, or opens it where it is complete.

    Args:
        shard: such as ``3/16``.
        out: the folder or URL that the shards are joined into.
    """
    url = out if out is not None and is_url(out) else None
    folder = prepared_folder(recipe) if out is None or url else Path(out)
    part = shard_of(shard)
    place = shards_beside(folder) / part.folder
    if url and not place.exists():
        _fetch_complete(f"{_shards_of(url)}/{part.folder}", place)
    made = prepare_shard(
        recipe.data, recipe.model, part, out=folder, seed=recipe.training.seed, strict=strict
    )
    if url:
        _upload(made.path, f"{_shards_of(url)}/{part.folder}")
    return made


def shard_lines(made: PreparedShard) -> list[str]:
    """What a shard has, and the command that joins all."""
    kept, count = (made.rows[key] for key in ("kept", "rejected"))
    dropped = f", {count:,} dropped" if count else ""
    before = ", as before" if made.reused else ""
    return [
        f"shard {made.shard}: {counted(kept, 'row')}{dropped} ({made.path}{before})",
        f"next, once all {made.shard.count} are made: the same command with --join",
    ]


def _shards_of(url: str) -> str:
    return f"{url.rstrip('/')}.shards"


def _fetched_shards(url: str) -> list[Path]:
    manifests = listed(f"{_shards_of(url)}/*/{ShardManifest.file}")
    return [fetched(name.rpartition("/")[0]) for name in manifests]


def _fetch_complete(url: str, place: Path) -> None:
    """Copies a shard that an earlier machine uploaded, so that it is compared, not made again."""
    if small_file(f"{url}/{ShardManifest.file}") is not None:
        with whole_folder(place) as staged:
            shutil.copytree(fetched(url), staged, dirs_exist_ok=True)


def _upload(folder: Path, url: str) -> None:
    """Uploads a folder, in place of an earlier one of its kind.

    Raises:
        UsageError: something else is there.
    """
    manifest = PreparedManifest.file
    present = small_file(f"{url.rstrip('/')}/{manifest}")
    if present == (folder / manifest).read_bytes():
        say(f"{url}: as before")
        return
    if present is not None and _kind(present) not in [dict(one.version)["kind"] for one in _OURS]:
        raise UsageError(
            f"{url} exists and is not a folder of prepared data", hint="choose another name"
        )
    files: Mapping[str, bytes | Path] = {
        path.name: path for path in folder.iterdir() if path.is_file() and path.name[0] != "."
    }
    upload_folder(files, url, manifest=manifest, overwrite=True)
    say(f"uploaded: {url}")


def _kind(manifest: bytes) -> object:
    try:
        content = loads(manifest.decode())
    except (ValueError, RecursionError):
        return None
    return content.get("kind") if isinstance(content, dict) else None
