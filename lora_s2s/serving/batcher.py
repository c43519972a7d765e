"""Requests to batches: a bounded queue on the event loop, one thread that computes.

While a batch is computed, others wait; the next one is the oldest request and as many behind it, of
the same model and settings, as fit the bound on padded source tokens. Nothing waits for company.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from lora_s2s.errors import DataError, SetupError, UsageError
from lora_s2s.inference.decode import Prediction, read_answer
from lora_s2s.inference.engine import MOST_HYPOTHESES, DecodingSettings, WatchedEngine
from lora_s2s.inference.torch_engine import TorchEngine
from lora_s2s.serving.models import Served

_Result = TypeVar("_Result")
FORMAT = "response_format"
# What a decoder writes for the bytes of an unfinished character.
_INCOMPLETE = "\ufffd"
# Decoding the text so far after each token would cost more than a fast engine's tokens.
SECONDS_BETWEEN_PARTS = 0.02


class QueueFull(Exception):
    """No place is free; ``seconds`` is about how long until one is."""

    def __init__(self, seconds: float) -> None:
        super().__init__("the queue is full")
        self.seconds = seconds


class Stopping(Exception):
    """The server takes no more requests."""


class Unreadable(Exception):
    """No source can be made of a row, or its answers cannot be as ``field`` asks; the message says
    why.
    """

    def __init__(self, message: str, field: str = "prompt") -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Answer:
    """An answer and its true counts.

    Attributes:
        finish: ``stop`` where the answer is complete, ``length`` where the limit ended it.
        read: tokens that the encoder read.
        produced: tokens that the decoder produced.
        truncated: whether the source was too long.
    """

    text: str
    finish: str
    read: int
    produced: int
    truncated: bool


@dataclass(eq=False)
class Job:
    """One source to be answered.

    Attributes:
        result: gets the answer, or is cancelled by whoever waits for it.
        stops: strings before which the answer ends.
        emit: gets the text piece by piece, on the event loop; what is left comes with ``result``.
        source: rendered, once :meth:`read` was called.
    """

    served: Served
    row: str | Mapping[str, object]
    settings: DecodingSettings
    result: asyncio.Future[Answer]
    stops: tuple[str, ...] = ()
    emit: Callable[[str], None] | None = None
    source: str | None = None
    ids: Sequence[int] = ()
    truncated: bool = False
    _sent: str = ""
    _last: str = ""
    _next_part: float = 0.0

    def read(self) -> None:
        """Renders and measures the source, as ``predict`` does.

        Raises:
            Unreadable: no source can be made of the row, or the model cannot follow the
                constraint.
        """
        predictor = self.served.predictor
        try:
            predictor.check_constraint(self.settings)
        except (UsageError, SetupError) as error:
            raise Unreadable(error.message, FORMAT) from error
        try:
            question = predictor.question(self.row)
        except (UsageError, DataError) as error:
            raise Unreadable(error.message) from error
        try:
            question.source.encode()
        except UnicodeEncodeError as error:  # JSON can spell half a character
            raise Unreadable("the text is not valid Unicode") from error
        source = predictor.fitted(question)
        self.ids = predictor.encode(source)
        self.truncated = source != question.source or not predictor.fits(source)
        self.source = source

    def joins(self, other: Job) -> bool:
        """Whether one batch can hold both: of one model, or of adapters over one base."""
        if self.settings != other.settings:
            return False
        mine, its = self.served.predictor.engine, other.served.predictor.engine
        return mine is its or (isinstance(mine, TorchEngine) and mine.mixes_with(its))

    def follow(self, so_far: Callable[[], Prediction]) -> bool:
        """Emits what is certain of an unfinished answer; says whether more of it is unwanted."""
        if self.result.done():
            return True
        now = time.monotonic()
        if (self.emit is None or now < self._next_part) and not self.stops:
            return False
        self._next_part = now + SECONDS_BETWEEN_PARTS
        text, ended = self._before_stop(so_far().text)
        # The next token may change the last word, or complete a character or a stop string.
        held = 0 if ended else max(map(len, self.stops), default=1) - 1
        certain = _shared(self._last, text[: max(0, len(text) - held)]).rstrip(_INCOMPLETE)
        self._last = text
        if self.emit is not None and certain.startswith(self._sent):
            piece, self._sent = certain[len(self._sent) :], certain
            if piece:
                self.result.get_loop().call_soon_threadsafe(self.emit, piece)
        return ended

    def answer(self, prediction: Prediction) -> Answer:
        """Returns the answer, cut before the first stop string."""
        text, ended = self._before_stop(prediction.text)
        finish = "stop" if ended or prediction.stopped else "length"
        return Answer(text, finish, len(self.ids), prediction.tokens, self.truncated)

    def _before_stop(self, text: str) -> tuple[str, bool]:
        ends = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        return (text[: min(ends)] if ends else text), bool(ends)


class Batcher:
    """Answers jobs in batches, one at a time.

    Args:
        most_waiting: places of the queue.
        report: called with each batch's size and seconds.
    """

    def __init__(self, most_waiting: int, report: Callable[[int, float], None]) -> None:
        self.most_waiting = most_waiting
        self.stopping = False
        self._report = report
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._seconds = 1.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to answer, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Ends after the batch that is being computed."""
        self.stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._thread.shutdown(cancel_futures=True)

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether something is waiting or being computed."""
        return bool(self._waiting or self._running)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Puts all jobs of a request into the queue, or none.

        Raises:
            Stopping, QueueFull: they are not taken.
        """
        if self.stopping:
            raise Stopping
        if len(self._waiting) + len(jobs) > self.most_waiting:
            raise QueueFull(self._seconds)
        for job in jobs:
            self._waiting.append(job)
            job.result.add_done_callback(lambda _, job=job: self._leave(job))  # type: ignore[misc]
        self._arrived.set()

    def _leave(self, job: Job) -> None:
        """Frees the place of a job whose client has gone."""
        if job in self._waiting:
            self._waiting.remove(job)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                for job in [job for job in self._waiting if job.source is None]:
                    await self._read(job)
                self._running = self._next_batch()
                if self._running:
                    await self._answer(self._running)
                    self._running = []

    async def _read(self, job: Job) -> None:
        if not job.result.done():
            outcome = await self._in_thread(job.read)
            if isinstance(outcome, BaseException):
                _fail(job, outcome)
                self._leave(job)

    def _next_batch(self) -> list[Job]:
        """Takes the oldest job that is read, and those behind it that fit beside it."""
        batch: list[Job] = []
        longest = 0
        # A place may be given up and not yet free.
        self._waiting = deque(job for job in self._waiting if not job.result.done())
        for job in self._waiting:
            if job.source is None or (batch and not job.joins(batch[0])):
                continue
            padded = max(longest, len(job.ids))
            if not batch or _fits(padded, len(batch) + 1, job.settings):
                batch.append(job)
                longest = padded
        for job in batch:
            self._waiting.remove(job)
        return batch

    async def _answer(self, batch: Sequence[Job]) -> None:
        """Answers a batch; where it fails, each job alone, so that only those at fault fail."""
        start = time.monotonic()
        outcome = await self._in_thread(lambda: compute(batch))
        self._seconds = time.monotonic() - start
        self._report(len(batch), self._seconds)
        if not isinstance(outcome, BaseException):
            for job, prediction in zip(batch, outcome, strict=True):
                if not job.result.done():
                    job.result.set_result(job.answer(prediction))
        elif len(batch) == 1:
            _fail(batch[0], outcome)
        else:
            for job in batch:
                if not job.result.done():
                    await self._answer([job])

    async def _in_thread(self, compute: Callable[[], _Result]) -> _Result | BaseException:
        """Returns what a call gives in the model's thread, or its exception, whatever it is."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, compute)
        await asyncio.wait([future])
        return future.exception() or future.result()


def _fits(padded: int, count: int, settings: DecodingSettings) -> bool:
    hypotheses = count * settings.num_beams
    return padded * hypotheses <= settings.batch_tokens and hypotheses <= MOST_HYPOTHESES


def compute(batch: Sequence[Job]) -> list[Prediction]:
    """Answers a batch, in the model's thread; greedy answers are followed if the engine can."""
    predictor = batch[0].served.predictor
    settings = predictor.within_positions(batch[0].settings)
    engine, sources = predictor.engine, [job.ids for job in batch]
    if isinstance(engine, TorchEngine) and any(job.served is not batch[0].served for job in batch):
        engine = engine.mixing([job.served.predictor.engine for job in batch])

    def watch(row: int, ids: list[int]) -> bool:
        job = batch[row]
        return job.follow(lambda: read_answer(job.served.predictor, ids))

    if settings.num_beams == 1 and isinstance(engine, WatchedEngine):
        answers = engine.watched_answers(sources, settings, watch)
    else:
        answers = engine.answers(sources, settings)
    pairs = zip(batch, answers, strict=True)
    return [read_answer(job.served.predictor, ids) for job, ids in pairs]


def _shared(one: str, other: str) -> str:
    """Returns how two texts begin alike."""
    pairs = enumerate(zip(one, other, strict=False))
    end = next((place for place, (left, right) in pairs if left != right), len(other))
    return one[:end]


def _fail(job: Job, error: BaseException) -> None:
    if not job.result.done():
        job.result.set_exception(error)
