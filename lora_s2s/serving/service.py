"""From a request to its answers: the model it names, the jobs it makes, the wait for them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from lora_s2s import limits
from lora_s2s.console import say
from lora_s2s.errors import UsageError
from lora_s2s.recipe.constraint import Value, parse
from lora_s2s.serving.batcher import FORMAT, Answer, Batcher, Job, QueueFull, Stopping
from lora_s2s.serving.metrics import Metrics
from lora_s2s.serving.models import Served
from lora_s2s.serving.replies import END, Body, Refused, Shape, event, json_response
from lora_s2s.serving.schema import ChatRequest, CompletionRequest
from lora_s2s.serving.waiting import Part, Waiting

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
        jobs = self._jobs(served, asked.rows, asked.max_tokens, asked)
        return await self._respond(Shape(chat=False, model=served.name), jobs, asked, request)

    async def chat(self, asked: ChatRequest, request: Request) -> Response:
        """Answers a conversation; a model that was not trained on any gets the last message."""
        served = self.model(asked.model)
        turns = [{"role": turn.role, "content": turn.text} for turn in asked.messages]
        row: Row = {"messages": served.predictor.opened(turns)}
        ignored = 0
        if not served.predictor.reads_dialogues:
            if asked.messages[-1].role != "user":
                raise Refused(422, "the last message is not the user's", "messages")
            row, ignored = asked.messages[-1].text, len(turns) - 1
        longest = asked.max_completion_tokens or asked.max_tokens
        jobs = self._jobs(served, [row], longest, asked)
        shape = Shape(chat=True, model=served.name)
        response = await self._respond(shape, jobs, asked, request)
        if ignored:
            response.headers["X-Ignored-Messages"] = str(ignored)
        return response

    def _jobs(
        self,
        served: Served,
        rows: Sequence[Row],
        longest: int | None,
        asked: CompletionRequest | ChatRequest,
    ) -> list[Job]:
        own = served.settings
        settings = replace(
            own,
            max_new_tokens=min(longest or own.max_new_tokens, own.max_new_tokens),
            constraint=_checked(asked.constraint) or own.constraint,
        )
        loop = asyncio.get_running_loop()
        return [Job(served, row, settings, loop.create_future(), asked.stops) for row in rows]

    async def _respond(
        self,
        shape: Shape,
        jobs: Sequence[Job],
        asked: CompletionRequest | ChatRequest,
        request: Request,
    ) -> Response:
        waiting = Waiting(jobs, request, self._limits.seconds, streamed=asked.stream is True)
        try:
            self._submit(jobs)
            # A failure before the first part of a stream has its own status.
            first = await waiting.part()
            if asked.stream:
                parts = self._stream(shape, waiting, first, with_usage=asked.with_usage)
                kind = "text/event-stream"
                return StreamingResponse(parts, headers=_headers(jobs), media_type=kind)
        except BaseException:
            waiting.close()
            raise
        self._note(jobs, waiting.answers)
        return json_response(shape.whole(waiting.answers), headers=_headers(jobs))

    async def _stream(
        self, shape: Shape, waiting: Waiting, first: Part | None, *, with_usage: bool
    ) -> AsyncIterator[bytes]:
        sent: dict[int, str] = {}
        part = first
        try:
            while part is not None:
                index, text = part
                yield event(shape.chunk(index, text, first=index not in sent))
                sent[index] = sent.get(index, "") + text
                part = await waiting.part()
            self._note(waiting.jobs, waiting.answers)
            for index, answer in enumerate(waiting.answers):
                begun = sent.get(index, "")
                if not answer.text.startswith(begun):
                    raise Refused(500, "the tokenizer changed text that was sent already")
                rest = answer.text[len(begun) :]
                if rest or index not in sent:
                    yield event(shape.chunk(index, rest, first=index not in sent))
                yield event(shape.chunk(index, "", answer.finish, first=False))
            if with_usage:
                yield event(shape.usage_chunk(waiting.answers))
            yield END
        except Refused as refused:
            yield event(refused.body())
        finally:
            waiting.close()

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


def _checked(constraint: Value | None) -> Value | None:
    """Returns a request's constraint.

    Raises:
        Refused: it means nothing, or is larger than a request's may be.
    """
    if constraint is None:
        return None
    try:
        meant = parse(constraint)
    except ValueError as error:
        raise Refused(422, str(error), FORMAT) from error
    if len(meant.text) + sum(map(len, meant.labels)) > limits.LARGEST_REQUEST_CONSTRAINT:
        most = f"{limits.LARGEST_REQUEST_CONSTRAINT:,}"
        raise Refused(422, f"it has more than {most} characters", FORMAT)
    return constraint


def _headers(jobs: Sequence[Job]) -> dict[str, str]:
    cut = sum(job.truncated for job in jobs)
    return {"X-Truncated-Prompts": str(cut)} if cut else {}
