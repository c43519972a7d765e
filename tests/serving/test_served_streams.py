"""Answers in parts: real tokens as they are produced, and a client that goes away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lora_s2s.inference.decode import Prediction
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.serving import batcher
from lora_s2s.serving.app import create_app
from lora_s2s.serving.batcher import Job
from lora_s2s.serving.gate import Gate
from lora_s2s.serving.models import Served
from lora_s2s.serving.service import Limits, Service

Build = Callable[..., Any]


class Typed:
    """Decoding that writes one letter of the source after the other, each when it is allowed to."""

    def __init__(self) -> None:
        self.allowed, self.letters, self.ended = threading.Semaphore(0), 0, threading.Event()

    def __call__(self, batch: Sequence[Job]) -> list[Prediction]:
        (job,) = batch
        source = job.source or ""
        for end in range(1, len(source) + 1):
            assert self.allowed.acquire(timeout=120)
            self.letters = end
            text = source[:end]
            if job.follow(lambda text=text: Prediction(text, len(text), False)):
                self.ended.set()
                return [Prediction(text, end, False)]
        return [Prediction(source, len(source) + 1, True)]


class Client:
    """One request on the bare ASGI interface, so that it can go away."""

    def __init__(self, app: Gate, **body: object) -> None:
        self._app, self._body = app, json.dumps(body).encode()
        self.parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.gone = asyncio.Event()
        self._asked = False

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.parts.put(message)

    def start(self) -> asyncio.Task[None]:
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
        more = {"query_string": b"", "raw_path": b"", "scheme": "http", "http_version": "1.1"}
        return asyncio.ensure_future(self._app({**scope, **more}, self._receive, self._send))

    async def text(self) -> str:
        """The text of the next part."""
        message = await asyncio.wait_for(self.parts.get(), 20)
        event = message["body"].decode().removeprefix("data: ")
        return json.loads(event)["choices"][0]["text"]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    made = Typed()
    monkeypatch.setattr(batcher, "compute", made)
    return made


@pytest.fixture
def service(tiny_predictor: Build) -> Callable[..., Service]:
    def build(**limits: Any) -> Service:
        settings = DecodingSettings(max_new_tokens=64)
        return Service([Served("m0", tiny_predictor(), settings)], Limits(**limits))

    return build


def run(service: Service, scenario: Callable[[Gate], Any]) -> None:
    async def running() -> None:
        app = create_app(service)
        service.batcher.start()
        try:
            await scenario(app)
        finally:
            await service.batcher.close()

    asyncio.run(running())


def test_parts_come_while_the_answer_is_produced(
    service: Callable[..., Service], typed: Typed
) -> None:
    async def scenario(app: Gate) -> None:
        client = Client(app, prompt="abcd", stream=True)
        task = client.start()
        typed.allowed.release(2)
        start = await asyncio.wait_for(client.parts.get(), 20)
        assert (start["type"], start["status"]) == ("http.response.start", 200)
        # The last letter could still change with the next one.
        assert (await client.text(), typed.letters) == ("a", 2)
        typed.allowed.release()
        assert (await client.text(), typed.letters) == ("b", 3)
        typed.allowed.release()
        assert [await client.text(), await client.text()] == ["c", "d"]
        await task

    run(service(), scenario)


def test_a_client_that_goes_away_ends_its_answer(
    service: Callable[..., Service], typed: Typed
) -> None:
    made = service()

    async def scenario(app: Gate) -> None:
        for stream in (True, False):
            typed.ended.clear()
            client = Client(app, prompt="abcd" * 9, stream=stream)
            task = client.start()
            typed.allowed.release(3)
            while typed.letters != 3:
                await asyncio.sleep(0.01)
            waiting = Client(app, prompt="x").start()
            client.gone.set()
            await asyncio.wait([task], timeout=120)
            typed.allowed.release(2)
            await asyncio.wait([waiting], timeout=120)
            assert (task.done(), waiting.done()) == (True, True)
            assert typed.ended.is_set()
            assert not made.batcher.waiting
            typed.letters = 0

    run(made, scenario)


def test_a_waiting_client_that_goes_away_frees_its_place(
    service: Callable[..., Service], typed: Typed
) -> None:
    made = service(queue=1)

    async def scenario(app: Gate) -> None:
        first = Client(app, prompt="a").start()
        while made.batcher.waiting or not made.batcher.busy:
            await asyncio.sleep(0.01)
        client = Client(app, prompt="b")
        second = client.start()
        while not made.batcher.waiting:
            await asyncio.sleep(0.01)
        client.gone.set()
        await second
        assert made.batcher.waiting == 0
        third = Client(app, prompt="c").start()
        typed.allowed.release(2)
        await asyncio.wait([first, third], timeout=120)
        assert (first.done(), third.done(), typed.ended.is_set()) == (True, True, False)

    run(made, scenario)


@pytest.mark.parametrize(
    ("steps", "stops", "pieces", "end"),
    [
        (["a", "ab", "abc"], (), ["a", "b"], "abc"),
        # The second token turns the first one's text into another.
        (["a ", "a\n", "a\nb"], (), ["a", "\n"], "a\nb"),
        # An unfinished character is not shown.
        (["x\ufffd", "x\ufffd\ufffd", "xé", "xéy"], (), ["x", "é"], "xéy"),
        # What could be the beginning of a stop string waits.
        (["ab", "abS", "abST", "abSTO", "abSTOP", "abSTOPc"], ("STOP",), ["a", "b"], "ab"),
        (["a"], ("STOP",), [], "a"),
    ],
)
def test_only_certain_text_is_sent(
    steps: list[str], stops: tuple[str, ...], pieces: list[str], end: str
) -> None:
    async def scenario() -> None:
        sent: list[str] = []
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        job: Any = Job(None, "", None, future, stops, sent.append)  # type: ignore[arg-type]
        for text in steps:
            ended = job.follow(lambda text=text: Prediction(text, 1, False))
            assert ended == any(stop in text for stop in stops)
            if ended:
                break
        await asyncio.sleep(0)
        assert [*filter(None, sent)] == pieces
        assert job.answer(Prediction(steps[-1], 1, True)).text == end
        assert end.startswith("".join(sent))

    asyncio.run(scenario())
