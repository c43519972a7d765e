"""``ui``: both answers, judged answers as training data, a Space's folder, and the page itself.

The page's tests need gradio, the browser's playwright and Chromium as well; they are skipped
without.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_parts import Invoke

from lora_s2s.errors import UsageError
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.pipeline.side_by_side import (
    LONGEST_TEXT,
    Answered,
    SideBySide,
    keep,
    open_side_by_side,
)

DEMO = Path(__file__).parents[2] / "adapters" / "demo"
ASKED = "hi its Ana, table for two on sat at 8pm"
EVIL = (
    "<img src=x onerror=\"document.title='evil'\"><script>document.title='evil'</script> **b** "
    "[l](javascript:alert(1))"
)


class Evil:
    """A model whose name and answers are hostile."""

    name = EVIL

    def __call__(self, text: str, **_: Any) -> str:
        return EVIL


def evil(*, baseline: bool = True) -> SideBySide:
    model: Any = Evil()
    return SideBySide(model, model if baseline else None, DecodingSettings(8), [EVIL])


@pytest.fixture(scope="module")
def demo() -> SideBySide:
    return open_side_by_side(str(DEMO), baseline=True)


def test_the_adapter_and_its_base_answer_side_by_side(demo: SideBySide, invoke: Invoke) -> None:
    answered = demo.answers(ASKED, 1, 64)
    assert answered.answer == invoke("predict", str(DEMO), ASKED).stdout.strip()
    assert answered.baseline not in (None, answered.answer)
    assert demo.answers(ASKED, 1, 2).answer != answered.answer
    assert demo.settings == (1, 64)
    assert len(demo.examples) == 6


@pytest.mark.parametrize(
    ("text", "beams", "tokens"),
    [
        (" ", 1, 8),
        ("half \ud800", 1, 8),
        ("x" * (LONGEST_TEXT + 1), 1, 8),
        ("x", 9, 8),
        ("x", 0, 8),
        ("x", 1, 513),
    ],
)
def test_texts_and_numbers_out_of_range(text: str, beams: int, tokens: int) -> None:
    with pytest.raises(UsageError):
        evil().answers(text, beams, tokens)


def test_a_whole_model_has_no_base_beside_it() -> None:
    with pytest.raises(UsageError, match="nothing tells its base apart"):
        open_side_by_side("demo", baseline=True)
    assert open_side_by_side("demo", baseline=False).base is None


def test_good_answers_are_training_data(invoke: Invoke, here: Path) -> None:
    for number in range(5):
        text = f'message {number}, "quoted"\n\u2028'
        keep(Answered(text, f"record {number}", None), here, good=True)
        keep(Answered(text, "wrong", None), here, good=False)
    assert sorted(path.name for path in here.iterdir()) == [
        "ui-feedback-bad.jsonl",
        "ui-feedback.jsonl",
    ]
    good, bad = (
        json.loads((here / name).read_text("utf-8").split("\n")[0])
        for name in ("ui-feedback.jsonl", "ui-feedback-bad.jsonl")
    )
    assert good == {"source": 'message 0, "quoted"\n\u2028', "target": "record 0"}
    assert bad == {"source": good["source"], "answer": "wrong"}
    done = invoke(
        *("prepare", "--data", "ui-feedback.jsonl", "--model", "demo", "--out", "out", "--json")
    )
    rows = json.loads(done.stdout)["rows"]
    assert (rows["read"], rows["rejected"]) == (5, 0)


def test_a_space_holds_the_program_and_what_push_would_upload(invoke: Invoke, here: Path) -> None:
    (here / "mine").mkdir()
    shutil.copytree(DEMO, here / "mine" / "bookings")
    (here / "mine" / "bookings" / "notes.txt").write_text("private")
    done = invoke("ui", "mine/bookings", "--baseline", "--space", "space")
    assert "hf upload USER/NAME space --repo-type space" in done.stderr
    space = here / "space"
    assert {"app.py", "requirements.txt", "README.md", "model"} == set(os.listdir(space))
    assert (space / "model" / "adapter_model.safetensors").is_file()
    assert not list((space / "model").rglob("*predictions*"))
    assert not (space / "model" / "notes.txt").exists()
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (front["sdk"], front["app_file"], front["title"]) == ("gradio", "app.py", "bookings")
    assert "ui" in (space / "requirements.txt").read_text()
    tree = ast.parse((space / "app.py").read_text())
    assert "feedback=None" in ast.unparse(tree)
    assert "exists already" in invoke("ui", "mine/bookings", "--space", "space", code=2).stderr


def test_a_space_of_a_folder_with_a_local_path_is_refused(invoke: Invoke, here: Path) -> None:
    shutil.copytree(DEMO, here / "mine")
    recipe = here / "mine" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("train: demo:train", "train: /home/ana/x.csv"))
    done = invoke("ui", "mine", "--space", "space", code=3)
    assert "recipe.yaml:8: a path of this machine" in done.stderr
    assert not (here / "space").exists()


def test_the_space_names_the_base_that_it_downloads(invoke: Invoke, here: Path) -> None:
    shutil.copytree(DEMO, here / "mine")
    invoke("ui", "mine", "--base", 'a/b"c', "--space", "space")
    assert """base='a/b"c'""" in (here / "space" / "app.py").read_text()


def test_without_gradio_the_error_says_what_to_install(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "lora_s2s.serving.ui", raising=False)
    done = invoke("ui", str(DEMO), code=5)
    assert "a package is missing: " in done.stderr
    assert "hint: pip install 'lora-s2s[ui]'" in done.stderr
    assert "no such folder: nix" in invoke("ui", str(DEMO), "--feedback", "nix", code=2).stderr


@pytest.fixture
def address(here: Path) -> Iterator[str]:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'lora-s2s[ui]'")
    from lora_s2s.serving.ui import page

    blocks = page(evil(), here)
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    yield address
    blocks.close()


def test_the_page_answers_through_its_client(address: str, here: Path) -> None:
    client = pytest.importorskip("gradio_client").Client(address, verbose=False)
    assert client.predict("x", 1, 8, api_name="/answer") == (EVIL, EVIL, "")
    empty, _, status = client.predict("x" * (LONGEST_TEXT + 1), 1, 8, api_name="/answer")
    assert (empty, "characters of the text" in status) == ("", True)
    client.predict("x", 1, 8, api_name="/answer")
    assert client.predict(api_name="/good") == "kept in ui-feedback.jsonl"
    assert client.predict(api_name="/good") == "nothing to judge: get an answer first"
    assert json.loads((here / "ui-feedback.jsonl").read_text()) == {"source": "x", "target": EVIL}


def test_hostile_text_is_inert_in_a_browser(address: str) -> None:
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = shutil.which("chromium")
    if browser_path is None:
        pytest.skip("chromium is not installed")
    with sync.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        seen, hosts = browser.new_page(), set[str]()
        seen.on("request", lambda request: hosts.add(request.url.partition("://")[2].split("/")[0]))
        seen.goto(address)
        seen.fill("#text textarea", EVIL)
        seen.click("#ask")
        seen.wait_for_function("document.querySelector('#answer textarea').value != ''")
        assert seen.input_value("#answer textarea") == EVIL
        assert seen.input_value("#base textarea") == EVIL
        assert seen.title() == "lora-s2s"
        assert seen.locator("img[src=x], a[href^=javascript]").count() == 0
        browser.close()
    assert hosts <= {address.partition("://")[2].rstrip("/"), ""}


def test_a_port_in_use_is_one_error() -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'lora-s2s[ui]'")
    from lora_s2s.serving.ui import serve_page

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is in use"):
            serve_page(evil(), port=port, feedback=Path())
