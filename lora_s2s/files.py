"""Reading, hashing, and writing files so that a folder appears whole or not at all."""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

from lora_s2s.errors import DataError, UsageError

_GZIP_MAGIC = b"\x1f\x8b"


def sha256_file(path: Path) -> str:
    """Returns the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Returns the hex SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_json(value: object) -> str:
    """Returns the hex SHA-256 of a JSON value, independent of key order."""
    return sha256_text(json.dumps(value, sort_keys=True, ensure_ascii=False))


def read_json(path: Path) -> Any:
    """Reads one JSON document.

    Raises:
        DataError: the file is missing, not UTF-8, not JSON, or nested beyond reason.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path.name}", where=str(path)) from error
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more than 4,300 digits
        raise DataError(f"not a JSON document: {error}", where=str(path)) from error


def write_json(path: Path, value: object) -> None:
    """Writes one JSON document, indented, keys in the given order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file whole: beside it first, then renamed over it."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole: beside it first, synced, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, staged = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(staged, 0o644)
        os.replace(staged, path)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a JSON-lines file written by this package (one object a line)."""
    with open_text(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"not a JSON line: {error}", where=f"{path}:{number}") from error


def jsonl_line(value: object) -> str:
    """Returns one JSON line with its newline; non-ASCII text stays readable."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def open_text(path: Path) -> TextIO:
    """Opens a UTF-8 text file, gzip-compressed or plain, with or without a byte-order mark.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        raw: IO[bytes] = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}", hint="check the path; it is relative to the current folder") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    magic = raw.read(2)
    raw.seek(0)
    stream: Any = gzip.GzipFile(fileobj=raw) if magic == _GZIP_MAGIC else raw
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flushes every file and folder under ``folder`` to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_symlink():
            _sync(path)
    _sync(folder)


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a staging folder beside ``path`` that becomes ``path`` only when the block ends well.

    Raises:
        UsageError: ``path`` exists and ``replace`` is false, or its parent cannot be written.
    """
    if path.exists() and not replace:
        raise UsageError(f"{path} exists already", hint="choose another folder, or remove this one")
    # The name says who works in it: what a killed process on this machine left is taken away.
    mine = f".{path.name}.{socket.gethostname()[:32]}."
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{glob.escape(mine)}*.staged.*"):
            if not _alive(left.name.removeprefix(mine).split(".")[0]):
                shutil.rmtree(left, ignore_errors=True)
        staged = Path(tempfile.mkdtemp(prefix=f"{mine}{os.getpid()}.staged.", dir=path.parent))
    except PermissionError as error:
        raise UsageError(f"cannot write into {path.parent}: {error.strerror}") from error
    try:
        os.chmod(staged, 0o755)
        yield staged
        sync_tree(staged)
        move_folder(staged, path)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        with suppress(OSError):  # those that others use by now stay
            for folder in made:
                folder.rmdir()
        raise


def _alive(process: str) -> bool:
    try:
        if os.name == "posix":  # elsewhere signal 0 is no question
            os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        pass
    return True


def move_folder(source: Path, destination: Path) -> None:
    """Renames a folder into place; what stood there goes only after the new one stands."""
    if not destination.exists():
        os.rename(source, destination)
    else:
        old = Path(tempfile.mkdtemp(prefix=f".{destination.name}.old.", dir=destination.parent))
        os.rename(destination, old / "old")
        os.rename(source, destination)
        shutil.rmtree(old)
    _sync(destination.parent)
