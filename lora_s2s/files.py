"""Bounded reads, hashes, and atomic writes of files."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from lora_s2s import limits
from lora_s2s.errors import DataError, Error, ResourceError
from lora_s2s.machine import is_running
from lora_s2s.systems import flush, is_plain_name, rename

NO_ENTRY = (errno.EACCES, errno.EPERM, errno.EROFS)
_BOM = b"\xef\xbb\xbf"
_KINDS = {
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    type(None): "null",
}


def open_regular(path: Path, *, most: int | None = None) -> BinaryIO:
    """Opens a regular file for reading; never blocks on a pipe.

    Args:
        most: maximum size in bytes; None for no limit.

    Raises:
        DataError: it is a pipe, a device, a folder, or larger.
        OSError: it cannot be opened.
    """
    # Windows has neither flag; without O_NONBLOCK, opening a pipe without a writer never returns.
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise DataError(
                f"{path.name} is not a regular file, so it is not read", where=str(path)
            )
        if most is not None and about.st_size > most:
            problem = f"{path.name} has more than {limits.in_words(most)}, so it is not read"
            raise DataError(problem, where=str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_whole(path: Path, *, most: int | None = None) -> bytes:
    """Returns a regular file's bytes.

    Args:
        most: maximum size in bytes; by default the limit in :mod:`lora_s2s.limits` for this name.

    Raises:
        DataError: see :func:`open_regular`; or the file grows during the read.
        OSError: it cannot be read.
    """
    most = most or limits.largest(path.name, path.suffix) or limits.LARGEST_FILE
    with open_regular(path, most=most) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise DataError(f"{path.name} grows while it is read", where=str(path))
    return content


def sha256_file(path: Path) -> str:
    """Returns the hex SHA-256 of a regular file's bytes."""
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def known_sha256(path: Path) -> str:
    """Returns a file's SHA-256, cached while its size and modification time stay the same."""
    about = path.stat()
    return _known(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=256)
def _known(path: Path, _size: int, _time: int) -> str:
    return sha256_file(path)


def described(
    paths: Iterable[Path], *, within: Path | None = None
) -> dict[str, dict[str, str | int]]:
    """Returns ``{name: {"sha256", "bytes"}}`` of files, as a manifest's ``files`` holds it.

    Args:
        within: the manifest's folder, for files of a folder in it.
    """
    return {
        path.relative_to(within or path.parent).as_posix(): {
            "sha256": known_sha256(path),
            "bytes": path.stat().st_size,
        }
        for path in sorted(paths)
    }


def belongs(folder: Path, name: str) -> bool:
    """Whether a name in a manifest is a file of the folder, or of a folder in it."""
    parts = name.split("/")
    if len(parts) > 2 or not all(map(is_plain_name, parts)):
        return False
    return len(parts) == 1 or (folder / name).resolve().parent == folder.resolve() / parts[0]


@lru_cache(maxsize=8)
def code_hash(*packages: str) -> str:
    """Returns a hash of the source code of some packages: results of other versions may differ."""
    root = Path(__file__).parent
    return sha256_json(
        [sha256_file(path) for name in packages for path in sorted(root.glob(f"{name}/*.py"))]
    )


def require_space(folder: Path, size: int) -> None:
    """Checks for free disk space before anything is written.

    Args:
        folder: an existing folder on the disk.
        size: required bytes.

    Raises:
        ResourceError: less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        message = (
            f"out of disk space: {size / 2**20:,.1f} MiB are needed, {free / 2**20:,.1f} MiB are "
            "free"
        )
        raise ResourceError(message, where=str(folder), hint="free some space, then run it again")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the file's name to an OSError raised inside the block, which the system omits.

    Errors of Rust libraries carry the system's number only in their text; they become an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def sha256_text(text: str) -> str:
    """Returns the hex SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_json(value: object) -> str:
    """Returns the hex SHA-256 of a JSON value, independent of key order."""
    return sha256_text(json.dumps(value, sort_keys=True, ensure_ascii=False))


def read_json(path: Path) -> Any:
    """Reads one JSON document.

    Raises:
        DataError: the file is missing, not regular, too large, not UTF-8, not JSON, too deeply
            nested, or contains too large a number.
    """
    try:
        return loads(read_whole(path).decode("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path.name}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a JSON document: {error}", where=str(path)) from error


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        DataError: see :func:`read_json`; or the document is not an object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"not a JSON object: it is {_KINDS[type(content)]}", where=str(path))
    return content


def mapping(value: object) -> Mapping[str, object]:
    """A value of a JSON document that is an object; otherwise an empty one."""
    return value if isinstance(value, Mapping) else {}


