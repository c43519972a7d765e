"""The picture and the page: there, self-contained, and inert whatever the data says."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lora_s2s.errors import DataError
from lora_s2s.reports import plots
from lora_s2s.reports.adapter_page import render_report, write_report
from lora_s2s.reports.plots import loss_curve
from lora_s2s.reports.samples import sample_rows
from lora_s2s.reports.summary import score_lines

HOSTILE = (
    '</td><script>alert(1)</script><img src=x onerror="alert(1)"> [link](javascript:alert(1)) '
    "\x1b[31m &amp; {0}"
)
SCORE = {"value": 86.104, "interval": [84.0, 88.2], "signature": "nrefs:1|bs:1000"}
MANIFEST: dict[str, Any] = {
    "base": {"name": "demo", "revision": None, "weights_sha256": "ab" * 32},
    "device": "cpu",
    "counts": {"trainable_parameters": 12345},
    "training": {"steps": 300, "train_loss": 0.1234567},
    "scores": {
        "test": {
            "n": 250,
            "metrics": {"exact_match": SCORE},
            "baseline": {"exact_match": {**SCORE, "value": 1.0, "interval": [0.4, 2.0]}},
            "difference": {
                "exact_match": {
                    **SCORE,
                    "value": 85.1,
                    "interval": [83.0, 87.0],
                    "p_value": 0.000999,
                }
            },
        }
    },
}


class Page(HTMLParser):
    """Collects tags and addresses, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_data(self, data: str) -> None:
        self.words += data


