"""The page in a browser: it opens quickly with many examples, asks for nothing, runs nothing of the
data, and can be read and used with a keyboard, on a phone, in the dark and without scripts.

Needs playwright, axe-playwright-python and Chromium; skipped without them. Keeps screenshots in
build/screenshots.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_s2s.reports.adapter_page import render_report, write_report
from lora_s2s.reports.marks import marked
from lora_s2s.reports.samples import Sampled

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
SCREENS = {"desktop": (1280, 900), "phone": (390, 844)}
EVIL = (
    "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 1'> {{ 7 * 7 }} ${x} "
    "<!-- \u202etxt\u2028 \ud800 http://e.vil"
)
WORDS = ["hotel", "Zürich,", "3", "nights", "the", "room", "你好吗", "नमस्ते", "don't", "(", "ok.\n"]


def text_of(chance: random.Random, most: int) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(0, most)))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on 10,000 sources, one of them hostile, with answers of all kinds."""
    chance = random.Random(5)
    rows = [{"source": EVIL, "references": [EVIL], "prediction": f"{EVIL} 2", "baseline": EVIL}]
    for place in range(2, 10_001):
        reference = text_of(chance, 12)
        answers = [chance.choice((reference, text_of(chance, 12))) for _ in range(2)]
        source = f"source {place} {text_of(chance, 40)}"
        row = {"source": source, "references": [reference, text_of(chance, 9)]}
        rows.append({**row, "prediction": answers[0], "baseline": answers[1]})
    folder = tmp_path_factory.mktemp("adapter")
    demo = ROOT / "adapters" / "demo"
    for name in ("manifest.json", "metrics.jsonl", "recipe.yaml"):
        shutil.copy(demo / name, folder)
    (folder / "evaluations" / "demo-test").mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "evaluations" / "demo-test" / "predictions.jsonl").write_text(lines, encoding="utf-8")
    return write_report(folder)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    with sync.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


# The marks of each answer of a listed example: the tag and the text.
MARKS = """(row) => {
  const example = document.querySelectorAll("#list article")[row];
  const answers = [...example.querySelectorAll(".answer dd")];
  const marks = (answer) => [...answer.querySelectorAll("ins, del")];
  return answers.map((answer) => marks(answer).map((one) => [one.localName, one.textContent]));
}"""


