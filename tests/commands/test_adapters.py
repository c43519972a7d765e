"""``adapters``: what a listing shows of folders from anywhere, and what is said of a folder that is
none.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Invoke

BUNDLED = Path(__file__).parents[2] / "adapters" / "demo"
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 12,
    "target_modules": ["q", "v"],
    "base_model_name_or_path": "google/flan-t5-small",
    "alpha_pattern": {"wo": 7},
    "modules_to_save": None,
    "use_dora": False,
    "new": {"a": {"b": "[link](x)\u001b[2J"}},
}


def write(folder: Path, manifest: str | None = None, config: Any = CONFIG) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest)
    return folder


HUGE, VERY_HUGE, DEEP = "1" + "0" * 400, "1" + "0" * 5000, "[" * 300 + "]" * 300
BAD = [
    f'{{"training": {{"steps": {HUGE}}}}}',
    '{"training": {"steps": 1e999}}',
    "[1]",
    "{",
    '{"training": 7}',
    f'{{"scores": {{"x": {{"n": {HUGE}, "metrics": {{"chrf": {{"value": -{HUGE}}}}}}}}}}}',
    f'{{"base": {{"name": {DEEP}}}}}',
    f'{{"training": {{"steps": {VERY_HUGE}}}}}',
    "\ud800 latin",
    '{"a": NaN}',
]


def test_a_folder_that_may_not_be_read_does_not_take_the_list_away(
    invoke: Invoke, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here / "adapters" / "good")
    write(here / "adapters" / "bad")

    def refuse(path: Path) -> None:
        if path.name == "bad":
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("lora_s2s.pipeline.adapters.check_folder", refuse)
    told = invoke("adapters").stderr
    assert "bad is omitted: Permission denied" in told
    assert "good" in told


@pytest.mark.parametrize("manifest", BAD, ids=range(len(BAD)))
def test_one_bad_member_does_not_take_the_list_away(
    invoke: Invoke, here: Path, manifest: str
) -> None:
    write(here / "adapters" / "good", '{"base": {"name": "demo"}, "training": {"steps": 1234}}')
    (write(here / "adapters" / "bad") / "manifest.json").write_bytes(
        manifest.encode("utf-8", "surrogatepass")
    )
    told = invoke("adapters").stderr
    assert "good" in told
    assert "1,234" in told
    assert "bad" in told
    assert "good" in invoke("adapters", "--json").stdout
    assert "good" in invoke("adapters", "compare", "good", "bad", code=None).stderr + "good"
    assert invoke("adapters", "show", "bad", code=None).exit_code in (0, 3)


def test_configs_that_are_none_are_left_out(invoke: Invoke, here: Path) -> None:
    write(here / "adapters" / "good", "{}")
    write(here / "adapters" / "list", "{}", config=[1])
    (here / "adapters" / "fake" / "adapter_config.json").mkdir(parents=True)
    told = invoke("adapters").stderr
    assert "list is omitted" in told
    assert "good" in told


def test_an_adapter_from_elsewhere_shows_all_that_its_config_says(
    invoke: Invoke, here: Path
) -> None:
    write(here / "theirs")
    told = invoke("adapters", "show", "theirs").stderr
    for fact in (
        "peft type",
        "LORA",
        "12",
        "q, v",
        "flan-t5-small",
        "alpha pattern wo",
        "7",
        "use dora",
        "False",
    ):
        assert fact in told
    assert "\x1b[2J" not in told
    assert "modules to save" not in told
    assert json.loads(invoke("adapters", "show", "theirs", "--json").stdout)["config"] == CONFIG
    shutil.copytree("theirs", "adapters/other")
    (here / "adapters/other/adapter_config.json").write_text(json.dumps({**CONFIG, "r": 3}))
    assert "google/flan-t5-small" in invoke("adapters").stderr
    compared = [
        line.split()
        for line in invoke("adapters", "compare", "theirs", "other").stderr.splitlines()
    ]
    assert ["r", "12", "3"] in compared


@pytest.mark.parametrize(
    "verb",
    [
        ("predict", "out", "text"),
        ("eval", "out"),
        ("merge", "out", "--out", "whole"),
        ("adapters", "show", "out"),
    ],
    ids=lambda words: words[0],
)
def test_a_trainers_output_names_the_adapters_in_it(
    invoke: Invoke, here: Path, verb: tuple[str, ...]
) -> None:
    for name in ("checkpoint-500", "checkpoint-1000", "checkpoint-90"):
        write(here / "out" / name)
    told = invoke(*verb, code=3).stderr
    assert (
        "these folders in it are adapters: checkpoint-90, checkpoint-500, checkpoint-1000" in told
    )
    assert "hint: out/checkpoint-1000" in told


def test_a_folder_without_adapters_is_told_as_before(invoke: Invoke, here: Path) -> None:
    (here / "out" / "deep" / "deeper").mkdir(parents=True)
    assert "it has no adapter_config.json\n" in invoke("adapters", "show", "out", code=3).stderr
    assert "config.json" in invoke("predict", "out", "text", code=3).stderr


def variant(name: str, wrong: int) -> None:
    """The bundled adapter under another name, with wrong answers to its first sources."""
    ignored = shutil.ignore_patterns("*.safetensors", "*.png", "*.html", "tokenizer*")
    folder = shutil.copytree(BUNDLED, Path("adapters") / name, ignore=ignored)
    path = folder / "evaluations" / "demo-test" / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows[:wrong]:
        row["prediction"] = "name: <b>nobody</b>"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_compared_adapters_are_judged_on_the_same_sources(invoke: Invoke, here: Path) -> None:
    for name, wrong in (("first", 60), ("better", 0), ("same", 60), ("worse", 240)):
        variant(name, wrong)
    names = ("first", "better", "same", "worse")
    told = invoke("adapters", "compare", *names, "--report", "out/page.html").stderr
    assert "report: out/page.html" in told
    page = (here / "out" / "page.html").read_text(encoding="utf-8")
    body = page[page.index("<main>") :].replace("\u00a0", " ")
    (first,) = re.findall("<h1[^>]*>(.*)</h1>", body)
    assert first.startswith("better: better than first by 2")
    assert "worse: worse than first by" in body
    assert "same: no clear difference from first: +0.0 points of exact match" in body
    assert "worse against first: demo-test, 250 sources" in body
    assert "<b>nobody</b>" not in body
    assert "&lt;b&gt;nobody&lt;/b&gt;" in body
    assert body.count("<figcaption>Loss of ") == 4
    assert "<ins>" in body


def test_compared_labels_are_right_or_wrong_as_a_whole(invoke: Invoke, here: Path) -> None:
    labels = ["tech sales", "tech support"]
    for name in ("one", "two"):
        variant(name, 60)
        folder = here / "adapters" / name
        path = folder / "evaluations" / "demo-test" / "predictions.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for place, row in enumerate(rows):
            row |= {"references": [labels[place % 2]], "prediction": labels[name == "two"]}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        table = [{"label": label} for label in labels]
        manifest["scores"]["demo-test"]["labels"] = {"table": table}
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    invoke("adapters", "compare", "one", "two", "--report", "page.html")
    page = (here / "page.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    body = page[page.index("<main>") :]
    assert "two alone is right on 125 sources, one alone on 125." in body
    assert "<td>another label</td><td>125 (50.0 %)</td>" in body
    assert "<ins>" not in body
    assert "<del>" not in body


def test_adapters_without_common_sources_are_compared_by_their_settings(
    invoke: Invoke, here: Path
) -> None:
    write(here / "adapters" / "one", "{}")
    write(here / "adapters" / "two", "{}", config={**CONFIG, "r": 3})
    invoke("adapters", "compare", "one", "two", "--report", "page.html")
    page = (here / "page.html").read_text(encoding="utf-8")
    assert "Not scored on the same sources" in page
    assert "<td>r</td><td>12</td><td>3</td>" in page
    assert "<script" not in page
    told = invoke("adapters", "compare", "one", code=2).stderr
    assert "compare takes two adapters or more, got one" in told
