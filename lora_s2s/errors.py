"""Errors that users see: one message, where it occurred, the next command, and an exit code.

Exit codes: 1 the run failed · 2 usage or recipe · 3 data, or a file refused · 4 out of memory or
disk · 5 environment · 128 + signal when stopped after saving.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

# Characters of one name, and of all names together (a vocabulary of 32,000 tokens has 200,000).
_LONGEST_NAME, _LONGEST_NAMES = 100, 400_000
_SHEET = re.compile(r"\.(xlsx?|ods)$", re.IGNORECASE)
# What neither of Windows' shells reads as anything but itself.
_PLAIN_WORD = re.compile(r"[\w.:\\/=+-]+")


class Error(Exception):
    """An error that is shown without a traceback.

    Args:
        message: what was given and what was expected, in one sentence.
        hint: the next command or change to try.
        where: ``file:line``, a row or a key.
    """

    exit_code = 1
    __notes__: list[str]  # a traceback shows them below the message, from Python 3.11 on

    def __init__(self, message: str, *, hint: str | None = None, where: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = where


class RunError(Error):
    """The run failed (a loss that is not finite, a failed check)."""


class LeftAlone(RunError):
    """Another process of the run has ended: a consequence, which that one's error explains."""


class UsageError(Error):
    """The command line or a setting is wrong."""

    exit_code = 2


class RecipeError(UsageError):
    """All problems of a recipe at once, each with its ``file:line`` and nearest key."""

    def __init__(
        self, problems: Sequence[str], *, hint: str | None = None, where: str | None = None
    ) -> None:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''} in the recipe"
        super().__init__(
            "\n".join([f"{count}:", *(f"  {problem}" for problem in problems)]),
            hint=hint,
            where=where,
        )
        self.problems = list(problems)


class DataError(Error):
    """Unusable data, or a refused file (adapter, model, checkpoint)."""

    exit_code = 3


class ResourceError(Error):
    """Out of memory or disk."""

    exit_code = 4


class SetupError(Error):
    """The environment lacks a package, a device or the network."""

    exit_code = 5


@contextmanager
def extra(name: str) -> Iterator[None]:
    """A package that cannot be imported inside is one of this extra's.

    Raises:
        SetupError: with the command that installs it.
    """
    try:
        yield
    except ImportError as error:
        hint = f"pip install 'lora-s2s[{name}]'"
        raise SetupError(f"a package is missing: {error}", hint=hint) from error


class Stopped(Error):
    """Stopped as the user asked, after a checkpoint was saved: exit code 1 at the end of
    ``--stop-after``, 130 for SIGINT, 143 for SIGTERM, SIGHUP, SIGUSR1.
    """

    def __init__(self, message: str, signal_number: int | None = None, also: str = "") -> None:
        super().__init__(message, hint=f"continue: {again()}{also}")
        if signal_number is not None:
            self.exit_code = 130 if signal_number == signal.SIGINT else 143
            self.signal_name = signal.Signals(signal_number).name


class Killed(Error):
    """A process of several was killed: exit code 128 + signal."""

    def __init__(self, signal_number: int, process: str) -> None:
        name = signal.Signals(signal_number).name
        hint = f"see whether memory ran out (dmesg); continue: {again()}"
        super().__init__(f"{process} was killed by {name}", hint=hint)
        self.exit_code = 128 + signal_number


_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|_ALLOC_FAILED")


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch or a CUDA library means that memory ran out."""
    # By name, since this module does not import torch. On a CPU, and in cuBLAS, only the text says.
    by_name = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    by_text = isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError) or by_name or by_text


@contextmanager
def naming_out_of_memory(message: str, *, hint: str) -> Iterator[None]:
    """Turns running out of memory inside, on a GPU or a CPU, into one message.

    Raises:
        ResourceError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise ResourceError(message, hint=hint) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the closest known name, or an empty string."""
    close = closest(name, known)
    return f" (did you mean '{close}'?)" if close else ""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Returns the closest known name, in whatever case; None where none is close."""
    # Comparison takes time in the product of the lengths, so long names (from data) are skipped.
    short = [other for other in known if len(other) <= _LONGEST_NAME >= len(name)]
    lengths = itertools.accumulate(map(len, short))
    compared = {
        other.casefold(): other
        for other, length in zip(short, lengths, strict=True)
        if length <= _LONGEST_NAMES
    }
    close = difflib.get_close_matches(name.casefold(), compared, n=1)
    return compared[close[0]] if close else None


