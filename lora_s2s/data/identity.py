"""What a prepared folder is made from: the same data and settings are not prepared twice."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_s2s.console import counted, say, warn
from lora_s2s.data import prepared
from lora_s2s.data.prepared import PreparedDataset, open_prepared
from lora_s2s.data.split import SPLITS, TRAIN
from lora_s2s.errors import DataError, SetupError, UsageError
from lora_s2s.examples.custom import user_function
from lora_s2s.files import code_hash, sha256_file, sha256_json
from lora_s2s.readers.origins import find_origins, named_splits
from lora_s2s.recipe.fields import AUTO
from lora_s2s.recipe.schema import DataSection, ModelSection
from lora_s2s.records import PreparedManifest
from lora_s2s.tokens.loading import LANGUAGES, tokenizer_hash

_PACKAGES = ("readers", "examples", "tokens", "data")
_ROW_KEYS = ("format", "source_column", "target_column", "template")
_LENGTH_KEYS = ("max_source_tokens", "max_target_tokens", "truncate_source", "long_targets")

Identity = dict[str, Any]


def with_split_files(data: DataSection) -> DataSection:
    """Returns the section with the files of each split: a folder named alone may hold all of them,
    by its files' names.
    """
    if not isinstance(data.train, str) or data.validation or data.test:
        return data
    files = named_splits(data.train)
    others = files.pop("other", [])
    if len(files) < 2:
        return data
    listed = ", ".join(f"{split} {len(named)}" for split, named in files.items())
    say(f"{data.train}: the files' names tell the splits ({listed})")
    if others:
        names = f"{Path(others[0]).name}{', …' if len(others) > 1 else ''}"
        count = counted(len(others), "file")
        warn(f"{data.train}: {count} left out, no split in the name: {names}")
    return data.model_copy(update=files)


def splits_named(data: DataSection) -> list[str]:
    """Returns train, and the other splits that have files of their own."""
    return [split for split in SPLITS if split == SPLITS[TRAIN] or data.named(split)]


def identity_of(
    data: DataSection, model: ModelSection, *, seed: int, previews: int, strict: bool
) -> Identity:
    """Returns all that a prepared folder depends on."""
    modes = (data.lossless_text, data.special_tokens)
    keys = {*_ROW_KEYS, *_LENGTH_KEYS, *LANGUAGES}
    return {
        "format": PreparedManifest.version["format"],
        "code": code_hash(*_PACKAGES),
        "data": _contents(data),
        "tokenizer": tokenizer_hash(model.name, model.revision),
        "function": _function_hash(data.format),
        "settings": {**data.model_dump(include=keys), "modes": modes, "previews": previews},
        "split": [data.validation_fraction, data.max_rejected, seed, strict],
    }


def _contents(data: DataSection) -> dict[str, Any]:
    """Returns a hash and a weight for each file of each split."""
    contents = {}
    for split in splits_named(data):
        origins = find_origins(data.named(split), parallel=data.format == "parallel")
        if split != SPLITS[TRAIN] and any(origin.weight > 1 for origin in origins):
            warn(
                f"data.{split}: a weight above 1 counts as 1; below 1 it is the share of the rows "
                "that are taken"
            )
        contents[split] = [[origin.content_hash(), origin.weight] for origin in origins]
    return contents


def _function_hash(format: str) -> str:
    """Returns a hash of the file that holds the user's own function, if the format is one."""
    if ":" not in format:
        return ""
    module = sys.modules.get(getattr(user_function(format), "__module__", ""))
    code = getattr(module, "__file__", None)
    return sha256_file(Path(code)) if code else ""


def with_chosen_limits(identity: Identity, limits: Mapping[str, Any]) -> Identity:
    """Returns the identity with the numbers chosen for limits that are ``auto``.

    Args:
        limits: the report's: key → ``tokens`` and ``by``.
    """
    settings = dict(identity["settings"])
    for key, limit in limits.items():
        if settings[key] == AUTO and limit["by"] != "recipe":
            settings[key] = limit["tokens"]
    return {**identity, "settings": settings}


def reusable(out: Path, identity: Identity) -> PreparedDataset | None:
    """Opens the folder at ``out`` where it was made from the same data and settings.

    Raises:
        UsageError: something else is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not prepared.is_prepared(out):
        hint = "choose another folder, or remove this one"
        raise UsageError(f"{out} exists and is not a folder of prepared data", hint=hint)
    try:
        existing = open_prepared(out, reused=True)
    except DataError:
        return None  # damaged or of another version: made again, in its place
    expected = with_chosen_limits(identity, existing.manifest.report["limits"])
    return existing if existing.fingerprint == sha256_json(expected) else None


def made_from_same(existing: PreparedDataset, data: DataSection) -> bool:
    """Whether the section's files still hold what a folder was prepared from."""
    try:
        contents = _contents(with_split_files(data))
    except (DataError, SetupError):
        return False
    return existing.manifest.identity.data == contents
