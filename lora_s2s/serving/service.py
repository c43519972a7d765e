"""From a request to its answers: the model it names, the jobs it makes, the wait for them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from lora_s2s.console import say
from lora_s2s.errors import Error, UsageError
from lora_s2s.serving.batcher import Answer, Batcher, Job, QueueFull, Stopping, Unreadable
from lora_s2s.serving.metrics import Metrics
from lora_s2s.serving.models import Served
from lora_s2s.serving.replies import END, Body, Refused, Shape, event, json_response
from lora_s2s.serving.schema import ChatRequest, CompletionRequest

Row = str | Mapping[str, object]


@dataclass(frozen=True)
class Limits:
    """What a server allows itself.

    Attributes:
        queue: rows that may wait.
        seconds: the longest time from a request to its answer.
        log_text: whether prompts and answers are logged.
    """

    queue: int = 256
    seconds: float = 60.0
    log_text: bool = False

    def __post_init__(self) -> None:
        for name, value in (("--queue", self.queue), ("--timeout", self.seconds)):
            if not 0 < value < math.inf:
                raise UsageError(f"{name} is {value}; expected a positive number")


class Service:
    """What all requests share: models, limits, counters, the queue."""

    def __init__(self, models: Sequence[Served], limits: Limits) -> None:
        self.models = {served.name: served for served in models}
        self.metrics = Metrics()
        self.batcher = Batcher(limits.queue, self.metrics.batch)
        self.metrics.follow(lambda: self.batcher.waiting)
        self._limits = limits
        self._started = int(time.time())

    def model(self, name: str | None) -> Served:
        """Returns the model of a name; the first one without a name.

        Raises:
            Refused: there is no such model.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            names = ", ".join(self.models)
            message = f"no model '{name:.100}'; this server has: {names}"
            raise Refused(404, message, "model", "model_not_found")
        return self.models[name]

    def entry(self, served: Served) -> Body:
        """Returns a model's entry in ``/v1/models``."""
        about = {"object": "model", "created": self._started, "owned_by": "lora-s2s"}
        return {"id": served.name, **about}

    async def completion(self, asked: CompletionRequest, request: Request) -> Response:
        """Answers each prompt."""
        served = self.model(asked.model)
        shape = Shape(chat=False, model=served.name)
        jobs = self._jobs(served, asked.rows, asked.max_tokens, asked.stops)
        answers = await self._answers(jobs, request)
        return _response(shape, answers, asked)

    async def chat(self, asked: ChatRequest, request: Request) -> Response:
        """Answers a conversation; a model that was not trained on any gets the last message."""
        served = self.model(asked.model)
        shape = Shape(chat=True, model=served.name)
        turns = [{"role": turn.role, "content": turn.text} for turn in asked.messages]
        row: Row = {"messages": turns}
        ignored = 0
        if not served.reads_dialogues:
            if asked.messages[-1].role != "user":
                raise Refused(422, "the last message is not the user's", "messages")
            row, ignored = asked.messages[-1].text, len(turns) - 1
        longest = asked.max_completion_tokens or asked.max_tokens
        jobs = self._jobs(served, [row], longest, asked.stops)
        answers = await self._answers(jobs, request)
        response = _response(shape, answers, asked)
        if ignored:
            response.headers["X-Ignored-Messages"] = str(ignored)
        return response

    def _jobs(
        self, served: Served, rows: Sequence[Row], longest: int | None, stops: tuple[str, ...]
    ) -> list[Job]:
        most = served.settings.max_new_tokens
        settings = replace(served.settings, max_new_tokens=min(longest or most, most))
        loop = asyncio.get_running_loop()
        return [Job(served, row, settings, loop.create_future(), stops) for row in rows]

    async def _answers(self, jobs: Sequence[Job], request: Request) -> list[Answer]:
        """Waits for all answers; once they fail, take too long or have no reader, their places are
        free.
        """
        self._submit(jobs)
        everything = asyncio.gather(*(job.result for job in jobs))
        gone = asyncio.ensure_future(_gone(request))
        seconds, first = self._limits.seconds, asyncio.FIRST_COMPLETED
        try:
            waited: set[asyncio.Future[Any]] = {everything, gone}
            await asyncio.wait(waited, timeout=seconds, return_when=first)
            if everything.done():
                answers = _result(everything)
                self._note(jobs, answers)
                return answers
        finally:
            gone.cancel()
            everything.cancel()
        if gone.done():
            raise Refused(499, "the client has gone")
        raise Refused(504, f"no answer within {seconds:g} s", code="timeout")

    def _submit(self, jobs: Sequence[Job]) -> None:
        try:
            self.batcher.submit(jobs)
        except Stopping:
            raise Refused(503, "the server is stopping", headers={"Retry-After": "5"}) from None
        except QueueFull as full:
            wait = {"Retry-After": str(max(1, math.ceil(full.seconds)))}
            message = f"the queue is full: {self._limits.queue} rows may wait"
            raise Refused(429, message, code="queue_full", headers=wait) from None

    def _note(self, jobs: Sequence[Job], answers: Sequence[Answer]) -> None:
        for job, answer in zip(jobs, answers, strict=True):
            self.metrics.tokens(job.served.name, answer.read, answer.produced)
            if self._limits.log_text:
                say(f"{job.served.name}: {job.row} → {answer.text}")


def _response(
    shape: Shape, answers: Sequence[Answer], asked: CompletionRequest | ChatRequest
) -> Response:
    cut = sum(answer.truncated for answer in answers)
    headers = {"X-Truncated-Prompts": str(cut)} if cut else {}
    if not asked.stream:
        return json_response(shape.whole(answers), headers=headers)
    parts = _events(shape, answers, with_usage=asked.with_usage)
    return StreamingResponse(parts, headers=headers, media_type="text/event-stream")


async def _events(
    shape: Shape, answers: Sequence[Answer], *, with_usage: bool
) -> AsyncIterator[bytes]:
    for index, answer in enumerate(answers):
        yield event(shape.chunk(index, answer.text, first=True))
        yield event(shape.chunk(index, "", answer.finish, first=False))
    if with_usage:
        yield event(shape.usage_chunk(answers))
    yield END


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _result(everything: asyncio.Future[list[Answer]]) -> list[Answer]:
    error = everything.exception()
    if error is None:
        return everything.result()
    if isinstance(error, Unreadable):
        raise Refused(422, str(error), "prompt")
    log_failure(error)
    raise Refused(500, "the model failed on this request")


def log_failure(error: BaseException) -> None:
    """Logs a failure without any text of a request: the message only where it is our own."""
    place, trace = "", error.__traceback__
    while trace is not None:
        place, trace = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}", trace.tb_next
    about = f": {error.message}" if isinstance(error, Error) else f" at {place}"
    say(f"error: {type(error).__name__}{about}")
