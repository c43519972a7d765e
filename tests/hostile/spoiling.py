"""Ways to spoil files: what a case of the tables does to the empty folder, or to a copy of
something good.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Spoil = Callable[[Path], object]


def file(name: str, content: bytes | str) -> Spoil:
    """Writes one file."""
    data = content.encode("utf-8") if isinstance(content, str) else content

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return write


def both(*spoils: Spoil) -> Spoil:
    """Does one after the other."""
    return lambda folder: [spoil(folder) for spoil in spoils]


def sparse(name: str, size: int, start: bytes = b"") -> Spoil:
    """A file of zeros that takes no room on the disk, after its first bytes."""

    def write(folder: Path) -> None:
        with (folder / name).open("wb") as stream:
            stream.write(start)
            stream.truncate(size)

    return write


def patched(name: str, **changes: Any) -> Spoil:
    """Changes keys of a JSON file; ``...`` takes one away."""

    def write(folder: Path) -> None:
        content = {**json.loads((folder / name).read_text()), **changes}
        (folder / name).write_text(
            json.dumps({key: value for key, value in content.items() if value is not ...})
        )

    return write


def deep(name: str, *keys: str, value: Any) -> Spoil:
    """Sets one value inside a JSON file."""

    def write(folder: Path) -> None:
        content = inner = json.loads((folder / name).read_text())
        for key in keys[:-1]:
            inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
        inner[keys[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return write


def removed(*names: str) -> Spoil:
    """Takes files away."""
    return lambda folder: [(folder / name).unlink() for name in names]


def renamed(old: str, new: str) -> Spoil:
    """Gives a file another name."""
    return lambda folder: (folder / old).rename(folder / new)


def linked(name: str, target: str) -> Spoil:
    """Puts a link in place of a file."""

    def write(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return write


def fifo(name: str) -> Spoil:
    """Puts a pipe that nobody writes into in place of a file."""

    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def tensors(name: str, change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Changes the header of a safetensors file, whose bytes of weights stay."""

    def write(folder: Path) -> None:
        content = (folder / name).read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        changed = change(header)
        text = changed if isinstance(changed, bytes) else json.dumps(header).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return write


def weights(name: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Changes the tensors of a safetensors file."""

    def write(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        state = load_file(folder / name)
        change(state)
        save_file(state, folder / name)

    return write


def cut(name: str, share: float) -> Spoil:
    """Keeps the beginning of a file."""

    def write(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return write


def packed(**members: str) -> bytes:
    """A zip of files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_", "."), text)
    return stream.getvalue()


def squeezed(text: bytes) -> bytes:
    """The bytes, gzipped."""
    return gzip.compress(text)


def spoilt_copy(good: Path, folder: Path, spoil: Spoil) -> Path:
    """Copies a good model or adapter to ``bad`` and spoils it there."""
    shutil.copytree(good, folder / "bad")
    spoil(folder / "bad")
    return folder / "bad"