class Opened:
    """A page with what it said and asked for while it was open."""

    def __init__(self, browser: Any, report: Path, screen: str, scheme: str, **more: Any) -> None:
        width, height = SCREENS[screen]
        size = {"width": width, "height": height}
        self.context = browser.new_context(viewport=size, color_scheme=scheme, **more)
        self.page = self.context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(report.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def listed(self) -> Any:
        return self.page.locator("#list article")

    def focused(self) -> str:
        return str(
            self.page.evaluate("document.activeElement.id || document.activeElement.tagName")
        )


@pytest.mark.slow
def test_ten_thousand_examples_open_within_two_seconds(report: Path, chromium: Any) -> None:
    assert report.stat().st_size < 5_000_000
    seconds = []
    for _ in range(3):
        with Opened(chromium, report, "desktop", "light") as opened:
            assert opened.listed().count() == 10
            seconds.append(opened.page.evaluate("performance.now()") / 1000)
            assert "10,000" in opened.page.inner_text("#examples")
    assert min(seconds) < 2


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_it_is_readable_and_asks_for_nothing(
    report: Path, chromium: Any, screen: str, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with Opened(chromium, report, screen, scheme) as opened:
        violations = axe.Axe().run(opened.page).response["violations"]
        serious = [one for one in violations if one["impact"] in ("serious", "critical")]
        assert [(one["id"], one["nodes"][0]["html"]) for one in serious] == []
        assert opened.page.evaluate("document.documentElement.scrollWidth") == SCREENS[screen][0]
        assert opened.page.evaluate("window.ran") is None
        assert opened.page.locator("img, iframe, link, object, [onerror]").count() == 0
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        opened.page.screenshot(path=SCREENSHOTS / f"report-{screen}-{scheme}.png", full_page=True)
        assert opened.messages == []
        assert opened.requests == [report.as_uri()]


@pytest.mark.slow
def test_examples_are_found_with_the_keyboard_alone(report: Path, chromium: Any) -> None:
    with Opened(chromium, report, "desktop", "light") as opened:
        press = opened.page.keyboard.press
        press("/")
        assert opened.focused() == "search"
        opened.page.keyboard.type("SOURCE 4711 ")
        assert opened.page.inner_text("#count") == "1 to 1 of 1 example"
        assert "Example 4,711" in opened.listed().inner_text()
        press("Escape")
        assert opened.page.inner_text("#count") == "1 to 10 of 10,000 examples"
        press("Escape")
        for _ in range(11):
            press("j")
        assert opened.focused() == "ARTICLE"
        assert opened.page.inner_text("#page") == "page 2 of 1000"
        press("ArrowUp")
        assert opened.page.inner_text("#page") == "page 1 of 1000"
        press("f")
        assert opened.focused() == "filter"
        opened.page.select_option("#filter", index=1)
        counted = opened.page.inner_text("#count").split(" of ")[1].split()[0]
        chosen = opened.page.evaluate("document.getElementById('filter').selectedOptions[0].text")
        assert f"({counted})" in chosen
        opened.page.evaluate("document.activeElement.blur()")
        press("?")
        assert opened.page.locator("dialog[open]").count() == 1
        opened.page.uncheck("#shortcuts")
        press("Escape")
        press("/")
        assert opened.focused() != "search"
        assert opened.messages == []


@pytest.mark.slow
def test_the_script_marks_words_as_the_page_does(report: Path, chromium: Any) -> None:
    with Opened(chromium, report, "desktop", "light") as opened:
        held = json.loads(opened.page.evaluate("document.getElementById('data').textContent"))
        for row in range(8):
            texts = opened.page.evaluate(MARKS, row)
            for marks, (answer, _, _) in zip(texts, held["rows"][row][3], strict=True):
                references = held["rows"][row][2]
                candidates = [marked(answer, text) for text in references]
                expected = [
                    [
                        ["ins" if piece.kind == "added" else "del", piece.text]
                        for piece in pieces
                        if piece.kind != "same"
                    ]
                    for pieces in candidates
                ]
                assert marks in expected


@pytest.mark.slow
def test_the_script_compares_no_words_of_labels(tmp_path: Path, chromium: Any) -> None:
    labels = ["tech support", "tech sales"]
    rows = [
        {"source": f"{n}", "references": [labels[n % 2]], "prediction": labels[0], "baseline": "x"}
        for n in range(30)
    ]
    held = Sampled("test", 30, dict(enumerate(rows, start=1)))
    entry = {"n": 30, "metrics": {}, "labels": {"table": [{"label": one} for one in labels]}}
    page = render_report("mine", {"scores": {"test": entry}}, answers=held)
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    with Opened(chromium, tmp_path / "report.html", "desktop", "light") as opened:
        assert opened.page.evaluate(MARKS, 1) == [[], []]
        kinds = opened.page.locator("#list .kind").all_inner_texts()
        assert kinds[:4] == ["not a label", "right", "not a label", "another label"]
        filters = opened.page.inner_text("#filter")
        assert "Adapter alone right (15)" in filters
        assert "nearer" not in filters
        assert opened.messages == []


@pytest.mark.slow
def test_without_scripts_and_on_paper_the_chosen_examples_are_there(
    report: Path, chromium: Any
) -> None:
    with Opened(chromium, report, "desktop", "light", java_script_enabled=False) as opened:
        assert opened.page.locator("#examples article").count() >= 5
        assert not opened.page.locator("#all").is_visible()
        assert opened.page.locator("h1").inner_text().startswith("Better than its base by 96.0")
        opened.page.emulate_media(media="print")
        assert not opened.page.locator("nav").is_visible()
        opened.page.pdf(path=SCREENSHOTS / "report.pdf")
