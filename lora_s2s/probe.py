"""Opens untrusted configs and tokenizers in a child process first, with limited memory and time.

The libraries that read these files are large and partly native: a file can make them exhaust
memory, loop for ever, or abort the process. So the files are opened and used once where that does
no harm. Folders that passed are remembered by the hash of their content.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lora_s2s import limits
from lora_s2s.errors import DataError, SetupError
from lora_s2s.files import cache_folder, sha256_file, sha256_json
from lora_s2s.hub import DEMO_BASE

_CHILD = Path(__file__).parent / "tokens" / "probe_child.py"
# The libraries that read the files: another version may behave differently.
_READERS = ("transformers", "tokenizers", "sentencepiece", "protobuf")
# Files that this package writes and changes, or reads by other means; the child opens the others.
_OTHER_FILES = {
    "manifest.json",
    "adapter_config.json",
    "recipe.yaml",
    "README.md",
    "report.html",
    "loss_curve.png",
}
_OTHER_ENDINGS = (".safetensors", ".safetensors.index.json", ".jsonl")
# Variables that the child needs to start; none can hold a secret.
_ENVIRONMENT = """
    PATH LD_LIBRARY_PATH DYLD_LIBRARY_PATH SYSTEMROOT USERPROFILE TEMP TMP TMPDIR LANG LC_ALL
""".split()
_HINT = (
    "get the folder again from where it was published; if it fails there too, it is damaged or "
    "hostile"
)
_TOKENIZER_STAGES = ("tokenizer", "use")
_TOKENIZERS = """
    tokenizer.json spiece.model sentencepiece.bpe.model tokenizer.model vocab.json
""".split()


@dataclass(frozen=True)
class Failure:
    """A failure in the child: its stage, the kind of error or signal, and its text."""

    stage: str
    kind: str
    reason: str


def check_config(folder: Path) -> None:
    """Opens a folder's config in a child process first, unless it has passed before.

    Raises:
        DataError: it kills the child, uses too much memory or time, or cannot be opened.
        SetupError: no child process can be started.
    """
    failure = _first_failure(folder)
    if failure is not None and failure.stage not in _TOKENIZER_STAGES:
        raise _error(failure, folder)


def check_tokenizer(folder: Path) -> None:
    """Opens and uses a folder's config and tokenizer in a child process first.

    Raises:
        DataError: see :func:`check_config`; or the tokenizer expands text beyond bounds.
        SetupError: see :func:`check_config`; or a package to read the tokenizer is missing.
    """
    if (failure := _first_failure(folder)) is not None:
        raise _error(failure, folder)


def remember(folder: Path) -> None:
    """Records a folder's config and tokenizer as safe: they passed, or this package wrote them."""
    key = content_key(folder)
    _outcomes[key] = None
    place = _memory()
    if place is not None:
        with suppress(OSError):
            (place / key).touch(0o600, exist_ok=False)  # follows no link


_outcomes: dict[str, Failure | None] = {}


def _first_failure(folder: Path) -> Failure | None:
    """Returns the failure of first opening the folder, now or earlier; None if there was none."""
    key = content_key(folder)
    if key not in _outcomes:
        known = key == _bundled() or _is_remembered(key)
        _outcomes[key] = None if known else _tried(folder)
        if _outcomes[key] is None and not known:
            remember(folder)
    return _outcomes[key]


def content_key(folder: Path) -> str:
    """Returns a hash of the files that the child opens and of the libraries' versions."""
    files = []
    for path in sorted(folder.iterdir()):
        if path.name in _OTHER_FILES or path.name.endswith(_OTHER_ENDINGS) or not path.is_file():
            continue
        size = path.stat().st_size
        # Larger files are refused when they are read.
        files.append([path.name, size, sha256_file(path) if size <= limits.LARGEST_FILE else None])
    return sha256_json([_reader(), files])


@cache
def _reader() -> list[str]:
    found = []
    for name in _READERS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return [*found, sha256_file(_CHILD)]


@cache
def _bundled() -> str:
    return content_key(DEMO_BASE)


def _is_remembered(key: str) -> bool:
    place = _memory()
    if place is None:
        return False
    try:
        about = os.lstat(place / key)
    except OSError:
        return False
    return stat.S_ISREG(about.st_mode) and _is_mine(about)


def _memory() -> Path | None:
    """Returns the cache folder, created if missing; None if it cannot be trusted or created."""
    try:
        place = cache_folder() / "opened"
        place.parent.parent.mkdir(parents=True, exist_ok=True)
        for folder in (place.parent, place):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            about = os.lstat(folder)
            if not stat.S_ISDIR(about.st_mode) or not _is_mine(about):
                return None
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    return place


