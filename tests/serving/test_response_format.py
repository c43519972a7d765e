"""``response_format``: answers of a request's own kind, bounded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tiny_tokenizers import write_tokenizer

from lora_s2s import limits
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.torch_engine import TorchEngine
from lora_s2s.serving.app import create_app
from lora_s2s.serving.models import Served
from lora_s2s.serving.service import Limits, Service
from lora_s2s.tokens.loading import load_tokenizer

Start = Callable[..., Any]


def labels(*names: str) -> dict[str, object]:
    return {"response_format": {"type": "labels", "labels": list(names)}}


def test_labels_of_a_request(start: Start) -> None:
    server = start()
    free = server.complete("w5").json()["choices"][0]["text"]
    for names in (("w7 w8", "w9"), ("w1", "w2 w3 w4")):
        response = server.complete(["w5", "w6 w7"], **labels(*names)).json()
        assert {choice["text"] for choice in response["choices"]} <= {*names}
        assert {choice["finish_reason"] for choice in response["choices"]} == {"stop"}
        answer = server.chat(("user", "w5"), **labels(*names)).json()["choices"][0]
        assert answer["message"]["content"] in names
    # Others are not held to it.
    assert server.complete("w5").json()["choices"][0]["text"] == free
    assert server.complete("w5", response_format={"type": "text"}).status_code == 200


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"type": "labels", "labels": ["w1"]}, "a set of labels of one, 'w1'"),
        ({"type": "labels", "labels": ["w1", "unheard of"]}, "cannot write the label"),
        ({"type": "labels", "labels": ["w1", "w2 " * 20]}, "the longest label takes 21 tokens"),
        ({"type": "labels", "labels": ["w1", "w" * 9000]}, "more than 8,192 characters"),
        ({"type": "grammar", "grammar": "root ::= root"}, "not supported as given"),
        ({"type": "json_schema", "json_schema": {"schema": {"not": {}}}}, ""),
        ({"type": "xml"}, "not supported as given"),
    ],
)
def test_what_cannot_be_had_is_said(start: Start, asked: dict[str, Any], message: str) -> None:
    server = start()
    response = server.complete("w5", response_format=asked)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, "response_format")
    assert message in error["message"]
    assert server.complete("w5").status_code == 200


def test_schemas_and_expressions(tmp_path: Path, tiny_t5: Callable[..., Any]) -> None:
    pytest.importorskip("xgrammar", reason="pip install 'lora-s2s[grammar]'")
    tokenizer = load_tokenizer(write_tokenizer("byt5", tmp_path / "byt5"))
    engine = TorchEngine("tiny", tiny_t5(vocab_size=len(tokenizer)), tokenizer)
    served = Served("m", Predictor("tiny", engine, tokenizer), DecodingSettings(60))
    app = create_app(Service([served], Limits()))
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["n"],
    }
    formats = [
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, json.loads),
        ({"type": "regex", "regex": "[ab]{3}"}, lambda text: {"n": len(text)}),
    ]
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for asked, read in formats:
            body = {"prompt": "hello", "response_format": asked}
            answer = client.post("/v1/completions", json=body).json()["choices"][0]
            assert answer["finish_reason"] == "stop"
            assert 0 <= read(answer["text"])["n"] <= 9
        large = {"type": "regex", "regex": "((a{99}){99}){99}"}
        refused = client.post("/v1/completions", json={"prompt": "x", "response_format": large})
        assert refused.status_code == 422
        assert "repetitions counted" in refused.json()["error"]["message"]
    assert limits.LARGEST_REQUEST_CONSTRAINT < limits.LARGEST_CONSTRAINT
