"""``manifest.json`` of prepared data: its origin, for reuse, and settings for inference."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lora_s2s import __version__
from lora_s2s.console import warn
from lora_s2s.data.prepared import PreparedDataset, is_prepared, open_prepared
from lora_s2s.data.shards import Identity
from lora_s2s.data.split import SPLITS, TRAIN
from lora_s2s.data.split_files import splits_named, with_split_files
from lora_s2s.errors import DataError, SetupError, UsageError
from lora_s2s.examples.custom import user_function
from lora_s2s.examples.reading import Reading
from lora_s2s.examples.shapes import DIALOGUES
from lora_s2s.files import code_hash, described, sha256_file, sha256_json
from lora_s2s.readers.origins import find_origins
from lora_s2s.recipe.fields import AUTO
from lora_s2s.recipe.schema import DataSection, ModelSection
from lora_s2s.records import PreparedManifest
from lora_s2s.tokens.loading import LANGUAGES, languages_of, tokenizer_hash

_PACKAGES = ("readers", "examples", "tokens", "data")
_ROW_KEYS = ("format", "encoding", "source_column", "target_column", "template")
_LENGTH_KEYS = ("max_source_tokens", "max_target_tokens", "truncate_source", "long_targets")


def identity_of(
    data: DataSection, model: ModelSection, *, seed: int, previews: int, strict: bool
) -> Identity:
    """Everything that prepared data depends on."""
    modes = (data.lossless_text, data.special_tokens)
    keys = {*_ROW_KEYS, *_LENGTH_KEYS, *LANGUAGES}
    return {
        "format": dict(PreparedManifest.version)["format"],
        "code": code_hash(*_PACKAGES),
        "data": _contents(data),
        "tokenizer": tokenizer_hash(model.name, model.revision),
        "function": _function_hash(data.format),
        "settings": {**data.model_dump(include=keys), "modes": modes, "previews": previews},
        "split": [data.validation_fraction, data.max_rejected, seed, strict],
    }


def _contents(data: DataSection) -> dict[str, list[list[object]]]:
    """Hash and weight of each file, by split."""
    contents = {}
    for split in splits_named(data):
        origins = find_origins(data.named(split), parallel=data.format == "parallel")
        if split != SPLITS[TRAIN] and any(origin.weight > 1 for origin in origins):
            warn(
                f"data.{split}: a weight above 1 counts as 1; below 1 it is the fraction of rows "
                "to use"
            )
        contents[split] = [[origin.content_hash(), origin.weight] for origin in origins]
    return contents


def _function_hash(format: str) -> str:
    """A hash of the file with the user function, if the format is one."""
    if ":" not in format:
        return ""
    module = sys.modules.get(getattr(user_function(format), "__module__", ""))
    code = getattr(module, "__file__", None)
    return sha256_file(Path(code)) if code else ""


def with_chosen_limits(identity: Identity, limits: Mapping[str, Any]) -> Identity:
    """The identity with the values chosen for ``auto`` limits.

    Args:
        limits: from the report: ``tokens`` and ``by`` by key.
    """
    settings = dict(identity["settings"])
    for key, limit in limits.items():
        if settings[key] == AUTO and limit["by"] != "recipe":
            settings[key] = limit["tokens"]
    return {**identity, "settings": settings}


def reusable(out: Path, identity: Identity) -> PreparedDataset | None:
    """Opens the folder ``out`` if it was made from the same data and settings.

    Raises:
        UsageError: ``out`` is something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not is_prepared(out):
        hint = "choose another folder, or remove this one"
        raise UsageError(f"{out} exists and is not a folder of prepared data", hint=hint)
    try:
        existing = open_prepared(out, reused=True)
    except DataError:
        return None  # damaged or of another version: replaced
    expected = with_chosen_limits(identity, existing.manifest.report["limits"])
    return existing if existing.fingerprint == sha256_json(expected) else None


def made_from_same(existing: PreparedDataset, data: DataSection) -> bool:
    """Whether the section's files are unchanged since the folder was prepared."""
    try:
        contents = _contents(with_split_files(data))
    except (DataError, SetupError):
        return False
    return existing.manifest.identity.data == contents


def input_settings(data: DataSection, reading: Reading, tokens: list[str]) -> dict[str, object]:
    """Settings for building sources in inference: the chosen format, columns and limits.

    Args:
        tokens: added for lossless text.
    """
    return {
        "template": reading.template,
        "source_column": reading.source_column,
        "format": reading.format,
        "max_source_tokens": data.max_source_tokens,
        "max_target_tokens": data.max_target_tokens,
        "truncate_source": "left" if reading.format in DIALOGUES else data.truncate_source,
        **languages_of(data),
        "carried": tokens,
    }


def manifest_of(
    folder: Path,
    identity: Identity,
    settings: Mapping[str, Any],
    report: Mapping[str, Any],
    preview: list[Any],
) -> dict[str, object]:
    """The content of ``manifest.json``.

    Args:
        folder: has all other files of the prepared data.
        settings: see :func:`input_settings`.
        preview: sample pairs as the model sees them.
    """
    made_from = with_chosen_limits(identity, report["limits"])
    return {
        **dict(PreparedManifest.version),
        "version": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "fingerprint": sha256_json(made_from),
        "identity": made_from,
        "input": {**settings, "special_tokens": [*report["special_tokens"]["used"]]},
        "files": described(path for path in folder.iterdir() if path.name[0] != "."),
        "report": report,
        "preview": preview,
    }
