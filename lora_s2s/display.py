"""Where messages and progress for people appear: a terminal, a notebook's cell, or nowhere."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from html import escape
from typing import Any, Protocol

_MOST_LINES = 200


class Display(Protocol):
    """What shows messages and progress; the texts are plain, of one or more lines.

    Any object with these methods may be given as ``progress=`` to the functions of ``lora_s2s``.
    """

    @property
    def seconds(self) -> float:
        """The least time between two progress lines."""
        ...

    def message(self, text: str) -> None:
        """Shows a message that stays."""
        ...

    def progress(self, text: str) -> None:
        """Shows a progress line in place of the last one."""
        ...

    def end(self) -> None:
        """Lets the last progress line stay; the next one is another's."""
        ...


class Silent:
    """Shows nothing."""

    seconds = math.inf

    def message(self, text: str) -> None:
        """Shows nothing."""

    def progress(self, text: str) -> None:
        """Shows nothing."""

    def end(self) -> None:
        """Shows nothing."""


class Notebook:
    """One output of a notebook's cell, which is updated."""

    seconds = 0.5

    def __init__(self) -> None:
        self._ipython = importlib.import_module("IPython.display")
        self._lines: list[str] = []
        self._last = ""
        self._handle: Any = None

    def message(self, text: str) -> None:
        """Adds a message."""
        self._lines = [*self._lines, text][-_MOST_LINES:]
        self._show()

    def progress(self, text: str) -> None:
        """Shows a progress line below the messages."""
        self._last = text
        self._show()

    def end(self) -> None:
        """Turns the progress line into a message."""
        if self._last:
            text, self._last = self._last, ""
            self.message(text)

    def _show(self) -> None:
        text = escape("\n".join([*self._lines, *filter(None, [self._last])]))
        shown = self._ipython.HTML(f'<pre style="white-space: pre-wrap">{text}</pre>')
        if self._handle is None:
            self._handle = self._ipython.display(shown, display_id=True)
        else:
            self._handle.update(shown)


_current: ContextVar[Display | None] = ContextVar("display", default=None)


def current() -> Display | None:
    """What shows messages here; None is the terminal."""
    return _current.get()


@contextmanager
def having(variable: ContextVar[Any], value: object) -> Iterator[None]:
    """While entered, a variable has a value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def showing(display: Display | None) -> AbstractContextManager[None]:
    """While entered, messages and progress go to ``display``; None is the terminal."""
    return having(_current, display)


# Whether messages are shown, and not progress alone.
MESSAGES: ContextVar[bool] = ContextVar("messages", default=True)


# What progress is made for, which begins its lines.
PURPOSE: ContextVar[str] = ContextVar("purpose", default="")


def chosen(progress: bool | Display) -> Display | None:
    """The display of a ``progress=`` argument: True is a notebook's cell or the terminal, False
    nothing.
    """
    if not isinstance(progress, bool):
        return progress
    if not progress:
        return Silent()
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return Notebook() if hasattr(shell, "kernel") else None
