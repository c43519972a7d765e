"""A file layer that fails: the N-th operation that changes a file below a folder ends with ENOSPC
or EIO, or half done.

Kinds: ``enospc`` and ``eio`` fail one operation, ``torn`` writes half and then fails with EIO,
``full`` is a disk that is full from the N-th operation on. Only what Python itself does is seen,
and safetensors' writing of a file.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("enospc", "eio", "torn", "full")
VARIABLE = "LORA_S2S_TEST_FAULT"

_real_open, _real_fdopen = io.open, os.fdopen


class Layer:
    """Counts operations below ``root``; number ``at`` fails, none where it is 0."""

    def __init__(self, root: str, at: int, kind: str, log: str) -> None:
        self.root, self.at, self.kind, self.log = os.path.realpath(root), at, kind, log
        self.count = 0

    def concerns(self, path: object) -> bool:
        name = os.path.realpath(os.fspath(path))  # type: ignore[call-overload]
        return isinstance(name, str) and name.startswith(self.root + os.sep) and name != self.log

    def due(self, what: str, path: object) -> OSError | None:
        """Counts an operation; the error to end it with, if it is its turn."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if not self.concerns(path):
            return None
        self.count += 1
        if self.log:
            with _real_open(self.log, "a", encoding="utf-8") as log:
                log.write(f"{self.count} {what} {path}\n")
        fails = self.count == self.at or (self.kind == "full" and 0 < self.at <= self.count)
        code = errno.ENOSPC if self.kind in ("enospc", "full") else errno.EIO
        named = str(path) if what in ("open", "mkdir", "rename") else None  # as the system does
        return OSError(code, os.strerror(code), named) if fails else None

    def call(self, what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a function of ``os`` whose first argument is a path or a descriptor."""

        def wrapped(path: Any, *args: Any, **more: Any) -> Any:
            if (error := self.due(what, path)) is not None:
                raise error
            return real(path, *args, **more)

        return wrapped

    def writes(self, real: Callable[..., int]) -> Callable[..., int]:
        """Wraps a write of bytes, which may be torn."""

        def wrapped(descriptor: int, data: Any, *args: Any) -> int:
            if (error := self.due("write", descriptor)) is not None:
                if self.kind == "torn":
                    real(descriptor, bytes(data)[: len(bytes(data)) // 2], *args)
                raise error
            return real(descriptor, data, *args)

        return wrapped

    def opens(self, file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        """``open``, whose files write through :meth:`writes` where they are opened for it."""
        if not set(mode) & set("wax+") or not (isinstance(file, int) or self.concerns(file)):
            return _real_open(file, mode, *args, **more)
        if not isinstance(file, int) and (error := self.due("open", file)) is not None:
            raise error
        return _built(self, file, mode, *args, **more)

    def creates(self, path: Any, flags: int, *args: Any, **more: Any) -> int:
        """``os.open``."""
        if flags & os.O_CREAT and (error := self.due("open", path)) is not None:
            raise error
        return _real_os_open(path, flags, *args, **more)

    def serializes(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Safetensors' own writing, which says the system's number in its text."""

        def wrapped(tensors: Any, filename: Any, *args: Any, **more: Any) -> Any:
            error = self.due("serialize", filename)
            if error is None or self.kind == "torn":
                real(tensors, filename, *args, **more)
            if error is not None:
                if self.kind == "torn":
                    os.truncate(filename, os.path.getsize(filename) // 2)
                raise sys.modules["safetensors"].SafetensorError(  # type: ignore[attr-defined]
                    f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
                )

        return wrapped


class _Raw(io.FileIO):
    layer: Layer

    def write(self, data: Any) -> int:
        return self.layer.writes(lambda _, chunk: super(_Raw, self).write(chunk))(
            self.fileno(), data
        )


def _built(
    layer: Layer,
    file: Any,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """Builds what ``open`` builds, upon a raw file of ours."""
    raw = _Raw(file, re.sub("[bt]", "", mode), closefd=closefd, opener=opener)
    raw.layer = layer
    if buffering == 0:
        return raw
    buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    return (
        buffered
        if "b" in mode
        else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)
    )


_real_os_open = os.open


def install(root: str, at: int, kind: str, log: str = "") -> Layer:
    """Puts the layer in place for the rest of this process."""
    layer = Layer(root, at, kind, log)
    os.write, os.pwrite = layer.writes(os.write), layer.writes(os.pwrite)
    for name in ("fsync", "mkdir", "rename", "replace", "ftruncate"):
        setattr(os, name, layer.call("rename" if name == "replace" else name, getattr(os, name)))
    os.open = layer.creates  # type: ignore[assignment]
    os.fdopen = lambda fd, mode="r", *args, **more: layer.opens(fd, mode, *args, **more)  # type: ignore[assignment]
    builtins.open = io.open = layer.opens  # type: ignore[assignment]
    if "safetensors.torch" in sys.modules:
        module: Any = sys.modules["safetensors.torch"]
        module.serialize_file = layer.serializes(module.serialize_file)
    return layer


def install_from_environment() -> None:
    """Reads ``ROOT|N|KIND|LOG``."""
    root, at, kind, log = os.environ[VARIABLE].split("|")
    install(root, int(at), kind, log)


def operations(log: Path) -> list[str]:
    """Returns the operations that a run's log lists."""
    return log.read_text(encoding="utf-8").splitlines()
