"""A server of tiny models in this process, and a client for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tiny_predictors import tiny_predictor as tiny_predictor

from lora_s2s.inference.decode import DecodingSettings, Prediction, decode
from lora_s2s.inference.predictor import Predictor
from lora_s2s.serving import batcher
from lora_s2s.serving.app import create_app
from lora_s2s.serving.models import Served
from lora_s2s.serving.service import Limits, Service

Build = Callable[..., Predictor]
SETTINGS = DecodingSettings(max_new_tokens=8)


class Running:
    """A server in this process.

    ``client`` speaks to it; ``served`` are its models; ``decode`` answers as it should.
    """

    def __init__(self, client: TestClient, service: Service) -> None:
        self.client, self.service = client, service
        self.served = [*service.models.values()]

    def expected(self, text: Any, served: int = 0, **changes: int) -> Prediction:
        """What ``predict`` answers."""
        predictor = self.served[served].predictor
        settings = DecodingSettings(**{"max_new_tokens": 8, **changes})
        return decode(predictor, [predictor.render(text)], settings)[0]

    def complete(self, prompt: object, **more: object) -> Any:
        """The response to a completion."""
        return self.client.post("/v1/completions", json={"prompt": prompt, **more})

    def chat(self, *messages: tuple[str, object], **more: object) -> Any:
        """The response to a conversation."""
        turns = [{"role": role, "content": content} for role, content in messages]
        return self.client.post("/v1/chat/completions", json={"messages": turns, **more})


Start = Callable[..., Running]


@pytest.fixture
def start(tiny_predictor: Build) -> Iterator[Start]:
    """``start(input settings, …, limits=, key=)``: a server with a model for each of the
    settings.
    """
    with ExitStack() as stack:

        def run(*inputs: dict[str, Any], limits: Limits | None = None, **given: Any) -> Running:
            models = [
                Served(f"m{number}", tiny_predictor(seed=number, **settings), SETTINGS)
                for number, settings in enumerate(inputs or ({},))
            ]
            service = Service(models, limits or Limits())
            app = create_app(service, **given)
            client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
            return Running(stack.enter_context(client), service)

        yield run


@pytest.fixture(autouse=True)
def _every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "SECONDS_BETWEEN_PARTS", 0.0)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``answering(function)``: computes batches."""

    def place(function: Callable[..., list[Prediction]]) -> None:
        monkeypatch.setattr(batcher, "compute", function)

    return place