def loads(text: str, *, constant: Callable[[str], object] = lambda _: None) -> Any:
    """Parses JSON; NaN and infinities, which are not valid JSON, become null.

    Args:
        constant: called with ``NaN`` or ``-Infinity`` for what to take in its place.

    Raises:
        ValueError: not JSON, too deeply nested, or an integer far beyond the range of floats.
    """
    value = json.loads(text, parse_int=_integer, parse_constant=constant)
    level = [value]
    for _ in range(limits.DEEPEST_JSON):
        lists = (
            outer.values() if isinstance(outer, dict) else outer
            for outer in level
            if isinstance(outer, dict | list)
        )
        level = [item for items in lists for item in items]
        if not level:
            return value
    raise ValueError(f"nested deeper than {limits.DEEPEST_JSON} levels")


def _integer(digits: str) -> int:
    if len(digits) > limits.MOST_JSON_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def json_text(value: object, *, indent: int | None = None) -> str:
    """Returns a value as strict JSON, keys in the given order; NaN and infinities become null."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: object) -> None:
    """Writes one JSON document, indented, keys in the given order."""
    write_text(path, json_text(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file atomically."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically; see :func:`staged_file`."""
    with staged_file(path) as staged, naming(path), open(staged, "xb") as stream:
        stream.write(content)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yields a new name beside ``path``; what the block writes there is synced and renamed.

    Links are replaced, not followed. A new file gets the permissions of the umask; a replaced one
    keeps its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tidy(path)
    staged = beside(path, "staged")
    try:
        with speaking_of(path, instead_of=staged):
            yield staged
            with naming(path):
                flush(staged)
            if path.is_file() and not path.is_symlink():
                os.chmod(staged, path.stat().st_mode & 0o777)
            rename(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


@contextmanager
def speaking_of(path: Path, *, instead_of: Path) -> Iterator[None]:
    """Makes errors name ``path`` instead of the hidden path where it is staged."""
    hidden = str(instead_of)
    try:
        yield
    except OSError as error:
        for name in ("filename", "filename2"):
            if isinstance(value := getattr(error, name), str | os.PathLike):
                setattr(error, name, str(value).replace(hidden, str(path)))
        raise
    except Error as error:
        for name in ("message", "where", "hint"):
            if value := getattr(error, name):
                setattr(error, name, value.replace(hidden, str(path)))
        error.args = (error.message,)
        raise


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a JSON-lines file written by this package; never decompresses.

    Raises:
        DataError: the file is missing, not regular or too large; a line is too long or not a JSON
            object.
    """
    most = limits.LARGEST_JSON_LINES.get(path.name, limits.LARGEST_JSON_LINES_FILE)
    longest = limits.LONGEST_JSON_LINE
    try:
        stream = open_regular(path, most=most)
    except FileNotFoundError as error:
        raise DataError(
            f"no such file: {path}", hint="check the path; it is relative to the current folder"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    with stream:
        for number, line in enumerate(iter(lambda: stream.readline(longest + 1), b""), start=1):
            where = f"{path}:{number}"
            if len(line) > longest:
                raise DataError(f"a line of more than {limits.in_words(longest)}", where=where)
            if not line.strip():
                continue
            try:
                row = loads(line.removeprefix(_BOM).decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"not a JSON line: {error}", where=where) from error
            if not isinstance(row, dict):
                raise DataError(f"not a JSON object: it is {_KINDS[type(row)]}", where=where)
            yield row


def jsonl_line(value: object) -> str:
    """Returns one JSON line with its newline; non-ASCII text stays readable."""
    return json_text(value) + "\n"


def beside(path: Path, purpose: str) -> Path:
    """Returns a new hidden name beside ``path``; unlike with tempfile, the umask applies to it."""
    return path.with_name(f"{_mine(path)}{os.getpid()}.{purpose}.{secrets.token_hex(4)}")


def _mine(path: Path) -> str:
    """The prefix of staged names: the path they are for and the machine that writes them."""
    return f".{path.name}.{socket.gethostname()[:32]}."


def tidy(path: Path) -> None:
    """Removes what killed processes left beside ``path``; restores what they had moved aside."""
    mine = _mine(path)
    for left in path.parent.glob(f"{glob.escape(mine)}*"):
        process = left.name.removeprefix(mine).split(".")[0]
        if process.isdecimal() and not is_running(int(process[:9])):
            if (left / "old").is_dir() and not path.exists():
                rename(left / "old", path)
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where this package keeps what can be had again; ``LORA_S2S_CACHE`` names another folder."""
    if named := os.environ.get("LORA_S2S_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "lora-s2s"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lora-s2s"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lora-s2s"
