"""``serve`` on the command line: what it refuses before it loads anything, and a server from start
to end.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import pytest
from doc_pages import Page
from fastapi.testclient import TestClient
from programs import ROOT, environment

from lora_s2s.errors import UsageError
from lora_s2s.inference.decode import DecodingSettings, decode
from lora_s2s.inference.loading import load_predictor
from lora_s2s.pipeline.names import named_models
from lora_s2s.serving.app import create_app
from lora_s2s.serving.models import load_models
from lora_s2s.serving.run import Place, listening
from lora_s2s.serving.service import Limits, Service

Invoke = Callable[..., Any]
KEY = "k" * 20


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORA_S2S_API_KEY", raising=False)


def test_a_port_in_use_is_one_error(invoke: Invoke) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = invoke("serve", "demo", "--port", str(port), code=2)
    hint = f"stop the other program, or --port {port + 1}"
    assert result.stderr == f"error: the port is in use: 127.0.0.1:{port}\nhint: {hint}\n"


def test_answers_are_sent_at_once() -> None:
    async def accepted() -> int:
        taken: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_reader: object, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            taken.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listening(Place(port=0)) as listener:
            host, port = listener.getsockname()
            async with await asyncio.start_server(connected, sock=listener):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                return await taken

    assert asyncio.run(accepted()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--host", "0.0.0.0"), "--host 0.0.0.0 lets other machines in without a key"),  # noqa: S104
        (("--host", "::"), "lets other machines in"),
        (("--host", "203.0.113.7", "--api-key-file", "key"), "cannot listen on 203.0.113.7:8000"),
        (("--host", "127.0.0.1", "--api-key-file", "short"), "the API key does not have"),
        (("--port", "70000"), "--port is 70000"),
        (("--queue", "0"), "--queue is 0"),
        (("--timeout", "nan"), "--timeout is nan"),
    ],
)
def test_settings_that_are_refused(
    invoke: Invoke, here: Path, words: tuple[str, ...], message: str
) -> None:
    (here / "key").write_text(f"{KEY}\n", encoding="utf-8")
    (here / "short").write_text("tooshort\n", encoding="utf-8")
    result = invoke("serve", "demo", *words, code=2)
    assert message in result.stderr
    assert "tooshort" not in result.stderr


def test_a_missing_key_file_or_model(invoke: Invoke, here: Path) -> None:
    assert "nowhere" in invoke("serve", "demo", "--api-key-file", "nowhere", code=1).stderr
    (here / "empty").write_text("\n", encoding="utf-8")
    assert "API key" in invoke("serve", "demo", "--api-key-file", "empty", code=2).stderr
    assert "no such" in invoke("serve", "./gone", "--port", "0", code=2).stderr


def test_without_the_extra_the_install_command_is_named(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("lora_s2s.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = invoke("serve", "demo", code=5)
    assert "hint: pip install 'lora-s2s[serve]'" in result.stderr


def test_models_are_named_by_their_folder_or_as_asked(tiny_model: Path) -> None:
    (served,) = load_models(named_models([str(tiny_model)]))
    assert served.name == tiny_model.name
    (served,) = load_models(named_models([f"other={tiny_model}"]))
    assert served.name == "other"
    with pytest.raises(UsageError, match="two models are called"):
        load_models(named_models([str(tiny_model), str(tiny_model)]))
    with pytest.raises(UsageError, match="demo is not an adapter for"):
        load_models(named_models([str(tiny_model), "demo"]))


def test_the_curl_commands_of_the_page_print_what_it_says() -> None:
    blocks = Page.read("docs/SERVE.md").blocks
    asked = [(code, answer) for (kind, code), (_, answer) in pairwise(blocks) if kind == "sh"]
    assert len(asked) == 4
    app = create_app(Service(load_models(named_models([str(ROOT / "adapters/demo")])), Limits()))
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        for command, answer in asked:
            curl, url, *options = shlex.split(command.replace("\\\n", ""))
            given = dict(zip(options[::2], options[1::2], strict=True))
            headers = dict([given["-H"].split(": ")]) if "-H" in given else {}
            method = "POST" if "-d" in given else "GET"
            response = client.request(method, url, content=given.get("-d"), headers=headers)
            assert curl == "curl"
            once = r'(?<="id":")\w+-\w+|(?<="created":)\d+'
            assert re.sub(once, "", response.text) == re.sub(once, "", answer.strip())


@pytest.fixture
def started(here: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A server of the bundled adapter under two names, its address, and what it says to try."""
    adapter = str(ROOT / "adapters/demo")
    words = ["-m", "lora_s2s", "serve", adapter, f"other={adapter}", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, *words], stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stderr is not None
    line = next(line for line in process.stderr if line.startswith("serving demo, other on "))
    tried = process.stderr.readline()
    # Its pipe must not fill.
    threading.Thread(target=process.stderr.read, daemon=True).start()
    yield process, line.split()[4].rstrip(";"), tried
    process.kill()
    process.wait()


@pytest.mark.slow
def test_the_official_client_and_an_end_under_load(
    started: tuple[subprocess.Popen[str], str, str], here: Path
) -> None:
    process, address, tried = started
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    test = ROOT / "adapters/demo/evaluations/demo-test/predictions.jsonl"
    lines = test.read_text(encoding="utf-8").splitlines()
    sources = [json.loads(line)["source"] for line in lines]
    predictor = load_predictor(str(ROOT / "adapters/demo"))
    limit = {"max_new_tokens": 48}
    predictions = decode(predictor, sources, DecodingSettings(**limit))
    expected = [prediction.text for prediction in predictions]
    assert [model.id for model in client.models.list()] == ["demo", "other"]

    say, curl, url, *options = shlex.split(tried)
    given = dict(zip(options[::2], options[1::2], strict=True))
    headers = dict([given["-H"].split(": ")])
    request = urllib.request.Request(url, given["-d"].encode(), headers)  # noqa: S310  ours
    with urllib.request.urlopen(request) as response:  # noqa: S310
        answered = json.load(response)
    assert (say, curl, answered["model"]) == ("try:", "curl", "demo")

    def asked(source: str) -> str:
        return client.completions.create(model="demo", prompt=source, max_tokens=48).choices[0].text

    with ThreadPoolExecutor(16) as pool:
        assert [*pool.map(asked, sources[:64])] == expected[:64]
    turns: Any = [{"role": "user", "content": sources[0]}]
    stream = client.chat.completions.create(model="demo", messages=turns, stream=True)
    parts = [part.choices[0].delta.content or "" for part in stream]
    assert "".join(parts) == expected[0]
    with pytest.raises(openai.UnprocessableEntityError, match="'n'"):
        client.completions.create(model="demo", prompt="x", n=2)
    with pytest.raises(openai.NotFoundError, match="this server has: demo, other"):
        client.completions.create(model="gpt-4", prompt="x")

    def at_the_end(source: str) -> str:
        try:
            return asked(source)
        except openai.InternalServerError as error:
            return str(error.status_code)
        except openai.APIConnectionError:
            return "closed"

    with ThreadPoolExecutor(32) as pool:
        futures = [pool.submit(at_the_end, source) for source in sources]
        wait(futures[:32])
        os.kill(process.pid, signal.SIGTERM)
        answers = [future.result() for future in futures]
    assert process.wait(120) == 143
    right = [answer == text for answer, text in zip(answers, expected, strict=True)]
    refused = [answer in ("503", "closed") for answer in answers]
    # Everything was answered or refused: nothing that was taken is lost.
    assert all(a or b for a, b in zip(right, refused, strict=True))
    assert sum(right) >= 32
    assert "503" in answers
