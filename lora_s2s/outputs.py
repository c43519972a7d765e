"""Outputs: folders that appear complete or not at all, and files that a user names."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lora_s2s.errors import UsageError
from lora_s2s.files import NO_ENTRY, beside, naming, speaking_of, staged_file, tidy
from lora_s2s.systems import flush, rename

PREDICTIONS, SCORES = "predictions.jsonl", "scores.json"  # in the folder of an evaluation


def _sync(path: Path) -> None:
    with naming(path):
        flush(path)


def sync_tree(folder: Path) -> None:
    """Flushes every file and folder under ``folder`` to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_symlink():
            _sync(path)
    _sync(folder)


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a staging folder that is renamed to ``path`` if the block succeeds.

    Raises:
        UsageError: ``path`` exists and ``replace`` is false, it is not a folder, or its parent is
            not writable.
    """
    check_free(path, replace=replace)
    staged = beside(path, "staged")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tidy(path)
        with speaking_of(path, instead_of=staged):
            staged.mkdir()
    except OSError as error:
        if error.errno not in NO_ENTRY:
            raise
        raise UsageError(
            f"cannot write into {path.parent}: {error.strerror}", hint="choose another folder"
        ) from error
    try:
        with speaking_of(path, instead_of=staged):
            with naming(path):
                yield staged
            sync_tree(staged)
            check_free(path, replace=replace)  # another process may have been faster
            move_folder(staged, path)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        with suppress(OSError):  # parents that others use by now stay
            for folder in made:
                folder.rmdir()
        raise


def check_free(path: Path, *, replace: bool = False) -> None:
    """Checks that a folder can be created at ``path``.

    Raises:
        UsageError: it exists and ``replace`` is false, or it is a file, device or dangling link.
    """
    if path.is_symlink() and not path.exists():
        raise UsageError(
            f"{path} is a link to nothing", hint="remove the link, or choose another folder"
        )
    if path.exists() and not replace:
        raise UsageError(f"{path} exists already", hint="choose another folder, or remove this one")
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} exists already and is not a folder", hint="choose another folder")


def check_new(path: Path) -> None:
    """Checks that a new folder can be created at ``path``, before anything heavy loads.

    Raises:
        UsageError: see :func:`check_free` and :func:`check_writable`.
    """
    check_free(path)
    check_writable(path.absolute().parent)


def check_results(folder: Path) -> None:
    """Checks that an evaluation can be written into ``folder``.

    Raises:
        UsageError: it has other files, which would be lost, is a file, or cannot be written.
    """
    names = sorted(item.name for item in folder.glob("*"))
    if foreign := [name for name in names if name not in (PREDICTIONS, SCORES)]:
        raise UsageError(
            f"{folder} contains other files ({foreign[0]}, …)",
            hint="give another folder: --out DIR",
        )
    check_free(folder, replace=True)
    check_writable(folder.absolute().parent)


def check_writable(folder: Path) -> None:
    """Checks that a folder is writable before work begins.

    Raises:
        UsageError: the folder, or its nearest existing parent, is a file or not writable.
    """
    existing = next(place for place in (folder, *folder.parents, Path(".")) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "no permission" if existing.is_dir() else "it is a file"
        raise UsageError(f"cannot write into {existing}: {reason}", hint="choose another folder")


def move_folder(source: Path, destination: Path) -> None:
    """Renames a folder into place; a replaced folder is removed only afterwards."""
    tidy(destination)
    replaces = destination.exists()
    aside = beside(destination, "old") if replaces else destination
    if replaces:
        aside.mkdir()
    try:
        with speaking_of(destination, instead_of=aside / "old"):
            if replaces:
                rename(destination, aside / "old")
            rename(source, destination)
    except BaseException:
        if replaces:
            if not destination.exists():
                rename(aside / "old", destination)
            shutil.rmtree(aside, ignore_errors=True)
        raise
    _sync(destination.parent)
    if replaces:
        shutil.rmtree(aside)


@contextmanager
def output_stream(path: Path) -> Iterator[BinaryIO]:
    """Opens an output file that a user named: a regular file appears complete or not at all, links
    are followed.

    A device, a pipe and this process's descriptors (``/dev/stdout``) are written to, not replaced.
    """
    descriptor = _own_descriptor(path)
    if descriptor is not None:
        with naming(path), os.fdopen(os.dup(descriptor), "wb") as stream:
            yield stream
    elif is_special(path):
        with naming(path), path.open("wb") as stream:
            yield stream
    else:
        with staged_file(target_of(path)) as staged, naming(path), open(staged, "xb") as stream:
            yield stream


def target_of(path: Path) -> Path:
    """Returns the regular file that an output path leads to.

    Raises:
        OSError: a link leads to itself.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def appears_whole(path: Path) -> bool:
    """Whether an output path becomes a regular file, complete or not at all, and is no stream."""
    return _own_descriptor(path) is None and not is_special(path)


def is_special(path: Path) -> bool:
    """Whether a path exists and is neither a regular file nor a folder."""
    try:
        mode = path.stat().st_mode
    except OSError:  # missing, below a file, or an invalid name: writing reports which
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _own_descriptor(path: Path) -> int | None:
    """The descriptor of this process that ``/dev/stdout``, ``/dev/fd/3`` or a link names."""
    name = str(path)
    for _ in range(8):
        folder, last = (
            os.path.realpath(os.path.dirname(os.path.abspath(name))),
            os.path.basename(name),
        )
        if folder in ("/dev/fd", f"/proc/{os.getpid()}/fd") and last.isdecimal():
            return int(last)
        place = os.path.join(folder, last)
        if not os.path.islink(place):
            return None
        name = os.path.join(folder, os.readlink(place))
    return None
