"""What Linux, macOS and Windows do differently with files, locks and names."""

from __future__ import annotations

import os
import re
import sys
import time
import unicodedata
from contextlib import suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

WINDOWS = sys.platform == "win32"
# Also names that Windows opens devices by, with any ending, and those whose end it drops.
_ELSEWHERE = re.compile(
    r"(.*[. ])?|.*[/\\:\0].*|(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(\..*)?",
    re.IGNORECASE | re.DOTALL,
)
_LONGEST_NAME = 100  # bytes
# Seconds between attempts to rename what a virus scanner or an indexer has open for a moment.
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8) if WINDOWS else ()


def open_lock(path: Path, mode: int = 0o666) -> int:
    """Opens a file to lock, created if missing, another user's to read alone; a link is not
    followed (except on Windows, where only privileged users make links).
    """
    own = getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | own, mode)
    except PermissionError:
        return os.open(path, os.O_RDONLY | own)


def lock(descriptor: int, *, shared: bool = False) -> bool:
    """Locks an open file, or changes its lock; False if the lock of another is in the way.

    Windows locks bytes for one process alone: one far behind the text, as nobody else can read it;
    shared locks are not taken there.

    Raises:
        OSError: the file system does not support locks.
    """
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        elif not shared:
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at a path. Windows removes no open file."""
    with suppress(FileNotFoundError):
        return WINDOWS or os.path.samestat(os.fstat(descriptor), os.lstat(path))
    return False


def remove_lock(descriptor: int, path: Path) -> None:
    """Removes a locked file and closes it; on Windows, one that another process has open stays."""
    if WINDOWS:
        os.close(descriptor)
        with suppress(OSError):
            path.unlink()
    else:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def flush(path: Path) -> None:
    """Flushes a file or folder to the disk. Windows flushes files alone, opened for writing."""
    if WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Renames a file, which replaces another, or a folder."""
    for pause in _PAUSES:
        with suppress(PermissionError):
            os.replace(source, target)
            return
        time.sleep(pause)
    os.replace(source, target)


def is_plain_name(name: str) -> bool:
    """Whether a name from elsewhere is one of a file in a folder itself, on every system: without
    a separator, a drive or a stream, and of no device.
    """
    return not _ELSEWHERE.fullmatch(name)


def file_name(text: str) -> str:
    """The letters and digits of a text, of any script, as a name that every file system takes;
    empty if it has none, or is one of Windows' devices.

    >>> file_name("my rows"), file_name("заявки (2)"), file_name("_?"), file_name("con")
    ('my-rows', 'заявки-2', '', '')
    """
    # NFKC: letters with their accents, as file systems disagree on, and no superscript digits.
    kept = (
        char if char in "._-" or unicodedata.category(char)[0] in "LM" or char.isdecimal() else " "
        for char in unicodedata.normalize("NFKC", text)
    )
    name = "-".join("".join(kept).split()).strip("-._").encode()[:_LONGEST_NAME]
    plain = name.decode(errors="ignore").rstrip("-._")
    return plain if is_plain_name(plain) else ""


def is_network_path(name: str) -> bool:
    """Whether Windows would connect to another machine for this path, with the user's password
    hash.
    """
    return re.match(r"[\\/]{2}", name) is not None
