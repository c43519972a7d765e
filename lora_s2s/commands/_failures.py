"""How errors are shown: the message, where it occurred, the next command."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from types import TracebackType

from lora_s2s.console import plain, say, wait_for_the_first
from lora_s2s.errors import Error, LeftAlone, RecipeError, Stopped, UsageError
from lora_s2s.pipeline.failures import first_line

_MOST_LISTED, _LONGEST_LINE = 50, 2_000
_SECRET = re.compile(r"(TOKEN|API_?KEY|SECRET|PASSWORD)(_|$)", re.IGNORECASE)
_PASSWORD = re.compile(r"//[^/@\s]{1,500}@")


def show(
    message: str,
    *,
    where: str | None = None,
    hint: str | None = None,
    listed: Sequence[str] = (),
    kind: str = "error: ",
) -> None:
    """Writes ``error: …``, the listed items, ``  at: …`` and ``hint: …`` to stderr.

    Each is one line of limited length, even if it quotes text from data; values of secret
    environment variables and passwords in URLs are masked.
    """

    more = [f"  … and {len(listed) - _MOST_LISTED:,} more"] if len(listed) > _MOST_LISTED else []
    lines = [f"{kind}{message}", *(f"  {line}" for line in listed[:_MOST_LISTED]), *more]
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


def show_failure(failure: Error) -> None:
    """Shows an error; problems of a recipe and differences from a checkpoint take a line each."""

    wait_for_the_first(too=isinstance(failure, LeftAlone))
    message, *listed = (
        failure.message.split("\n  ") if isinstance(failure, UsageError) else [failure.message]
    )
    listed = failure.problems if isinstance(failure, RecipeError) else listed
    # To stop as asked is no error.
    kind = "" if isinstance(failure, Stopped) else "error: "
    show(message, where=failure.where, hint=failure.hint, listed=listed, kind=kind)


def show_traceback(error: BaseException) -> None:
    """Writes a traceback to stderr, for ``--debug``."""
    sys.__excepthook__(type(error), error, error.__traceback__)


def unexpected(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """``sys.excepthook`` for defects of this package: one line instead of a traceback; Python then
    exits with 1.
    """
    if issubclass(kind, KeyboardInterrupt):
        say("stopped", failure=True)
        return
    place = None
    while trace is not None:
        code = trace.tb_frame.f_code
        if "lora_s2s" in code.co_filename:
            place = f"{code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    show(
        f"something unforeseen: {kind.__name__}: {first_line(error)}",
        where=place,
        hint="run again with --debug and report the traceback",
    )
