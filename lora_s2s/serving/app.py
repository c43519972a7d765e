"""The endpoints, and every failure in OpenAI's shape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from lora_s2s import __version__
from lora_s2s.serving.gate import Gate
from lora_s2s.serving.replies import Body, Refused, json_response
from lora_s2s.serving.schema import ChatRequest, CompletionRequest
from lora_s2s.serving.service import Service
from lora_s2s.serving.waiting import log_failure

_PAGE = Path(__file__).with_name("docs.html")
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MEANINGS = {
    401: "The API key is missing or wrong",
    404: "No such model",
    413: "The body is too large",
    422: "The request is malformed, or asks for what is not supported",
    429: "The queue is full; Retry-After says when to try again",
    500: "The model failed on this request",
    503: "The server is stopping",
    504: "No answer in time",
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning} for status, meaning in _MEANINGS.items()
}
# FastAPI can send requests' contents to OpenTelemetry, also by an environment variable.
_NO_TELEMETRY: dict[str, Any] = {
    "telemetry": dict.fromkeys(
        ("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False
    )
}


def create_app(service: Service, key: str | None = None) -> Gate:
    """Returns the ASGI application; its lifespan starts and ends the batcher."""

    @asynccontextmanager
    async def running(_app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await service.batcher.close()

    app = FastAPI(
        title="lora-s2s",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=running,
        **_NO_TELEMETRY,
    )
    app.exception_handler(Refused)(_refused)
    app.exception_handler(HTTPException)(_refused_by_routing)
    app.exception_handler(RequestValidationError)(_malformed)
    app.exception_handler(Exception)(_unexpected)
    _add_answers(app, service)
    _add_pages(app, service)
    return Gate(app, service.metrics, key)


def _add_answers(app: FastAPI, service: Service) -> None:
    described = {**_REFUSALS, 200: {"content": {"text/event-stream": {}}}}

    @app.post("/v1/completions", responses=described)
    async def complete(asked: CompletionRequest, request: Request) -> Response:
        """Answers a prompt, or each of a list; see docs/SERVE.md for the fields."""
        return await service.completion(asked, request)

    @app.post("/v1/chat/completions", responses=described)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Answers a conversation's last message."""
        return await service.chat(asked, request)


def _add_pages(app: FastAPI, service: Service) -> None:
    page = _PAGE.read_text(encoding="utf-8")

    @app.get("/v1/models")
    async def models() -> Response:
        """Lists the models."""
        entries = [service.entry(served) for served in service.models.values()]
        return json_response({"object": "list", "data": entries})

    @app.get("/v1/models/{name:path}", responses={404: _REFUSALS[404]})
    async def model(name: str) -> Response:
        """Describes a model."""
        return json_response(service.entry(service.model(name)))

    @app.get("/health", responses={503: _REFUSALS[503]})
    async def health() -> Response:
        """Says whether requests are taken."""
        stopping, waiting = service.batcher.stopping, service.batcher.waiting
        state: Body = {"status": "stopping" if stopping else "ok", "waiting": waiting}
        return json_response(state, status=503 if stopping else 200)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Reports counters in Prometheus' format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})


async def _refused(_request: Request, error: Refused) -> Response:
    return error.response()


async def _refused_by_routing(_request: Request, error: HTTPException) -> Response:
    if error.status_code == 400:  # FastAPI's word for bytes that are not UTF-8, and deep nesting
        return Refused(422, "the body is not a JSON object").response()
    headers = dict(error.headers or {})
    return Refused(error.status_code, str(error.detail), headers=headers).response()


async def _malformed(_request: Request, error: RequestValidationError) -> Response:
    first, *more = error.errors()
    field = first["loc"][1] if len(first["loc"]) > 1 else None
    if not isinstance(field, str):
        return Refused(422, "the body is not a JSON object").response()
    if first["type"] == "extra_forbidden":
        path = ".".join(map(str, first["loc"][1:]))
        message = f"unsupported field: '{path:.100}'"
        return Refused(422, message, field[:100], "unsupported").response()
    # Of a field with several types, the last says most.
    last = [problem["msg"] for problem in [first, *more] if problem["loc"][1:2] == (field,)][-1]
    whole = first["type"] == "missing" and len(first["loc"]) == 2
    wrong = "missing" if whole else f"not supported as given: {last}"
    return Refused(422, f"'{field:.100}' is {wrong}", field[:100]).response()


async def _unexpected(_request: Request, error: Exception) -> Response:
    log_failure(error)
    return Refused(500, "an unexpected failure").response()