def _is_mine(about: os.stat_result) -> bool:
    """Whether only this user can have written there."""
    return not hasattr(os, "geteuid") or (
        about.st_uid == os.geteuid() and not about.st_mode & 0o022
    )


def _tried(folder: Path) -> Failure | None:
    """Runs the child; returns its failure, or None."""
    bounds = {"growth": limits.MOST_GROWTH_SEEN, "token": limits.LONGEST_TOKEN}
    order = {
        "path": [str(Path(entry).absolute()) for entry in sys.path],
        "folder": str(folder.absolute()),
        "memory": limits.CHILD_MEMORY,
        "seconds": limits.CHILD_CPU_SECONDS,
        "bounds": bounds,
    }
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment = {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RAYON_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "RUST_BACKTRACE": "0",
    }
    # -I: neither the environment nor the current folder decides what is imported.
    command = [sys.executable, "-I", "-B", "-X", "utf8", str(_CHILD)]
    try:
        process = subprocess.Popen(  # noqa: S603  (this Python and a file of this package)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            close_fds=True,
        )
    except (OSError, ValueError) as error:
        raise SetupError(
            f"no child process can be started to open {folder.name} safely: {error}",
            hint="run it where Python can start processes; the bundled base 'demo' needs none",
            where=str(folder),
        ) from error
    with process:
        try:
            written, _ = process.communicate(
                json.dumps(order).encode() + b"\n", timeout=limits.CHILD_SECONDS
            )
        except subprocess.TimeoutExpired:
            process.kill()
            written, _ = process.communicate()
            return Failure(
                _lines(written)[0], "timeout", f"it took more than {limits.CHILD_SECONDS} seconds"
            )
        except BaseException:
            process.kill()
            raise
    return _outcome(*_lines(written), process.returncode)


def _lines(written: bytes) -> tuple[str, dict[str, dict[str, str] | None] | None]:
    """Returns the last stage that the child started, and its last line."""
    lines = [json.loads(line) for line in written.splitlines()]
    stages = [str(line["stage"]) for line in lines if "stage" in line]
    return (stages[-1] if stages else "start"), (
        lines[-1] if lines and "end" in lines[-1] else None
    )


def _outcome(
    stage: str, last: dict[str, dict[str, str] | None] | None, code: int
) -> Failure | None:
    if last is not None:
        end = last["end"]
        return None if end is None else Failure(stage, str(end["kind"]), str(end["reason"]))
    if code < 0:
        number = -code
        name = signal.Signals(number).name if number in {*signal.Signals} else str(number)
        return Failure(stage, "signal", name)
    return Failure(stage, "ended", f"exit code {code}")


def _error(failure: Failure, folder: Path) -> DataError | SetupError:
    """Returns the error for a failure in the child; it names the file being opened."""
    if failure.stage in ("start", "limits"):
        return SetupError(
            f"the child process that opens {folder.name} first does not start: {failure.kind} "
            f"{failure.reason}",
            hint="check the installation: python -c 'import transformers'",
        )
    if failure.kind in ("ImportError", "ModuleNotFoundError"):
        problem = f"the tokenizer of {folder.name} needs a package: {failure.reason}"
        return SetupError(problem, hint="pip install sentencepiece protobuf")
    what = "tokenizer" if failure.stage in _TOKENIZER_STAGES else failure.stage
    tokenizers = next(
        (name for name in _TOKENIZERS if (folder / name).is_file()), "tokenizer_config.json"
    )
    where = str(folder / (tokenizers if what == "tokenizer" else f"{what.replace(' ', '_')}.json"))
    too_long = f"opening it takes more than {limits.CHILD_CPU_SECONDS} seconds"
    reasons = {
        "MemoryError": f"opening it takes more than {limits.in_words(limits.CHILD_MEMORY)} of "
        "memory",
        "SIGXCPU": too_long,
        "SIGKILL": too_long,
        "timeout": failure.reason,
        "PanicException": f"it makes the tokenizers library panic: {failure.reason}",
        "signal": f"it ends the process that opens it ({failure.reason})",
        "ended": f"it ends the process that opens it ({failure.reason})",
    }
    kind = failure.reason if failure.reason in reasons else failure.kind
    reason = reasons.get(kind, failure.reason or failure.kind)
    return DataError(
        f"no {what} can be loaded from {folder.name}: {reason}", hint=_HINT, where=where
    )