def log(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def training_log(path: Path, steps: int = 40) -> Path:
    rows: list[dict[str, Any]] = [{"step": step, "loss": 3 / step} for step in range(1, steps + 1)]
    return log(path, [*rows, {"step": steps, "validation_loss": 0.2}, {"event": "end"}])


def test_an_error_rate_says_that_lower_is_better_and_has_no_bar() -> None:
    ter = {**SCORE, "value": 140.0, "lower_is_better": True}
    entry = {"n": 9, "metrics": {"ter": ter}, "baseline": {"ter": ter}}
    (line,) = score_lines({"test": entry})
    assert (line.metric, line.label) == ("ter", "ter (lower is better)")
    assert (line.share, line.baseline_share) == (None, None)


@pytest.mark.parametrize("steps", [0, 1, 3, 40])
def test_loss_curve_is_a_png_however_short_the_run(tmp_path: Path, steps: int) -> None:
    source = (
        training_log(tmp_path / "metrics.jsonl", steps)
        if steps
        else log(tmp_path / "metrics.jsonl", [])
    )
    first = loss_curve(source, tmp_path / "curve.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert loss_curve(source, tmp_path / "again.png").read_bytes() == first


def test_loss_curve_passes_over_what_is_not_a_number(tmp_path: Path) -> None:
    clean = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    odd = [{"step": 1, "loss": float("nan")}, {"step": "x", "loss": 1.0}, {"step": 2, "loss": None}]
    expected = loss_curve(log(tmp_path / "a.jsonl", clean), tmp_path / "a.png").read_bytes()
    assert (
        loss_curve(log(tmp_path / "b.jsonl", [*odd, *clean]), tmp_path / "b.png").read_bytes()
        == expected
    )


def test_loss_curve_of_a_long_log_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [{"step": step, "loss": float(loss)} for step, loss in enumerate([8, 6, 4, 2, 1])]
    means = [{"step": 0.5, "loss": 7.0}, {"step": 2.5, "loss": 3.0}]
    expected = loss_curve(log(tmp_path / "a.jsonl", means), tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(plots, "_MOST_ROWS", 4)
    monkeypatch.setattr(plots, "_MOST_POINTS", 2)
    drawn = loss_curve(log(tmp_path / "b.jsonl", steps), tmp_path / "b.png").read_bytes()
    assert drawn == expected


def test_loss_curve_needs_a_log(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        loss_curve(tmp_path / "none.jsonl", tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()


def test_report_shows_scores_facts_and_samples() -> None:
    rows = [
        {"source": f"s{index}", "references": ["r", "q"], "prediction": "p", "baseline": "b"}
        for index in range(30)
    ]
    labels = {
        "table": [
            {
                "label": "billing",
                "references": 31,
                "answers": 0,
                "precision": None,
                "recall": 0.0,
                "f1": 0.0,
            }
        ]
    }
    entry = {
        **MANIFEST["scores"]["test"],
        "labels": labels,
        "notes": ["1 of 6 labels is never answered"],
    }
    page = Page(
        render_report(
            "my adapter",
            {**MANIFEST, "scores": {"test": entry}},
            curve_png=b"\x89PNG",
            recipe="lora:\n  r: 16\n",
            rows=rows,
        )
    )
    for expected in (
        "86.10 [84.00, 88.20]",
        "1.00 [0.40, 2.00]",
        "+85.10 [+83.00, +87.00]",
        "0.001",
        "12,345",
        "0.1235",
        "test: 1 of 6 labels is never answered",
        "billing310–0.00.0",
    ):
        assert expected in page.words
    assert "r: 16" in page.words
    assert "(+1 more)" in page.words
    assert "s19" in page.words
    assert "s20" not in page.words
    assert ("src", "data:image/png;base64,iVBORw==") in page.attributes


def test_report_without_scores_or_anything_else() -> None:
    page = Page(render_report("bare", {}))
    assert "Not evaluated yet" in page.words
    assert "img" not in page.tags


@pytest.mark.parametrize(
    "scores",
    [
        None,
        [],
        "x",
        {"t": 3},
        {"t": {"metrics": {"bleu": None}}},
        {"t": {"metrics": 1}},
        {"t": {"labels": {"table": [None, 3, {"f1": "x"}]}, "notes": [None, {}]}},
        {"t": {"labels": [1], "notes": 5}},
    ],
)
def test_report_survives_odd_scores(scores: Any) -> None:
    assert "<h2>Scores</h2>" in render_report("odd", {"scores": scores})


def test_report_is_inert_and_self_contained() -> None:
    rows = [
        {"source": HOSTILE, "references": [HOSTILE], "prediction": HOSTILE, "baseline": HOSTILE}
    ]
    told = {"notes": [HOSTILE], "labels": {"table": [{"label": HOSTILE, "references": HOSTILE}]}}
    scores = {
        HOSTILE: {"n": HOSTILE, "metrics": {HOSTILE: {**SCORE, "signature": HOSTILE}}, **told}
    }
    manifest = {"base": {"name": HOSTILE, HOSTILE: HOSTILE}, "scores": scores, "device": [HOSTILE]}
    text = render_report(
        HOSTILE, manifest, curve_png=b"\x89PNG", recipe=f"a: {HOSTILE}\nb: 1\n", rows=rows
    )
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "href"]
    assert all(str(value).startswith("data:") for name, value in page.attributes if name == "src")
    assert "http" not in text.replace("http-equiv", "")
    assert "\x1b" not in text
    # Shown, not dropped: the reader sees exactly what the data held.
    assert "<script>alert(1)</script>" in page.words
    assert "&amp; {0}" in page.words


def test_write_report_from_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine.running"
    (folder / "evaluations" / "test").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    (folder / "recipe.yaml").write_text("model:\n  name: demo\n", encoding="utf-8")
    training_log(folder / "metrics.jsonl")
    log(
        folder / "evaluations" / "test" / "predictions.jsonl",
        [{"source": "S!", "references": ["R"], "prediction": "P"}],
    )
    page = Page(write_report(folder, name="mine").read_text(encoding="utf-8"))
    assert "mine" in page.words
    assert "mine.running" not in page.words
    assert "S!" in page.words
    assert "name: demo" in page.words
    assert (folder / "loss_curve.png").is_file()


def test_sample_answers_are_of_the_whole_file(tmp_path: Path) -> None:
    folder = tmp_path / "evaluations" / "test"
    folder.mkdir(parents=True)
    log(
        folder / "predictions.jsonl",
        [{"source": f"s{place}", "label": place // 40} for place in range(240)],
    )
    rows = sample_rows(tmp_path, 20)
    assert rows == sample_rows(tmp_path, 20)
    assert len({row["label"] for row in rows}) > 3
    places = [int(str(row["source"])[1:]) for row in rows]
    assert places == sorted(set(places))
    assert len(places) == 20
    assert len(sample_rows(tmp_path, 500)) == 240


def test_write_report_needs_the_manifest_only(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    assert write_report(tmp_path).is_file()
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DataError):
        write_report(tmp_path)
