"""The wait for the answers of one request: until they are there, too late, or unwanted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

from fastapi import Request

from lora_s2s.console import say
from lora_s2s.errors import Error
from lora_s2s.serving.batcher import Answer, Job, Unreadable
from lora_s2s.serving.replies import Refused

Part: TypeAlias = tuple[int, str]
"""The place of a job in its request, and a piece of its answer."""


class Waiting:
    """Waits for jobs; :meth:`close` frees the places of those that are not answered.

    Args:
        seconds: the longest wait, from now.
        streamed: whether parts are wanted before an answer is complete.
    """

    def __init__(
        self, jobs: Sequence[Job], request: Request, seconds: float, *, streamed: bool
    ) -> None:
        self.jobs = jobs
        self.answers: list[Answer] = []
        self._seconds, self._deadline = seconds, time.monotonic() + seconds
        self._parts: asyncio.Queue[Part] = asyncio.Queue()
        for index, job in enumerate(jobs if streamed else ()):
            job.emit = partial(self._put, index)
        self._all = asyncio.gather(*(job.result for job in jobs))
        # Looked at in any case: asyncio logs exceptions that nobody has seen, text and all.
        self._all.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._gone = asyncio.ensure_future(_gone(request))

    def _put(self, index: int, text: str) -> None:
        self._parts.put_nowait((index, text))

    async def part(self) -> Part | None:
        """Returns the next part; None once all are in ``answers``.

        Raises:
            Refused: there is none, and why.
        """
        getting = asyncio.ensure_future(self._parts.get())
        waited: set[asyncio.Future[Any]] = {getting, self._all, self._gone}
        left, first = max(0.0, self._deadline - time.monotonic()), asyncio.FIRST_COMPLETED
        try:
            await asyncio.wait(waited, timeout=left, return_when=first)
            if getting.done():
                return getting.result()
        finally:
            getting.cancel()
        if self._all.done():
            self.answers = _result(self._all)
            self.close()
            return None
        if self._gone.done():
            raise Refused(499, "the client has gone")
        raise Refused(504, f"no answer within {self._seconds:g} s", code="timeout")

    def close(self) -> None:
        """Ends the wait."""
        self._gone.cancel()
        for job in self.jobs:
            job.result.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _result(everything: asyncio.Future[list[Answer]]) -> list[Answer]:
    error = everything.exception()
    if error is None:
        return everything.result()
    if isinstance(error, Unreadable):
        raise Refused(422, str(error), error.field)
    log_failure(error)
    raise Refused(500, "the model failed on this request")


def log_failure(error: BaseException) -> None:
    """Logs a failure without any text of a request: the message only where it is our own."""
    place, trace = "", error.__traceback__
    while trace is not None:
        place, trace = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}", trace.tb_next
    about = f": {error.message}" if isinstance(error, Error) else f" at {place}"
    say(f"error: {type(error).__name__}{about}")
