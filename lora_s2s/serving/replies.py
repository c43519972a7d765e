"""Answers and errors in OpenAI's shape."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastapi import Response

from lora_s2s.serving.batcher import Answer

Body = dict[str, object]


@dataclass(eq=False)
class Refused(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        param: the field at fault.
        code: a word for programs.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> Body:
        """Returns the error in OpenAI's shape."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        """Returns it as an HTTP response."""
        return json_response(self.body(), status=self.status, headers=self.headers)


def json_response(
    body: Body, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Returns an HTTP response of JSON."""
    kind = "application/json"
    return Response(json_bytes(body), status, headers=dict(headers or {}), media_type=kind)


def json_bytes(body: Body) -> bytes:
    """Returns JSON in ASCII: a lone surrogate in a name must not fail."""
    return json.dumps(body, separators=(",", ":")).encode("ascii")


def event(body: Body) -> bytes:
    """Returns a server-sent event."""
    return b"data: " + json_bytes(body) + b"\n\n"


END = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Shape:
    """The bodies of one request's answers.

    Attributes:
        chat: of ``/v1/chat/completions``, else of ``/v1/completions``.
        model: the name that answers.
    """

    chat: bool
    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[Answer]) -> Body:
        """Returns the body of an answer that is not streamed."""
        choices = []
        for index, answer in enumerate(answers):
            text: Body = {"text": answer.text}
            if self.chat:
                message = {"role": "assistant", "content": answer.text, "refusal": None}
                text = {"message": message}
            choices.append(_choice(index, text, answer.finish))
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": usage(answers)}

    def chunk(self, index: int, text: str, finish: str | None = None, *, first: bool) -> Body:
        """Returns a part of a streamed answer."""
        part: Body = {"text": text}
        if self.chat:
            role: Body = {"role": "assistant"} if first else {}
            part = {"delta": {**role, "content": text}}
        return {**self._chunk_head(), "choices": [_choice(index, part, finish)]}

    def usage_chunk(self, answers: Sequence[Answer]) -> Body:
        """Returns the part that ends a stream with the token counts."""
        return {**self._chunk_head(), "choices": [], "usage": usage(answers)}

    def _chunk_head(self) -> Body:
        return self._head("chat.completion.chunk" if self.chat else "text_completion")

    def _head(self, kind: str) -> Body:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }


def _choice(index: int, text: Body, finish: str | None) -> Body:
    return {"index": index, **text, "logprobs": None, "finish_reason": finish}


def usage(answers: Sequence[Answer]) -> Body:
    """Returns the token counts of all answers of a request.

    Prompt tokens are those that the encoder read, special tokens included; completion tokens those
    that the decoder produced, ``</s>`` included.
    """
    read = sum(answer.read for answer in answers)
    produced = sum(answer.produced for answer in answers)
    return {"prompt_tokens": read, "completion_tokens": produced, "total_tokens": read + produced}