def like_missing(name: str, beside: Iterable[str]) -> tuple[str, str]:
    """Which of the names in its folder a missing file may have been meant for, as :func:`nearest`
    says it, and a hint. Of a spreadsheet the hint is how to save it.
    """
    # Backwards, so that a CSV hides the spreadsheet of its name.
    called = {_SHEET.sub(".csv", other): other for other in sorted(beside, reverse=True)}
    meant = closest(name, called)
    stem, other = (text.rpartition(".")[0] for text in (name, meant or ""))
    if meant in called and called[meant] != meant and closest(stem, [other]):
        return "", f"a spreadsheet is not read: save {called[meant]} as CSV (UTF-8), {meant}"
    files = sorted(called.keys() & called.values())
    return nearest(name, files), "check the path; it is relative to the current folder"


def quoted(word: object) -> str:
    """A word or path as the shell reads it: of Unix, or both of Windows'."""
    text = str(word)
    if sys.platform == "win32":
        escaped = text.replace('"', r"\"")
        return text if _PLAIN_WORD.fullmatch(text) else f'"{escaped}"'
    return shlex.quote(text)


# The words of this process's command line; none where Python calls.
COMMAND_LINE: ContextVar[Sequence[str]] = ContextVar("command line", default=())
# How the id of a launch by ``--processes`` begins, which its processes' command lines lack.
OWN_LAUNCH = "lora-s2s-"
# The options of one start, with the commands that take them.
_OF_THIS_START = {
    "--resume": {"train", "eval", "predict"},
    "--resume-anyway": {"train"},
    "--overwrite": {"train", "init", "push"},
}

_TAKE_SETTINGS = {"train", "init", "prepare", "plan", "sweep", "eval", "predict"}


def again(option: str = "--resume", *settings: str) -> str:
    """The command line of this process, ready to paste, with an option where the command takes it,
    and settings; from Python, the call.

    >>> again("--resume-anyway"), again("--resume", "training.seed=2")
    ('the same call with resume_anyway=True', 'the same call with resume=True and training.seed=2')
    """
    given = _without(COMMAND_LINE.get(), [setting.partition("=")[0] for setting in settings])
    words = [quoted(word) for word in given if word not in _OF_THIS_START]
    if not words:
        flag = [f"{option[2:].replace('-', '_')}=True"] * bool(option)
        also = " and ".join([*flag, *settings])
        return f"the same call{f' with {also}' if also else ''}"
    if option and _OF_THIS_START.get(option, set()).isdisjoint(words):
        return f"lora-s2s {' '.join(words)}"
    options = [option] * bool(option) + [f"--set {quoted(setting)}" for setting in settings]
    if options and "RANK" in os.environ:
        if not os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(OWN_LAUNCH):
            return f"the same command with {' '.join(options)}"
        options.append(f"--processes {os.environ['WORLD_SIZE']}")
    place = words.index("--") if "--" in words else len(words)
    return " ".join(["lora-s2s", *words[:place], *options, *words[place:]])


def _without(words: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The words of a command line without the settings of these keys, or options that are keys."""
    starts = tuple(f"{key}=" for key in keys)
    options = [f"--{key.rpartition('.')[2].replace('_', '-')}" for key in keys]
    dropped = {
        place
        for place, (option, setting) in enumerate(itertools.pairwise(words))
        if option in options or (option == "--set" and setting.startswith(starts))
    }
    return [
        word
        for place, word in enumerate(words)
        if not dropped & {place, place - 1} and word.partition("=")[0] not in options
    ]


def with_settings(*settings: str) -> str:
    """The command line of this process with settings, where it takes them; else these alone.

    >>> with_settings("data.encoding=cp1252", "data.template={a} {b}")
    "--set data.encoding=cp1252 --set 'data.template={a} {b}'"
    """
    if _TAKE_SETTINGS.isdisjoint(COMMAND_LINE.get()[:1]):
        return " ".join(f"--set {quoted(setting)}" for setting in settings)
    return again("", *settings)
