"""Signals that end a run cleanly: stored when they arrive, acted on between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

from lora_s2s.console import tell_in_signal_handler
from lora_s2s.errors import Stopped
from lora_s2s.machine import launched_processes

# SLURM sends it before the time limit if the job asks for that.
_WARNING = getattr(signal, "SIGUSR1", None)
# The terminal was closed or the connection lost; on Windows Ctrl+Break.
_HANG_UP = getattr(signal, "SIGHUP", getattr(signal, "SIGBREAK", None))


# Seconds within which a launcher passes on what the terminal sends its processes too.
_ECHO = 2


class StopSignals:
    """Stores the first SIGINT, SIGTERM, SIGHUP or SIGUSR1 in ``received`` while entered.

    On leaving, the previous handlers are restored. Outside the main thread, where Python allows no
    handlers, it does nothing; a SIGHUP that ``nohup`` ignores stays ignored.

    Raises:
        Stopped: at the second signal, wherever the program is. SIGUSR1 only warns, so it does not
            count as the first.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0  # when it arrived
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            candidates = (signal.SIGINT, signal.SIGTERM, _WARNING, _HANG_UP)
            self._previous = {
                number: signal.signal(number, self._handle)
                for number in candidates
                if number is not None
                and (number != _HANG_UP or signal.getsignal(number) != signal.SIG_IGN)
            }
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and self.received != _WARNING:
            if launched_processes() > 1 and time.monotonic() - self._since < _ECHO:
                return
            raise Stopped("stopped at once; the last checkpoint is kept", number)
        self.received, self._since = number, time.monotonic()
        tell_in_signal_handler(
            "\nstopping: a checkpoint is saved after this step or validation (once more to stop at "
            "once)\n"
        )
