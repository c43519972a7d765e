"""Files and folders in object storage, through fsspec: fetched into a bounded cache, uploaded
whole.

Only a URL that the user gives is followed, with one of a few schemes; one that a file holds never
is. What is fetched is an ordinary file or folder, which the same checks open as any other.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from lora_s2s import limits
from lora_s2s.console import ProgressLine, say
from lora_s2s.errors import DataError, Error, ResourceError, SetupError, UsageError, again
from lora_s2s.files import cache_folder, require_space
from lora_s2s.hub import is_cache_only
from lora_s2s.outputs import whole_folder
from lora_s2s.systems import is_plain_name, lock, open_lock

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# Scheme → what to install for it.
_SCHEMES = {"s3": "pip install 'lora-s2s[s3]'", "gs": "pip install gcsfs", "hf": "", "memory": ""}
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; another server than "
    "Amazon's: AWS_ENDPOINT_URL",
    "gs": "gcloud auth application-default login",
    "hf": "hf auth login",
}
_BLOCK = 8 * limits.MIB
# Descriptors of the locks on what this process uses of the cache.
_held: list[int] = []
_System: TypeAlias = Any  # fsspec has no types
_LEFT_OUT = ("checkpoints/", "evaluations/", ".")


def is_url(name: str) -> bool:
    """Whether a name is a URL, of whatever scheme."""
    return _URL.match(name) is not None


def listed(url: str) -> list[str]:
    """The files that a URL names: one, those of a folder, or those that match a pattern; sorted.

    Raises:
        Error: see :func:`fetched_file`.
    """
    system, path = _system(url)
    scheme = url.partition("://")[0]
    with _storage(url):
        if has_magic(path):
            names = system.glob(path)
        elif system.isdir(path):
            names = system.find(path, maxdepth=1)
        else:
            return [url]
    if not names:
        raise DataError(f"no such file: {url}", hint="check the bucket and the key")
    if len(names) > limits.MOST_PUBLISHED:
        raise DataError(
            f"{url} names {len(names):,} files, at most {limits.MOST_PUBLISHED:,} are read"
        )
    return [f"{scheme}://{name.lstrip('/')}" for name in sorted(names)]


def fetched_file(url: str) -> Path:
    """A file's copy in the cache, fetched unless it is there unchanged.

    Raises:
        DataError: there is no such file, or it changes while it is read.
        SetupError: the storage cannot be reached or refuses, or a package is missing.
        ResourceError: it is larger than the cache or the disk.
        UsageError: a scheme that is not supported.
    """
    system, path = _system(url)
    with _storage(url):
        about = system.info(path)
        version = system.ukey(path)
    if about["type"] != "file":
        raise DataError(f"{url} is not a file")
    name, size = PurePosixPath(path).name, int(about["size"])
    if not is_plain_name(name):
        raise DataError(f"{url}: '{name}' is no name of a file on every system")

    def fill(folder: Path) -> None:
        _download(system, {path: (folder / name, size)}, url)

    return _cached(_key(url, version), size, url, fill) / name


def fetched_folder(url: str, manifest: str) -> Path:
    """A folder's copy in the cache: an adapter, a model, an export or prepared data.

    Checkpoints and evaluations are left out. Its manifest's hashes are compared when it is opened.

    Args:
        manifest: the file that was uploaded last.

    Raises:
        DataError: it has no manifest, so is none of these, or its upload has not finished.
        Error: see :func:`fetched_file`.
    """
    system, path = _system(url.rstrip("/"))
    with _storage(url):
        found = system.find(path, maxdepth=2, detail=True)
    files: dict[str, tuple[str, int]] = {}
    for full, about in found.items():
        name = full.removeprefix(path).lstrip("/")
        if about["type"] == "file" and not name.startswith(_LEFT_OUT):
            files[name] = full, int(about["size"])
    if manifest not in files:
        raise DataError(
            f"{url} contains no {manifest}: an upload that has not finished, or no folder that "
            "lora-s2s wrote",
            hint="check the address, or upload it again: lora-s2s push FOLDER URL",
        )
    odd = [name for name in files if not all(map(is_plain_name, name.split("/")))]
    if odd or len(files) > limits.MOST_PUBLISHED:
        raise DataError(f"{url} contains {len(files):,} files, or a malformed name")
    with _storage(url):
        versions = sorted((name, system.ukey(full)) for name, (full, _) in files.items())

    def fill(folder: Path) -> None:
        wanted = {}
        for name, (full, size) in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            wanted[full] = folder / name, size
        _download(system, wanted, url)

    return _cached(_key(url, repr(versions)), sum(size for _, size in files.values()), url, fill)


def upload_folder(
    files: Mapping[str, bytes | Path], url: str, *, manifest: str, overwrite: bool = False
) -> None:
    """Uploads a folder's files, its manifest last: without it, nobody reads the others.

    Args:
        files: name → content, or its file.
        manifest: the file that is uploaded last.
        overwrite: replace a folder that is complete. Other files in it stay.

    Raises:
        UsageError: there is a folder already, or the scheme is only read.
        SetupError: the storage cannot be reached or refuses.
    """
    if url.startswith("hf://"):
        raise UsageError("hf:// is only read", hint="lora-s2s push FOLDER USER/NAME")
    system, path = _system(url.rstrip("/"))
    last = f"{path}/{manifest}"
    with _storage(url):
        exists = system.exists(last)
        if exists and not overwrite:
            raise UsageError(
                f"{url} exists already",
                hint=f"choose another name, or replace it: {again('--overwrite')}",
            )
        if exists:
            system.rm_file(last)
    order = sorted(files, key=lambda name: (name == manifest, name))
    with ProgressLine("upload") as line:
        for number, name in enumerate(order, start=1):
            with _storage(f"{url.rstrip('/')}/{name}"):
                size = _upload(system, files[name], f"{path}/{name}")
                stored = int(system.info(f"{path}/{name}")["size"])
            if stored != size:
                raise SetupError(
                    f"{url} has {stored:,} bytes of {name} after the upload, expected {size:,}",
                    hint="run it again",
                )
            line.update({"file": name}, done=number, total=len(order))


def small_file(url: str) -> bytes | None:
    """The content of a small file, such as a manifest; None if there is none.

    Raises:
        DataError: it is larger than :mod:`lora_s2s.limits` allows a file of its name.
    """
    system, path = _system(url)
    most = limits.largest(PurePosixPath(path).name, PurePosixPath(path).suffix) or 0
    with _storage(url):
        if not system.exists(path):
            return None
        with system.open(path, "rb") as stream:
            content: bytes = stream.read(most + 1)
    if len(content) > most:
        raise DataError(f"{url} has more than {limits.in_words(most)}, so it is not read")
    return content


def _upload(system: _System, content: bytes | Path, path: str) -> int:
    with system.open(path, "wb", block_size=2 * _BLOCK) as sink:
        if isinstance(content, bytes):
            sink.write(content)
            return len(content)
        with content.open("rb") as stream:
            shutil.copyfileobj(stream, sink, _BLOCK)
    return content.stat().st_size


def _download(system: _System, files: Mapping[str, tuple[Path, int]], url: str) -> None:
    """Copies files, of each exactly the bytes that the listing says."""
    total, done = sum(size for _, size in files.values()), 0
    with ProgressLine("fetch") as line:
        for path, (place, size) in files.items():
            with place.open("xb") as sink:
                for block in _blocks(system, path, size, url):
                    sink.write(block)
                    done += len(block)
                    line.update({"bytes": url}, done=done, total=total)


def _blocks(system: _System, path: str, size: int, url: str) -> Iterator[bytes]:
    left = size
    with _storage(url):
        stream = system.open(path, "rb", block_size=_BLOCK, cache_type="readahead")
    with stream:
        while left:
            with _storage(url):
                block = stream.read(min(left, _BLOCK))
            if not block:
                raise DataError(
                    f"{url} changed while it was read: {left:,} bytes are missing",
                    hint="run it again",
                )
            left -= len(block)
            yield block


def _system(url: str) -> tuple[_System, str]:
    """The file system of a URL, and the path in it."""
    scheme = url.partition("://")[0].lower()
    if scheme not in _SCHEMES or "::" in url:
        names = ", ".join(f"{name}://" for name in _SCHEMES if name != "memory")
        raise UsageError(f"'{url}' is not read: expected {names}", hint="download it first")
    if is_cache_only():
        raise SetupError(
            f"'{url}' is not fetched: only what is on this machine is used here",
            hint="prepare the data first: lora-s2s prepare RECIPE",
        )
    import fsspec  # a tenth of a second

    try:
        system = fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise SetupError(
            f"{scheme}:// needs a package that is not installed: {error}", hint=_SCHEMES[scheme]
        ) from error
    return system, str(system._strip_protocol(url))


@contextmanager
def _storage(url: str) -> Iterator[None]:
    """Turns failures of the storage into errors with the next command."""
    scheme = url.partition("://")[0].lower()
    try:
        yield
    except Error:
        raise
    except FileNotFoundError as error:
        raise DataError(f"no such file: {url}", hint="check the bucket and the key") from error
    except PermissionError as error:
        raise SetupError(f"no permission: {url}", hint=_CREDENTIALS.get(scheme)) from error
    except _failures(scheme) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        hint = "check the network and the credentials, then run it again"
        if "Credentials" in reason:
            hint = _CREDENTIALS.get(scheme, hint)
        raise SetupError(f"cannot reach {url} ({reason})", hint=hint) from error


def _failures(scheme: str) -> tuple[type[Exception], ...]:
    """What a scheme's library raises where the storage fails."""
    if scheme != "s3":
        return (OSError,)
    from aiohttp import ClientError
    from botocore import exceptions
    from fsspec.exceptions import FSTimeoutError

    return (
        OSError,
        exceptions.BotoCoreError,
        exceptions.ClientError,
        ClientError,
        FSTimeoutError,
    )


