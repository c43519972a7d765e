"""What of a folder may be published: a list for each kind of folder, never all that lies in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from lora_s2s import limits
from lora_s2s.errors import DataError
from lora_s2s.hub import ADAPTER_CONFIG, EVALUATIONS, check_folder, foreign_weights
from lora_s2s.records import ModelManifest, has_manifest, manifest_content
from lora_s2s.reports.card import CARD

KindName = Literal["adapter", "model", "ct2", "onnx"]

_COMMON = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("*.model", "*.spm", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja"),
    *("config.json", "generation_config.json", ModelManifest.file, "LICENSE*", "NOTICE*"),
)
_RUN = ("adapter_config.json", "adapter_model.safetensors", "recipe.yaml", "metrics.jsonl")
_KINDS: Mapping[KindName, tuple[str, ...]] = {
    "adapter": (*_COMMON, *_RUN, "loss_curve.png", "evaluations/*/scores.json"),
    "model": (*_COMMON, "*.safetensors", "model.safetensors.index.json"),
    "ct2": (*_COMMON, "model.bin", "*_vocabulary.json", "*_vocabulary.txt"),
    "onnx": (*_COMMON, "*.onnx", "*.onnx_data", "onnx/*.onnx", "onnx/*.onnx_data"),
}
# These quote the data.
_EXAMPLES = ("report.html", "evaluations/*/predictions.jsonl")
_REASONS = {
    CARD: "a card for the repository is written in its place",
    "checkpoints/": "states of the run",
}
_QUOTES_DATA = "quotes the data; --examples uploads it"
# The manifest's format → the kind, of folders that `export` wrote.
_EXPORTS: Mapping[object, KindName] = {"ct2": "ct2", "onnx": "onnx"}


@dataclass(frozen=True)
class Publishable:
    """A folder's kind, the files that are published (name → path, bytes), and what is left out
    (name → reason).
    """

    kind: KindName
    files: Mapping[str, tuple[Path, int]]
    left_out: Mapping[str, str]


def publishable(folder: Path, *, examples: bool = False) -> Publishable:
    """Lists a folder without opening its files.

    Args:
        examples: publish what quotes the data, too.

    Raises:
        DataError: it is none of these kinds; a file that would be published is a link, not a
            regular file or too large; or its weights are missing.
    """
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}", hint="lora-s2s adapters")
    check_folder(folder)
    kind = _kind_of(folder)
    files: dict[str, tuple[Path, int]] = {}
    left_out: dict[str, str] = {}
    for name, path in _entries(folder, kind):
        if _matches(name, _KINDS[kind]) or (examples and _matches(name, _EXAMPLES)):
            files[name] = (path, _checked_size(path))
        elif _matches(name, _EXAMPLES):
            left_out[name] = _QUOTES_DATA
        else:
            left_out[name] = _REASONS.get(name, "not part of such a folder")
    if not any(name.endswith((".safetensors", ".onnx", "model.bin")) for name in files):
        raise DataError(
            f"{folder} holds no weights{foreign_weights(folder)}",
            hint="get the folder again, or train, merge or export again",
        )
    return Publishable(kind, files, left_out)


def _kind_of(folder: Path) -> KindName:
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    export = manifest_content(folder).get("export") if has_manifest(folder) else None
    format = export.get("format") if isinstance(export, Mapping) else None
    if isinstance(format, str) and format in _EXPORTS:
        return _EXPORTS[format]
    if (folder / "config.json").is_file():
        return "model"
    raise DataError(
        f"{folder} is neither an adapter, a model nor an export: it has no {ADAPTER_CONFIG}, "
        f"config.json or {ModelManifest.file} of an export",
        hint="lora-s2s adapters lists adapters",
    )


def _entries(folder: Path, kind: KindName) -> Iterator[tuple[str, Path]]:
    """Yields names with their paths; folders that hold nothing to publish as ``NAME/``."""
    inside = {"adapter": EVALUATIONS, "onnx": "onnx"}.get(kind)
    count = 0
    pending = [(folder, "")]
    while pending:
        place, prefix = pending.pop()
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            count += 1
            if count > limits.MOST_PUBLISHED:
                raise DataError(f"more than {limits.MOST_PUBLISHED:,} files", where=str(folder))
            name = f"{prefix}{entry.name}"
            top = name.partition("/")[0]
            if not entry.is_dir(follow_symlinks=False):
                yield name, Path(entry.path)
            elif top == inside and name.count("/") < 2:
                pending.append((Path(entry.path), f"{name}/"))
            else:
                yield f"{name}/", Path(entry.path)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(
        fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns
    )


def _checked_size(path: Path) -> int:
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        hint = "put the file itself there, if it is yours to publish"
        raise DataError(f"{path.name} is a link, so it is not uploaded", hint=hint, where=str(path))
    if not stat.S_ISREG(about.st_mode):
        problem = f"{path.name} is not a regular file, so it is not uploaded"
        raise DataError(problem, hint="remove it", where=str(path))
    if about.st_size > limits.LARGEST_PUBLISHED:
        most = limits.in_words(limits.LARGEST_PUBLISHED)
        raise DataError(
            f"{path.name} has more than {most}, more than the hub takes in one file",
            hint="write it in shards: lora-s2s export --format safetensors --max-shard-size 10GB",
            where=str(path),
        )
    return about.st_size
