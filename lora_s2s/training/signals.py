"""SIGINT and SIGTERM: the first asks for an end after the current step, the second ends at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from lora_s2s.errors import Stopped

_WATCHED = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While entered, remembers the first signal in ``received``; the old handlers come back afterwards.

    Outside the main thread, where Python allows no handlers, it watches nothing.

    Raises:
        Stopped: from wherever the program is, when a second signal comes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._handle) for number in _WATCHED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise Stopped(number, "stopped at once; the last checkpoint stands", hint="the same command with --resume")
        self.received = number
        # Not through console: a handler may interrupt a write to the buffered stderr, which must not be re-entered.
        os.write(2, b"\nstopping: finishing this step and saving a checkpoint (once more to stop at once)\n")
