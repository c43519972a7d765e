"""What answers depend on, for a run that continues and for processes that answer together."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from lora_s2s import __version__
from lora_s2s.files import sha256_file

_HASHED = 1 << 28  # bytes of a file whose content is compared between processes


def answers_identity(
    model: str, content: object, settings: Mapping[str, object]
) -> dict[str, object]:
    """Returns what answers of a model to some content depend on."""
    stats = [(path.name, path.stat()) for path in _files_of(model)]
    weights = [[name, about.st_size, about.st_mtime_ns] for name, about in stats]
    return {
        "input": content,
        "model": [model, weights],
        "decoding": {key: value for key, value in settings.items() if key != "batch_tokens"},
    }


def same_everywhere(identity: Mapping[str, object], model: str) -> dict[str, object]:
    """Returns what answers depend on, for a comparison of machines: large files by their sizes,
    small ones by their content, and the versions of libraries.
    """
    sizes = [(path, path.stat().st_size) for path in _files_of(model)]
    files = [
        [path.name, size, sha256_file(path) if size <= _HASHED else ""] for path, size in sizes
    ]
    versions = [__version__, *map(version, ("torch", "transformers", "peft"))]
    return {**identity, "model": files, "versions": versions}


def _files_of(model: str) -> list[Path]:
    """The files that a model's answers depend on: scores, card and report of an adapter change when
    it is scored.
    """
    folder = Path(model).expanduser()
    files = sorted([*folder.glob("*"), *folder.glob("onnx/*")])
    endings = (".safetensors", ".bin", ".onnx", "config.json")
    return [path for path in files if path.is_file() and path.name.endswith(endings)]
