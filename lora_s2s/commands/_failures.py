"""What a failure looks like to people: one message, where, the next command, and the exit code."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Sequence
from types import TracebackType

from lora_s2s.errors import (
    RecipeError,
    ResourceError,
    RunError,
    SetupError,
    ToolkitError,
    UsageError,
    ran_out_of_memory,
)
from lora_s2s.files import NO_ENTRY

_OUT_OF_DISK = (errno.ENOSPC, errno.EDQUOT)
_MOST_LISTED, _LONGEST_LINE = 50, 2_000
_SECRET = re.compile(r"(TOKEN|API_?KEY|SECRET|PASSWORD)(_|$)", re.IGNORECASE)
_PASSWORD = re.compile(r"//[^/@\s]{1,500}@")
# Everything a failure is told from; the rest is a defect of this package and goes to `unexpected`.
FORESEEN = (ToolkitError, MemoryError, OSError, ImportError, RuntimeError)


def told(error: BaseException) -> ToolkitError | None:
    """Returns the failure to show for an exception, or None when it was not foreseen."""
    if isinstance(error, ToolkitError):
        return error
    if ran_out_of_memory(error):
        return ResourceError(
            f"out of memory: {_first_line(error) or 'the machine has no more'}",
            hint="lower training.tokens_per_batch or evaluation.batch_tokens, or take a smaller "
            "model",
        )
    if _left_alone(error):
        hint = "see what it said, or whether memory ran out; then the same command with --resume"
        return RunError("another process of this run has ended", hint=hint)
    if isinstance(error, RuntimeError) and "home directory" in str(
        error
    ):  # what Path.expanduser says
        return UsageError(
            "a path begins with ~, and no such home folder is known here",
            hint="write the whole path",
        )
    if isinstance(error, ImportError):
        return SetupError(
            f"a package is missing or broken: {error}", hint="install the package again"
        )
    if isinstance(error, OSError):
        return _told_os(error)
    return None


def _told_os(error: OSError) -> ToolkitError:
    where = str(error.filename) if error.filename else None
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in _OUT_OF_DISK:
        return ResourceError(
            f"out of disk space: {reason}", where=where, hint="free some space, then run it again"
        )
    if error.errno in NO_ENTRY:
        return UsageError(f"no permission: {reason}", where=where, hint="choose another folder")
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(
            f"a name that is too long: {str(where)[:100]}", hint="choose a shorter one"
        )
    if "temporary directory" in reason:
        return UsageError(
            "no folder for temporary files can be written", hint="set TMPDIR to one that can"
        )
    hint = None if where else "run again with --debug to see where"
    return RunError(f"the system refused: {reason}", where=where, hint=hint)


def check_current_folder() -> None:
    """Raises UsageError where the current folder has been removed."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UsageError(
            "the current folder has been removed", hint="change to one that exists"
        ) from error


def _left_alone(error: BaseException) -> bool:
    # Gloo, between CPUs, raises RuntimeError with its name in it; NCCL one of torch's own.
    by_nccl = any(kind.__name__ == "DistError" for kind in type(error).__mro__)
    return by_nccl or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def show(
    message: str, *, where: str | None = None, hint: str | None = None, listed: Sequence[str] = ()
) -> None:
    """Writes ``error: …``, what is listed below it, ``  at: …`` and ``hint: …`` to stderr.

    Each is one line of bounded length, whatever text from data it quotes, and shows no secret of
    the environment.
    """
    from lora_s2s.console import plain, say

    more = [f"  … and {len(listed) - _MOST_LISTED:,} more"] if len(listed) > _MOST_LISTED else []
    lines = [f"error: {message}", *(f"  {line}" for line in listed[:_MOST_LISTED]), *more]
    lines += [f"  at: {where}"] * bool(where) + [f"hint: {hint}"] * bool(hint)
    secrets = [
        value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= 8
    ]
    for line in lines:
        for secret in secrets:
            line = line.replace(secret, "…")
        line = _PASSWORD.sub("//…@", line)
        most = _LONGEST_LINE // 2
        say(
            plain(line if len(line) <= _LONGEST_LINE else f"{line[:most]}…{line[-most:]}"),
            failure=True,
        )


def show_failure(failure: ToolkitError) -> None:
    """Shows a failure; the problems of a recipe, or the differences that stop a resume, a line
    each.
    """
    message, *listed = (
        failure.message.split("\n  ") if isinstance(failure, UsageError) else [failure.message]
    )
    listed = failure.problems if isinstance(failure, RecipeError) else listed
    show(message, where=failure.where, hint=failure.hint, listed=listed)


def show_traceback(error: BaseException) -> None:
    """Writes a traceback to stderr, for ``--debug``."""
    sys.__excepthook__(type(error), error, error.__traceback__)


def unexpected(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """The last resort, as ``sys.excepthook``: one line instead of a traceback; Python then exits
    with 1.
    """
    if issubclass(kind, KeyboardInterrupt):
        show("stopped")
        return
    place = None
    while trace is not None:
        code = trace.tb_frame.f_code
        if "lora_s2s" in code.co_filename:
            place = f"{code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    show(
        f"something unforeseen: {kind.__name__}: {_first_line(error)}",
        where=place,
        hint="run again with --debug and report what it prints",
    )