def _key(url: str, version: str) -> str:
    return hashlib.sha256(f"{url}\0{version}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _cached(key: str, size: int, url: str, fill: Callable[[Path], None]) -> Path:
    """The cache's folder of a key, filled by one process while others wait; it stays as long as
    this process runs.
    """
    cache = cache_folder() / "remote"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = cache / key
    descriptor = _open_lock(path)
    try:
        while not (path.is_dir() and lock(descriptor, shared=True) and path.is_dir()):
            if path.is_dir() or not lock(descriptor):
                time.sleep(0.2)  # another process fetches it, or removes it
            elif not path.is_dir():
                _make_space(cache, size, url)
                with whole_folder(path) as folder:
                    fill(folder)
    except BaseException:
        os.close(descriptor)
        raise
    _held.append(descriptor)
    with suppress(OSError):
        os.utime(path)
    return path


def _open_lock(path: Path) -> int:
    """Opens the file to lock for a folder of the cache."""
    return open_lock(path.with_suffix(".lock"), 0o600)


def _make_space(cache: Path, size: int, url: str) -> None:
    """Removes what was used longest ago until so many bytes fit into the bound.

    Raises:
        ResourceError: they do not, or the disk lacks them.
    """
    most = _most_bytes()
    entries = sorted(
        (path for path in cache.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
    )
    sizes = {path: _size(path) for path in entries}
    total = sum(sizes.values())
    for path in entries:
        if total + size > most and _removed(path):
            total -= sizes[path]
    if total + size > most:
        used = f", and {limits.in_words(total)} of it are in use" if total else ""
        raise ResourceError(
            f"{url} has {limits.in_words(size)}, but the cache may hold {limits.in_words(most)}"
            f"{used}",
            hint="allow more, in GB: export LORA_S2S_CACHE_GB=200",
            where=str(cache),
        )
    require_space(cache, size)


def _removed(path: Path) -> bool:
    """Removes a folder of the cache, unless a process uses it."""
    descriptor = _open_lock(path)
    try:
        if not lock(descriptor):
            return False
        shutil.rmtree(path)
    finally:
        os.close(descriptor)
    say(f"removed from the cache: {path}")
    return True


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _most_bytes() -> int:
    named = os.environ.get("LORA_S2S_CACHE_GB", "")
    if not named:
        return limits.LARGEST_REMOTE_CACHE
    if not re.fullmatch(r"[1-9][0-9]{0,5}", named):
        raise UsageError(
            f"invalid LORA_S2S_CACHE_GB '{named}': expected whole gigabytes, such as 50"
        )
    return int(named) * 10**9
