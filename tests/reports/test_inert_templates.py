"""Every template shows values as text, whatever they hold, and names nothing outside the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

import lora_s2s.reports
from lora_s2s.reports.adapter_page import render_report
from lora_s2s.reports.card import Published, render_card
from lora_s2s.reports.compare_page import Compared, render_comparison
from lora_s2s.reports.data_page import write_data_page
from lora_s2s.reports.model_card import render_model_card
from lora_s2s.reports.render import render
from lora_s2s.reports.samples import Sampled
from lora_s2s.reports.sweep_page import render_sweep

TEMPLATES = Path(lora_s2s.reports.__file__).parent / "templates"
PARTS = {
    "charts.html",
    "examples.html",
    "examples.js",
    "layout.html",
    "licenses.md",
    "parts.html",
    "report.html",
    "scores.html",
    "scores.md",
    "style.css",
}
EVIL = {
    "script": "</td></p><script>alert(1)</script><img src=x onerror=alert(1)>\"'><b onclick=x>&lt;",
    "markdown": "](javascript:alert(1)) ![i](http://e.vil/x) `c` ``` **b** | c | @you http://e.vil "
    "<i>\n# H\n---\nlicense: mit",
    "template": "{{ 7*7 }} {% raw %} {# c #} ${x} </style>",
    "control": "\x1b[31m\x00\x07\x9b2J\u202e\u2028\ud800\r\n\t",
}
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ud800-\udfff]")


def manifest(evil: str) -> dict[str, Any]:
    score = {"value": 50.0, "interval": [1.0, 2.0], "signature": evil, "p_value": 0.1}
    scores = {
        "n": evil,
        "metrics": {evil: score},
        "baseline": {evil: score},
        "difference": {evil: score},
        "labels": {"table": [{"label": evil, "references": evil, "precision": evil}]},
        "notes": [evil],
        "tasks": {evil: {"n": evil, evil: evil}},
        "decoding": {"max_new_tokens": evil},
    }
    record = {evil: [evil], "name": evil, "revision": evil}
    sections = ("data", "counts", "training", "versions", "device", "created")
    return {
        **{section: {evil: {evil: evil}} for section in sections},
        "base": record,
        "input": {"template": evil, "carried": [evil], "max_target_tokens": evil},
        "scores": {evil: scores},
    }


def rows(evil: str) -> list[dict[str, Any]]:
    row = {"source": evil, "references": [evil, evil], "prediction": evil, "baseline": evil}
    return [row, {**row, "prediction": [evil], "references": {evil: evil}}]


def adapter_page(evil: str, folder: Path) -> str:
    answers = Sampled(evil, 2, dict(enumerate(rows(evil), start=1)))
    return render_report(evil, manifest(evil), recipe=f"a: {evil}\n", answers=answers)


def card(evil: str, folder: Path) -> str:
    config = {"peft_type": "OFT", evil: evil}
    published = Published(evil, 3, evil, evil, {evil: {evil: evil}})
    return render_card(evil, manifest(evil), rows(evil), config=config, published=published)


def model_card(evil: str, folder: Path) -> str:
    speed = {"tokens_per_second": evil, "latency_p50": evil}
    about = {
        "export": {"format": "ct2", "precision": evil},
        "merged": {"name": evil, "scores": manifest(evil)["scores"]},
        "parity": {evil: evil, "reference": speed, "export": speed},
        "check": {evil: evil},
    }
    readme = f"```python\nx = 1\n\n   ```\n{evil}\n```\n"
    content = {**manifest(evil), **about}
    return render_model_card(evil, content, Published(evil, 3, evil, evil), readme=readme)


def data_page(evil: str, folder: Path) -> str:
    lost = {"character": evil, "code": evil, "name": evil, "count": 1, "becomes": evil}
    side = {"pieces": [evil, evil], "tokens": 2, "text": evil}
    losses = {"count": 1, "different": 1, "characters": [lost]}
    report = {
        "files": {"train": [evil], evil: [evil]},
        "rows": {"read": 3, "kept": 1, "rejected": 2, "by_reason": {evil: 2}},
        "splits": {"train": 1, evil: 1},
        "warnings": [evil],
        "advice": [evil],
        "limits": {evil: {"tokens": 5, "by": evil}},
        "columns": {"format": evil, "template": evil},
        "columns_line": evil,
        "histogram": {"source": [[1, 2]], "target": []},
        "source_tokens": {evil: 3},
        "target_tokens": {"max": 3},
        "suggested": {"max_source_tokens": 5, "max_target_tokens": 5},
        "longer_than": {"source": {evil: 0.5}, "target": {}},
        "lost_characters": {"source": losses, "target": losses},
        "classes": {evil: 4},
        "lossless_text": [evil],
        "truncated": {"source": 1, "target": 2},
        "lost_runs_of_spaces": {"source": 1, "target": 2},
        "unknown_tokens": {"source": 0.1, "target": 0.0},
        **dict.fromkeys(("duplicates", "near_duplicates", "leaked", "near_leaks"), 1),
        **dict.fromkeys(("target_in_source", "identical"), 1),
    }
    write_data_page(folder / "report.html", report, [{"source": side, "target": side}])
    return (folder / "report.html").read_text(encoding="utf-8")


def notebook(evil: str, folder: Path) -> str:
    tables = [(evil, [evil], [[evil, evil]])]
    return render("notebook.html", tables=tables, notes=[evil], curve="")


def compare_page(evil: str, folder: Path) -> str:
    row = {"source": evil, "references": [evil], "0": evil, "1": evil}
    entry = manifest(evil)["scores"][evil]
    compared = Compared(evil, 1, {1: row}, {f"{evil}2": entry})
    return render_comparison([evil, f"{evil}2"], [[evil, evil, evil]], compared=compared)


def sweep_page(evil: str, folder: Path) -> str:
    score = {"value": 1.0, "interval": [0.5, 1.5], "signature": evil}
    trial = {"trial": 1, "settings": {evil: evil}, "state": evil, "share": 1.0, "value": 1.0}
    trial |= {"seconds": 1.0, "problem": evil, "score": score, "difference": score}
    sweep = {"best": trial, "trials": [trial], "metric": evil, "importance": {evil: 0.5}}
    return render_sweep(evil, sweep, {evil: evil})  # type: ignore[arg-type]


RENDERED: dict[str, Callable[[str, Path], str]] = {
    "adapter.html": adapter_page,
    "card.md": card,
    "compare.html": compare_page,
    "data.html": data_page,
    "model.md": model_card,
    "notebook.html": notebook,
    "sweep.html": sweep_page,
}


class Markup(HTMLParser):
    """The tags of a page with their attributes, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def markup_of(text: str, template: str) -> Markup:
    if template.endswith(".html"):
        return Markup(text)
    body = ModelCard(text).text
    return Markup(MarkdownIt("commonmark", {"html": True}).enable("table").render(body))


