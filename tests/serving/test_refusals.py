"""What is not answered: each gets its status and the name of what is wrong, and the server goes
on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lora_s2s import limits

Start = Callable[..., Any]


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2},
        {"temperature": 0.5},
        {"temperature": 2},
        {"top_p": 0.9},
        {"logprobs": 5},
        {"echo": True},
        {"suffix": "x"},
        {"best_of": 3},
        {"presence_penalty": 1},
        {"frequency_penalty": -1},
        {"logit_bias": {"5": 1}},
        {"tools": []},
        {"seed": "x"},
        {"stream": "yes"},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"stop": ""},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"top_k": 5},
        {"stream_options": {"x": 1}},
    ],
)
def test_unsupported_fields_are_named(start: Start, field: dict[str, object]) -> None:
    response = start().complete("w1", **field)
    error = response.json()["error"]
    (name,) = field
    assert response.status_code == 422
    assert (error["param"], error["type"]) == (name, "invalid_request_error")
    assert f"'{name}" in error["message"]


def test_fields_that_change_nothing_are_accepted(start: Start) -> None:
    running = start()
    plain = running.complete("w1 w2").json()["choices"]
    fields = {"n": 1, "temperature": 0.0, "top_p": 1, "seed": 7, "user": "x", "logit_bias": None}
    more = {"presence_penalty": 0.0, "stop": None, "echo": False, "best_of": 1, "logprobs": None}
    assert running.complete("w1 w2", **fields, **more).json()["choices"] == plain
    of_chat = {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}}
    assert running.chat(("user", "w1"), temperature=1, **of_chat).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"functions": []}, "functions"),
    ],
)
def test_unsupported_fields_of_a_chat_are_named(
    start: Start, fields: dict[str, object], param: str
) -> None:
    response = start().chat(("user", "w1"), **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (422, param)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "w1",
        [{"role": "user"}],
        [{"role": "wizard", "content": "w1"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": None}],
        [{"role": "tool", "content": "w1", "tool_call_id": "x"}],
        [{"role": "user", "content": " "}],
    ],
)
def test_malformed_conversations_are_refused(start: Start, messages: object) -> None:
    running = start({"format": "messages"})
    response = running.client.post("/v1/chat/completions", json={"messages": messages})
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["param"] in ("messages", "prompt")
    assert "is missing" not in error["message"]
    nothing = running.client.post("/v1/chat/completions", json={"mesages": []}).json()["error"]
    assert nothing["message"] == "'messages' is missing"


DEEP = 200_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"{}",
        b'{"prompt": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"prompt": "w1", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "w1", "temperature": NaN}',
        b'{"prompt": "w1", "max_tokens": 1e400}',
        b'{"prompt": "\\ud800"}',
        b'{"\\ud800": 1, "prompt": "w1"}',
        b'{"prompt": "w1", "model": "\\udfff"}',
        b"\xff\xfe{",
        b'{"prompt": "\xff"}',
        b'{"prompt": 5}',
        b'{"prompt": [1, 2, 3]}',
        b'{"prompt": [[1, 2]]}',
        b'{"prompt": {"source": {"a": [1]}}}',
        b'{"prompt": {"\\ud800": "x"}}',
        b'{"prompt": [' + b'"w1",' * 100 + b'"w1"]}',
    ],
)
def test_hostile_bodies_are_refused_and_the_server_goes_on(start: Start, body: bytes) -> None:
    running = start()
    headers = {"content-type": "application/json"}
    response = running.client.post("/v1/completions", content=body, headers=headers)
    assert response.status_code in (404, 422)
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert len(response.text) < 1000
    assert running.complete("w1").status_code == 200


def test_a_body_without_its_type_is_no_request(start: Start) -> None:
    # A page in a browser may send such a form anywhere without asking.
    body = json.dumps({"prompt": "w1"})
    headers = {"content-type": "text/plain"}
    response = start().client.post("/v1/completions", content=body, headers=headers)
    assert response.status_code == 422


@pytest.mark.parametrize("announced", [True, False])
def test_a_large_body_is_refused(start: Start, announced: bool) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(limits.LARGEST_REQUEST // 1000 + 2):
            yield b" " * 1000

    running = start()
    content = b"".join(chunks()) if announced else chunks()
    response = running.client.post("/v1/completions", content=content)
    assert response.status_code == 413
    assert response.json()["error"]["message"] == "the request is too large: at most 1 MiB"


def test_routes_that_do_not_exist(start: Start) -> None:
    client = start().client
    assert client.get("/v1/embeddings").json()["error"]["message"] == "Not Found"
    assert client.get("/v1/completions").status_code == 405


def test_a_key_is_required_where_there_is_one(start: Start) -> None:
    client = start(key="0123456789abcdef").client
    for given in ({}, {"authorization": "Bearer 0123456789abcde"}, {"authorization": "Bearer"}):
        for path in ("/v1/models", "/metrics", "/openapi.json"):
            response = client.get(path, headers=given)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    right = {"authorization": "Bearer 0123456789abcdef", "host": "models.example"}
    assert client.get("/v1/models", headers=right).status_code == 200
    assert client.get("/health").status_code == client.get("/docs").status_code == 200


def test_without_a_key_the_host_is_this_machine(start: Start) -> None:
    client = start().client
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert client.get("/health", headers={"host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "[::2]", ""):
        assert client.get("/health", headers={"host": host}).status_code == 421
