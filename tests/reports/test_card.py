"""The model card: what a reader needs, and nothing a data file could smuggle in."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Invoke
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from lora_s2s.errors import DataError
from lora_s2s.reports.card import render_card, write_card
from lora_s2s.reports.render import markdown
from lora_s2s.reports.summary import facts

HOSTILE = (
    "a | [x](javascript:alert(1)) <script>alert(1)</script> ![i](http://e.vil/p.png) `c` **b** "
    "https://e.vil\n# H\n---"
)
SCORE = {"value": 86.104, "interval": [84.0, 88.2], "signature": "nrefs:var|tok:13a"}
MANIFEST: dict[str, Any] = {
    "created": "2026-11-24",
    "base": {"name": "google/flan-t5-base", "weights_sha256": "ab" * 32},
    "data": {"fingerprint": "f00", "rows": 4000},
    "input": {"template": "summarize: {text}", "max_source_tokens": 512},
    "training": {"steps": 300},
    "scores": {
        "test": {
            "n": 630,
            "metrics": {"bleu": SCORE},
            "baseline": {"bleu": {**SCORE, "value": 2.5}},
        }
    },
}


def parse(card: str) -> tuple[dict[str, Any], str]:
    """The head as the hub's own library reads it, and the body as HTML."""
    read = ModelCard(card)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(read.text)
    return read.data.to_dict(), html


def test_card_says_what_it_is_and_how_to_use_it() -> None:
    front, html = parse(render_card("my-adapter", MANIFEST))
    assert front["library_name"] == "peft"
    assert front["base_model"] == "google/flan-t5-base"
    assert "lora" in front["tags"]
    assert front["metrics"] == ["bleu"]
    for expected in (
        "<h1>my-adapter</h1>",
        "PeftModel.from_pretrained(base, folder)",
        "lora-s2s predict",
        "summarize: {text}",
    ):
        assert expected in html
    assert "<td>86.10 [84.00, 88.20]</td>" in html
    assert "<td>2.50 [84.00, 88.20]</td>" in html
    assert "nrefs:var|tok:13a" in html
    assert "<td>4,000</td>" in html


def test_the_python_in_the_card_compiles() -> None:
    card = render_card("x", {**MANIFEST, "base": {"name": 'odd"na`me\\'}})
    for block in card.split("```python\n")[1:]:
        code = block.split("```")[0]
        compile(code, "card", "exec")
        assert "odd" in code


def test_a_local_base_does_not_tell_where_it_was() -> None:
    data = {"train": ["/home/someone/a.csv", "hf:b"]}
    card = render_card("x", {"base": {"name": "/home/someone/models/my-base/"}, "data": data})
    assert "someone" not in card
    assert parse(card)[0]["base_model"] == "my-base"


def test_data_text_is_inert() -> None:
    scores = {HOSTILE: {"n": HOSTILE, "metrics": {HOSTILE: {**SCORE, "signature": HOSTILE}}}}
    manifest = {
        "base": {"name": HOSTILE},
        "data": {HOSTILE: HOSTILE},
        "input": {"template": HOSTILE},
        "scores": scores,
    }
    front, html = parse(
        render_card(HOSTILE, manifest, [{"source": HOSTILE, "prediction": HOSTILE}])
    )
    assert set(front) == {"library_name", "base_model", "pipeline_tag", "tags", "metrics"}
    for forbidden in ("<script", "<a ", "<img", "<strong>b</strong>", "<hr"):
        assert forbidden not in html
    assert html.count("<h1>") == 1
    rows = [row for row in html.split("<tr>")[1:] if "javascript" in row]
    # Each table keeps its columns: two for facts and examples, seven for scores.
    assert {row.count("<td>") + row.count("<th>") for row in rows} == {2, 7}
    assert "[x](javascript:alert(1))" in html


@pytest.mark.parametrize(
    "text",
    ["plain words, twice", "a_b*c", "1. first", "- item", "+ item", "# no", "&lt;", "\\", "|"],
)
def test_escaped_text_reads_as_written(text: str) -> None:
    html = MarkdownIt("commonmark").enable("table").render(markdown(text))
    shown = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert html == f"<p>{shown}</p>\n"