@pytest.mark.parametrize("kind", EVIL)
@pytest.mark.parametrize("template", sorted({path.name for path in TEMPLATES.iterdir()} - PARTS))
def test_a_template_makes_the_same_markup_of_hostile_values(
    template: str, kind: str, tmp_path: Path
) -> None:
    harmless = RENDERED[template]("word", tmp_path)
    text = RENDERED[template](EVIL[kind], tmp_path)
    assert markup_of(text, template).tags == markup_of(harmless, template).tags
    assert not CONTROLS.search(text)
    if template.endswith(".md"):
        heads = [set(ModelCard(card).data.to_dict()) for card in (text, harmless)]
        assert heads[0] == heads[1]


def test_the_code_of_an_export_shows_its_controls() -> None:
    content = {**manifest("word"), "export": {"format": "ct2"}}
    readme = "```python\nimport x\n\nx = '\x1b[31m\u202e'\n```\n"
    text = render_model_card("name", content, Published("me/x"), readme=readme)
    assert r"x = '\x1b[31m\u202e'" in text
    assert not CONTROLS.search(text)


def test_hostile_values_are_shown_not_dropped(tmp_path: Path) -> None:
    for template, rendered in RENDERED.items():
        for kind in ("script", "template"):
            assert EVIL[kind] in markup_of(rendered(EVIL[kind], tmp_path), template).words
        shown = markup_of(rendered(EVIL["control"], tmp_path), template).words
        assert r"\x1b[31m\x00\x07\x9b2J\u202e\u2028\ud800" in shown


def test_no_template_switches_escaping_off_or_loads_anything() -> None:
    for path in TEMPLATES.iterdir():
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape|xmlattr", source), path
        assert not re.search(r"url\(|@import|https?://", source), path


@pytest.mark.parametrize("template", ["adapter.html", "compare.html", "data.html"])
def test_pages_share_one_frame_that_suits_a_phone(template: str, tmp_path: Path) -> None:
    text = RENDERED[template]("word", tmp_path)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert text.startswith("<!doctype html>")
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    assert style in text
    # A table that is wider than the screen scrolls by itself, with the keyboard too.
    scrolling = r'<div class="scroll[ a-z]*" role="region" tabindex="0" aria-label="[^"]*"><table>'
    assert text.count("<table") == len(re.findall(scrolling, text)) > 0
    assert text.count("<table") == text.count("<caption>")
    assert not re.search("<th>", text)
