"""What every request passes first: the host, the key, the size of its body; and the count of it."""

from __future__ import annotations

import asyncio
import hmac
import time
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lora_s2s import limits
from lora_s2s.console import say
from lora_s2s.serving.metrics import Metrics
from lora_s2s.serving.replies import Refused

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Open without a key: they tell nothing of models or texts.
_OPEN = ("/health", "/docs")
# Asked for every few seconds by other programs.
_UNLOGGED = ("/health", "/metrics")
# nginx's number for a client that has gone.
_GONE = 499
_COUNTED = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/models",
    "/health",
    "/metrics",
    "/docs",
    "/openapi.json",
)


@dataclass(frozen=True)
class Gate:
    """ASGI middleware.

    Attributes:
        key: what ``Authorization: Bearer`` must hold. Without one the ``Host`` must be this
            machine's, so that no page in a browser reaches the server under a name of its own.
    """

    app: ASGIApp
    metrics: Metrics
    key: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on with its whole body, or answers why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), _GONE

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check(scope["path"], headers)
            body = await _body(headers, receive)
            await self.app(scope, _replayed(body, receive), noted)
        except Refused as refused:
            await refused.response()(scope, receive, noted)
        finally:
            self._note(scope, status, time.monotonic() - start)

    def _check(self, path: str, headers: Headers) -> None:
        if self.key is None:
            host = headers.get("host", "")
            name = host[1:].partition("]")[0] if host[:1] == "[" else host.partition(":")[0]
            if name.lower() not in LOOPBACK:
                raise Refused(421, "the Host header names another machine: use 127.0.0.1")
        elif path not in _OPEN:
            kind, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode(), self.key.encode())
            if kind.lower() != "bearer" or not right:
                asked = {"WWW-Authenticate": "Bearer"}
                message = "a valid API key is required"
                raise Refused(401, message, code="invalid_api_key", headers=asked)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        path: str = scope["path"]
        self.metrics.request(path if path in _COUNTED else "other", status, seconds)
        if path not in _UNLOGGED:
            say(f"{scope['method']} {path:.200} {status} {seconds:.3f} s")


async def _body(headers: Headers, receive: Receive) -> Message:
    """Returns the body in one message, bounded in size and in the time that it takes to arrive."""
    size = headers.get("content-length", "0")
    if len(size) > 20 or not size.isdecimal() or int(size) > limits.LARGEST_REQUEST:
        raise _too_large()
    content, deadline = bytearray(), time.monotonic() + limits.REQUEST_SECONDS
    while True:
        try:
            left = max(0.0, deadline - time.monotonic())
            message = await asyncio.wait_for(receive(), left)
        except asyncio.TimeoutError:
            raise Refused(408, "the request did not arrive in time") from None
        content += message.get("body", b"")
        if len(content) > limits.LARGEST_REQUEST:
            raise _too_large()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return {**message, "body": bytes(content)}


def _replayed(body: Message, receive: Receive) -> Receive:
    waiting = [body]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _too_large() -> Refused:
    most = limits.in_words(limits.LARGEST_REQUEST)
    return Refused(
        413, f"the request is too large: at most {most}", headers={"Connection": "close"}
    )
