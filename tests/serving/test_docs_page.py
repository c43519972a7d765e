"""The page at ``/docs`` in a browser: it answers a question, loads nothing from elsewhere and shows
hostile text as text.

Needs the browser's playwright and Chromium; skipped without.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from lora_s2s.inference.decode import DecodingSettings, Prediction
from lora_s2s.inference.predictor import Predictor
from lora_s2s.serving.app import create_app
from lora_s2s.serving.batcher import Job
from lora_s2s.serving.models import Served
from lora_s2s.serving.run import Place, listening
from lora_s2s.serving.service import Limits, Service

KEY = "k" * 20
EVIL = "<img src=x onerror=\"document.title='evil'\"><script>document.title='evil'</script> **b**"


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """A server with an API key, and its address."""
    config = uvicorn.Config(create_app(service, KEY), log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    with listening(Place(port=0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        host, port = listener.getsockname()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"{host}:{port}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def page() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = shutil.which("chromium")
    if browser_path is None:
        pytest.skip("chromium is not installed")
    with sync.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def test_it_answers_a_question_without_another_host(
    page: Any, tiny_predictor: Callable[..., Predictor], answering: Callable[..., None]
) -> None:
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)

    def compute(batch: Sequence[Job]) -> list[Prediction]:
        if any(job.source == "fail" for job in batch):
            raise RuntimeError
        return [Prediction(f"{job.source} {EVIL}", 3, True) for job in batch]

    answering(compute)
    models = [Served(name, tiny_predictor(), DecodingSettings(8)) for name in ("m0", EVIL)]
    hosts = set[str]()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    answer = page.locator("#answer")
    with serving(Service(models, Limits())) as address:
        page.goto(f"http://{address}/docs")
        expect(answer).to_have_text("The server asks for its API key.")
        page.fill("#key", KEY)
        page.press("#key", "Tab")
        expect(page.locator("#model option")).to_have_text(["m0", EVIL])
        expect(page.locator("#paths tr", has_text="/v1/completions")).to_have_count(1)
        for asked in ("w1 w2", EVIL):
            page.fill("#prompt", asked)
            page.click("button")
            expect(answer).to_have_text(f"{asked} {EVIL}")
        page.fill("#prompt", "fail")
        page.click("button")
        expect(answer).to_have_text("the model failed on this request")
        assert page.title() == "lora-s2s server"
        assert page.locator("img, b").count() == 0
    assert hosts == {address}
