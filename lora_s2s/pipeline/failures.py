"""Which failure an exception is. Light to import."""

from __future__ import annotations

import errno
import os
import sys

from lora_s2s.errors import (
    Error,
    LeftAlone,
    ResourceError,
    RunError,
    SetupError,
    UsageError,
    again,
    ran_out_of_memory,
)
from lora_s2s.files import NO_ENTRY

_OUT_OF_DISK = (errno.ENOSPC, errno.EDQUOT)
# What a failure is made of; any other exception is a defect of this package.
FORESEEN = (Error, MemoryError, OSError, ImportError, RuntimeError)


def failure_of(error: BaseException) -> Error | None:
    """Returns the failure that an exception is, or None when it was not foreseen."""
    if isinstance(error, Error):
        return error
    if ran_out_of_memory(error):
        return ResourceError(
            f"out of memory: {first_line(error) or 'the machine has no more'}",
            hint="lower training.tokens_per_batch or evaluation.batch_tokens, or take a smaller "
            "model",
        )
    if _left_alone(error):
        hint = f"see what it said, or whether memory ran out; continue: {again()}"
        return LeftAlone("another process of this run has ended", hint=hint)
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
        return _of_system(error)
    return None


def _of_system(error: OSError) -> Error:
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
    if error.errno == errno.ENOENT and where:
        return RunError(f"no such file or folder: {where}", hint="check the path")
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


def check_interpreter() -> None:
    """Raises SetupError under ``python -OO``."""
    if sys.flags.optimize > 1:
        hint = "run it without -OO and PYTHONOPTIMIZE=2"
        raise SetupError(
            "python -OO drops the docstrings that transformers cannot be imported without",
            hint=hint,
        )


def _left_alone(error: BaseException) -> bool:
    # Gloo, between CPUs, raises RuntimeError with its name in it; NCCL one of torch's own.
    by_nccl = any(kind.__name__ == "DistError" for kind in type(error).__mro__)
    return by_nccl or (isinstance(error, RuntimeError) and "gloo" in str(error))


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return (str(error).splitlines() or [""])[0]