def test_card_without_scores_or_with_nothing() -> None:
    assert "Not evaluated yet" in render_card("x", {})
    assert parse(render_card("x", {}))[0]["library_name"] == "peft"


def test_write_card(tmp_path: Path) -> None:
    folder = tmp_path / "mine.running"
    (folder / "evaluations" / "test").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    rows = "".join(
        json.dumps({"source": f"S{n}", "prediction": "P" * 500}) + "\n" for n in range(9)
    )
    (folder / "evaluations" / "test" / "predictions.jsonl").write_text(rows, encoding="utf-8")
    text = write_card(folder, name="mine").read_text(encoding="utf-8")
    assert "# mine\n" in text
    examples = [name for name in (f"S{n}" for n in range(9)) if name in text]
    assert len(examples) == 3
    assert examples != ["S0", "S1", "S2"]  # a sample: files may be sorted
    assert "P" * 301 not in text


def test_a_manifest_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("3", encoding="utf-8")
    with pytest.raises(DataError):
        write_card(tmp_path)


def test_what_spare_rows_carry_is_told_apart_and_empty_lists_are_left_out() -> None:
    manifest = {"input": {"carried": ["\n", "  ", "{", ""]}, "base": {"skip_quantization": []}}
    assert facts(manifest) == [("input carried", r"'\n' '  ' '{'")]
    assert facts({"input": {"carried": []}}) == facts({"input": {"carried": [""]}}) == []


ASKED = "hi its Ana, table for two on sat at 8pm"


def run_the_python_in(card: str, folder: Path, tmp_path: Path, block: int = -1) -> str:
    """What a block of the card's code prints, the two places to fill in filled in: PEFT's alone, or
    the package's.
    """
    blocks = card.split("```python\n")[1:]
    code = blocks[block].split("```")[0].replace("PATH_TO_THIS_FOLDER", str(folder))
    script = tmp_path / "use.py"
    script.write_text(code.replace("your text", ASKED), encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(script))
    return printed.getvalue().strip()


def test_the_card_on_the_bundled_base_loads_as_written(invoke: Invoke, tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "adapters" / "demo"
    shutil.copytree(folder, tmp_path / "again")
    card = write_card(tmp_path / "again", name="demo").read_text(encoding="utf-8")
    assert (
        card.split("## Scores")[0]
        == (folder / "README.md").read_text(encoding="utf-8").split("## Scores")[0]
    )
    answer = invoke("predict", str(folder), ASKED).stdout.strip()
    assert "Ana" in answer
    assert run_the_python_in(card, folder, tmp_path, 0) == answer
    assert run_the_python_in(card, folder, tmp_path) == answer
    assert "Needs PEFT 0.14 or newer" in card


def test_the_card_on_a_hubs_base_loads_as_written(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of that name in the current one stands for the hub's."""
    from adapting import adapt

    from lora_s2s.lora.adapter import save_adapter
    from lora_s2s.models.loading import load_base

    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, "google/flan-t5-base")
    base = load_base("google/flan-t5-base", device="cpu")
    model = adapt(
        base, r=2, alpha=4, dropout=0, target_modules="attention-qv", method="oft", seed=1
    )
    Path("mine").mkdir()
    save_adapter(model, Path("mine"))
    shutil.copyfile(tiny_model / "tokenizer.json", "mine/tokenizer.json")
    shutil.copyfile(tiny_model / "tokenizer_config.json", "mine/tokenizer_config.json")
    manifest = {**MANIFEST, "base": {**MANIFEST["base"], "revision": "main"}}
    (tmp_path / "mine" / "manifest.json").write_text(json.dumps(manifest))
    card = write_card(tmp_path / "mine").read_text(encoding="utf-8")
    assert 'from_pretrained("google/flan-t5-base", revision="main")' in card
    run_the_python_in(card, tmp_path / "mine", tmp_path)
    assert "Needs PEFT 0.16 or newer" in card
    assert "without any effect" in card


def test_the_cards_code_appends_an_end_that_the_tokenizer_cannot_put() -> None:
    plain, with_note = render_card("a", {}), render_card("a", {"plain_transformers": "a note"})
    assert 'tokenizer("your text", return' in plain
    assert 'tokenizer("your text" + tokenizer.eos_token, return' in with_note
