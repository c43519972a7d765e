"""Makes this interpreter behave as on Windows or macOS, as far as Linux allows; as a program it
takes a system and a folder, and trains, resumes, scores, answers and merges there.

Modules and attributes are removed that the system lacks, and an audit hook refuses what its file
system refuses. What a library imported before keeps working: only this package meets the system.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import struct
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "lora_s2s"
# What some need that is not installed everywhere.
OPTIONAL = ("ctranslate2", "onnxruntime", "onnxscript", "optuna", "ray", "xgrammar", "gradio")
WITHOUT = {
    "windows": {
        "modules": "fcntl resource termios pty pwd grp tty",
        "os": "O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_DIRECTORY O_SYNC geteuid getuid getgid getegid "
        "fork sched_getaffinity sched_setaffinity statvfs fstatvfs mkfifo pread pwrite preadv "
        "killpg getpgid setsid sysconf sync getloadavg chown lchown fchown posix_fadvise wait3",
        "signal": "SIGHUP SIGUSR1 SIGUSR2 SIGKILL SIGALRM SIGPIPE SIGCHLD SIGQUIT alarm setitimer "
        "pthread_sigmask pthread_kill sigwait",
    },
    "macos": {
        "modules": "",
        "os": "sched_getaffinity sched_setaffinity posix_fadvise O_DIRECT O_TMPFILE pipe2 "
        "copy_file_range memfd_create",
        "signal": "sigtimedwait sigwaitinfo",
    },
}
PLATFORMS = {"windows": "win32", "macos": "darwin"}
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SHARING = 32  # Windows' number for a file that is in use


def become(system: str) -> None:
    """Turns this process into one on ``windows`` or ``macos``."""
    lacking = WITHOUT[system]
    modules: dict[str, object] = sys.modules  # type: ignore[assignment]
    modules.update(bitsandbytes=None, triton=None)
    import_all()
    import psutil
    import rich.console  # noqa: F401  (these choose by the platform when they are imported)
    import rouge_score.rouge_scorer  # noqa: F401

    psutil.pid_exists = lambda process: os.path.exists(f"/proc/{process}")
    memory = types.SimpleNamespace(rss=1 << 28, peak_wset=1 << 29, total=1 << 34)
    psutil.virtual_memory = lambda: memory
    psutil.cpu_times = lambda: types.SimpleNamespace(user=1.0, system=1.0)
    own = types.SimpleNamespace(memory_info=lambda: memory, cpu_times=psutil.cpu_times)
    psutil.Process = lambda: own
    for name in [name for name in sys.modules if name.partition(".")[0] == "lora_s2s"]:
        del sys.modules[name]
    if system == "windows":
        _windows_modules()
        sys.addaudithook(_windows_files)
    else:
        import torch

        torch.backends.mps.is_available = lambda: True
        sys.addaudithook(_no_proc)
    modules.update(dict.fromkeys(lacking["modules"].split()))
    for module in (os, signal):
        for name in lacking[module.__name__].split():
            if hasattr(module, name):
                delattr(module, name)
    sys.platform = PLATFORMS[system]
    warnings.filterwarnings("error", category=EncodingWarning, module="lora_s2s")


def import_all() -> list[str]:
    """Imports every module of the package, as far as the libraries are installed."""
    files = (path.relative_to(PACKAGE.parent) for path in sorted(PACKAGE.rglob("*.py")))
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
    for name in names:
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in OPTIONAL:
                raise
    return names


def msvcrt() -> types.ModuleType:
    """Windows' locks of bytes, imitated by Linux' own, which belong to an open file."""
    import fcntl

    def locking(descriptor: int, mode: int, size: int) -> None:
        start = os.lseek(descriptor, 0, os.SEEK_CUR)
        assert start > 1 << 20, "nobody else could read what is locked"
        kind = fcntl.F_UNLCK if mode == module.LK_UNLCK else fcntl.F_WRLCK
        lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, size, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
        except (BlockingIOError, PermissionError) as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    module = types.ModuleType("msvcrt")
    vars(module).update(LK_NBLCK=2, LK_UNLCK=0, locking=locking)
    return module


def _windows_modules() -> None:
    import fcntl
    import shutil

    def fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    def kill(process: int, number: int) -> None:
        raise SystemExit(f"os.kill({process}, {number}) ends a process, whatever the signal")

    sys.modules["msvcrt"] = msvcrt()
    os.fsync, os.kill = fsync, kill
    usage = shutil.disk_usage(".")
    shutil.disk_usage = lambda _: usage
    os.O_BINARY = 0
    signal.SIGBREAK = signal.Signals(12)
    shutil._use_fd_functions = False


def _in_use(path: str) -> Iterator[str]:
    """The files at or under a path that this process has open or mapped."""
    held = [os.readlink(f"/proc/self/fd/{number}") for number in _descriptors()]
    with _open("/proc/self/maps", encoding="utf-8") as stream:
        held += [line.split(maxsplit=5)[5].strip() for line in stream if line.count("/")]
    return (file for file in held if file == path or file.startswith(f"{path}/"))


_open, _listdir, _exists = io.open, os.listdir, os.path.exists


def _descriptors() -> list[str]:
    return [name for name in _listdir("/proc/self/fd") if _exists(f"/proc/self/fd/{name}")]


_inside: list[bool] = []


def _windows_files(event: str, given: tuple[object, ...]) -> None:
    """Refuses what Windows does: reserved names, opening folders, touching what is open."""
    check = _CHECKS.get(event)
    if check is None or _inside:
        return
    _inside.append(True)
    try:
        check(*given)
    finally:
        _inside.pop()


def _text(path: object) -> str:
    folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))  # type: ignore[arg-type]
    return os.path.join(os.path.realpath(folder), name)


def _check_name(path: object) -> None:
    name = os.path.basename(_text(path))
    if re.search(r'[<>:"|?*\\\x00-\x1f]|[. ]$', name) or _RESERVED.fullmatch(name):
        raise OSError(errno.EINVAL, "Invalid argument", os.fsdecode(path))  # type: ignore[arg-type]


def _check_open(path: object, _mode: object, flags: object) -> None:
    if isinstance(path, int) or not isinstance(flags, int):
        return
    if os.path.isdir(path):  # type: ignore[arg-type]
        raise PermissionError(errno.EACCES, "Permission denied", os.fsdecode(path))  # type: ignore
    if flags & _WRITING:
        _check_name(path)


def _check_free(path: object, *_: object) -> None:
    for file in _in_use(_text(path)):
        raise PermissionError(errno.EACCES, f"in use by this process: {file}", os.fsdecode(path))  # type: ignore


def _check_rename(source: object, target: object, *_: object) -> None:
    _check_free(source)
    _check_free(target)
    _check_name(target)
    if os.path.isdir(target):  # type: ignore[arg-type]
        raise PermissionError(errno.EACCES, "Permission denied", os.fsdecode(target))  # type: ignore


_CHECKS: dict[str, Callable[..., None]] = {
    "open": _check_open,
    "os.mkdir": lambda path, *_: _check_name(path),
    "os.remove": _check_free,
    "os.rmdir": _check_free,
    "os.rename": _check_rename,
}


def _no_proc(event: str, given: tuple[object, ...]) -> None:
    if event == "open" and isinstance(given[0], str) and re.match("/(proc|sys)/", given[0]):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", given[0])


def walk_through(folder: str, system: str) -> None:
    """Trains, resumes after a signal, scores, answers and merges, all by the command line."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    os.chdir(folder)
    stop = signal.SIGBREAK if system == "windows" else signal.SIGINT
    recipe = ["demo", "--set", "output.name=a", "--set", "data.train=rows.csv"]
    recipe += ["--set", "data.test=null", "--set", "data.validation=null"]
    recipe += ["--set", "training.max_steps=3", "--set", "training.batch_size=4"]
    text = "a table for Zoë → two × 中 🙂"
    _run("prepare", *recipe, "--json")
    hook = register_optimizer_step_post_hook(lambda *_: signal.raise_signal(stop))
    code = 130 if stop == signal.SIGINT else 143
    _run("train", *recipe, code=code)
    hook.remove()
    _run("train", *recipe, "--resume", "--json")
    for more in (["--baseline"], []):
        _run("eval", "adapters/a", "--data", "rows.csv", "--limit", "4", "--json", *more)
    _run("predict", "adapters/a", text, "--output", "answers.jsonl")
    _run("predict", "adapters/a", text)
    _run("merge", "adapters/a", "--out", "merged", "--json")
    _run("train", *recipe, "--overwrite", "--json")
    _run("train", *recipe, "--overwrite", "--set", "model.quantization=nf4", code=5)


def _run(*words: str, code: int = 0) -> None:
    from lora_s2s.cli import main

    sys.stderr.write(f"$ {' '.join(words)}\n")
    sys.argv = ["lora-s2s", *words]
    try:
        main()
    except SystemExit as end:
        if end.code != code:
            raise AssertionError(f"{words} ended with {end.code}, not {code}") from end


if __name__ == "__main__":
    become(sys.argv[1])
    import_all()
    walk_through(sys.argv[2], sys.argv[1])
