"""The picture and the page: there, self-contained, and inert whatever the data says."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lora_s2s.errors import DataError
from lora_s2s.reports import plots
from lora_s2s.reports.adapter_page import render_report, write_report
from lora_s2s.reports.plots import loss_curve
from lora_s2s.reports.render import content_hash
from lora_s2s.reports.samples import Sampled, sample_rows
from lora_s2s.reports.summary import score_lines
from lora_s2s.reports.verdict import verdict

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
    """Collects tags and addresses, as a browser would see them, and the scripts apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words, self.scripts = "", list[str]()
        self.in_script, self.html = False, text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag == "script":
            self.scripts.append("")
            self.in_script = True

    def handle_endtag(self, tag: str) -> None:
        self.in_script = False

    def handle_data(self, data: str) -> None:
        if self.in_script:
            self.scripts[-1] += data
        else:
            self.words += data

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        held: dict[str, Any] = json.loads(self.scripts[0])
        return held


def answers(rows: Sequence[dict[str, Any]], evaluation: str = "test") -> Sampled:
    return Sampled(evaluation, len(rows), dict(enumerate(rows, start=1)))


def log(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def training_log(path: Path, steps: int = 40) -> Path:
    rows: list[dict[str, Any]] = [{"step": step, "loss": 3 / step} for step in range(1, steps + 1)]
    return log(path, [*rows, {"step": steps, "validation_loss": 0.2}, {"event": "end"}])


def test_an_error_rate_says_that_lower_is_better_and_has_no_plot() -> None:
    ter = {**SCORE, "value": 140.0, "lower_is_better": True}
    entry = {"n": 9, "metrics": {"ter": ter}, "baseline": {"ter": ter}}
    (line,) = score_lines({"test": entry})
    assert (line.metric, line.label) == ("ter", "ter (lower is better)")
    assert not line.marks


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
            recipe="lora:\n  r: 16\n",
            answers=answers(rows),
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
    # Some without scripts, all with them.
    sources = [row[1] for row in page.data["rows"]]
    assert sources == [f"s{index}" for index in range(30)]
    assert 5 <= sum(source in page.words for source in sources) < 20


@pytest.mark.parametrize(
    ("difference", "line"),
    [
        ((1.25, 0.5, 2.0, 0.01), "Better than its base by 1.2 points of exact match, 0.5 to 2.0"),
        ((-3.0, -4.0, -2.0, 0.01), "Worse than its base by 3.0 points of exact match, 2.0 to 4.0"),
        ((1.0, -0.5, 2.5, 0.2), "No clear difference from its base: +1.0 points, -0.5 to +2.5"),
        # The interval and the test disagree.
        ((1.0, 0.1, 1.9, 0.06), "No clear difference from its base: +1.0 points, +0.1 to +1.9"),
    ],
    ids=["better", "worse", "unclear", "disagree"],
)
def test_the_first_line_answers_the_question(difference: Sequence[float], line: str) -> None:
    value, low, high, p_value = difference
    entry = copy.deepcopy(MANIFEST["scores"]["test"])
    changed = {"value": value, "interval": [low, high], "p_value": p_value}
    entry["difference"]["exact_match"] |= changed
    text = render_report("mine", {**MANIFEST, "scores": {"test": entry}})
    body = text.split("<main>")[1]
    first = Page(body).words.strip().splitlines()[0].replace("\u00a0", " ")
    start, interval = line.rsplit(", ", 1)
    assert first.startswith(start)
    assert first.endswith(f" points of exact match (95 % interval {interval})")


def test_the_first_line_of_an_error_rate_and_of_scores_alone() -> None:
    entry = copy.deepcopy(MANIFEST["scores"]["test"])
    ter = {"value": -12.0, "interval": [-14.0, None], "p_value": 0.001, "lower_is_better": True}
    entry["difference"]["exact_match"] |= ter
    assert "No clear difference" in verdict("test", entry).line
    entry["difference"]["exact_match"] |= {"interval": [-14.0, -10.0]}
    assert verdict("test", entry).line.startswith("Better than its base by 12.0 points")
    alone = verdict("test", {**entry, "difference": None, "baseline": None})
    assert alone.judgement is None
    assert (
        alone.line.replace("\u00a0", " ")
        == "86.1 points of exact match (95 % interval 84.0 to 88.2)"
    )
    assert "lora-s2s eval FOLDER --baseline" in alone.details[1]
    heads = [
        Page(render_report("mine", {"scores": {"test": one}})).html.count(">Difference</th>")
        for one in (entry, {**entry, "difference": None, "baseline": None})
    ]
    assert heads == [1, 0]


def test_another_model_confusions_and_probabilities_are_shown_where_they_were_recorded() -> None:
    difference = {"value": 2.5, "interval": [1.5, 3.5], "p_value": 0.004}
    pairs = [("a", "a", 90), ("a", "b", 7), ("b", None, 3)]
    confusion = [{"label": one, "answer": other, "count": count} for one, other, count in pairs]
    entry = {
        **MANIFEST["scores"]["test"],
        "against": {
            "name": "/somewhere/else/rival",
            "metrics": {"exact_match": {**SCORE, "value": 83.6}},
            "difference": {"exact_match": difference},
        },
        "enough": "250 sources can show differences of 3 points",
        "labels": {
            "table": [{"label": "a"}, {"label": "b"}],
            "confusion": confusion,
            "probabilities": {"ece": 1.25, "labels": ["a", "b"]},
        },
    }
    row = {"source": "s", "references": ["r r"], "prediction": "r r", "baseline": "b"}
    held = answers([{**row, "against": "r q"}])
    page = Page(render_report("mine", {**MANIFEST, "scores": {"test": entry}}, answers=held))
    assert "test, against rival" in page.words
    assert "+2.50 [+1.50, +3.50]" in page.words
    assert "250 sources can show differences of 3 points." in page.words
    assert "ab7" in page.words
    assert "b–3" in page.words
    assert "aa90" not in page.words
    assert "ece1.25" in page.words
    assert page.data["systems"] == ["Base", "rival", "Adapter"]
    assert "somewhere" not in page.html


def test_labels_come_first_and_their_words_are_not_compared() -> None:
    names = [f"class {n}" for n in range(30)]
    table = [{"label": name, "references": 2} for name in names]
    confusion = [{"label": one, "answer": names[0], "count": 1} for one in names[1:]]
    entry = {**MANIFEST["scores"]["test"], "labels": {"table": table, "confusion": confusion}}
    given = [names[0], "class", "CLASS 2", "", *names[4:]]
    rows = [
        {"source": f"s{n}", "references": [names[n % 30]], "prediction": given[n % 30]}
        for n in range(60)
    ]
    rows[1]["prediction"] = names[2]
    rows += rows[:1] * 6  # so that words differ in how rare they are
    held = answers([{**row, "baseline": "no"} for row in rows])
    scores = {"old": {**entry, "labels": {"table": table[:1]}}, "test": entry}
    page = Page(render_report("mine", {**MANIFEST, "scores": scores}, answers=held))
    assert page.words.index("testclass 29") < page.words.index("oldclass 0")
    places = [page.html.index(f'<section id="{name}"') for name in ("scores", "labels", "examples")]
    assert places == sorted(places)
    assert not {"ins", "del"} & set(page.tags)
    words = page.words.replace("\u00a0", " ")
    for kind, base, adapter in (
        ("right", "0 (0.0 %)", "60 (90.9 %)"),
        ("only case, spaces or punctuation differ", "0 (0.0 %)", "2 (3.0 %)"),
        ("another label", "0 (0.0 %)", "1 (1.5 %)"),
        ("not a label", "66 (100.0 %)", "1 (1.5 %)"),
        ("empty", "0 (0.0 %)", "2 (3.0 %)"),
    ):
        assert f"{kind}{base}{adapter}" in words
    assert "Adapter alone is right on 60 sources, Base alone on 0." in words
    for of_words in ("word by word", "words that answer", "rarest word", "nearer"):
        assert of_words not in words
    # 20 of 31 labels and 10 of 29 confusions; the others are folded.
    assert "11 more" in words
    assert "19 more" in words
    assert page.data["labels"] is True


def test_tasks_are_shown_worst_first_as_many_as_a_page_holds() -> None:
    tasks = {f"<b>{n}": {"n": 10.0, "chrf": 90.0 - n / 10, "ter": 1.0} for n in range(600)}
    tasks |= {"uncounted": {"n": 12345.0, "ter": 2.0}, "x" * 500: {"n": 1.0, "chrf": 0.5}}
    ends = {"<b>599": {"chrf": [20.0, 40.25]}}
    ter, copied = {**SCORE, "lower_is_better": True}, {**SCORE, "descriptive": True}
    entry = {"n": 9, "metrics": {"copied": copied, "chrf": SCORE, "ter": ter}}
    scores = {"old": {**entry, "tasks": {"a": {"n": 1, "chrf": 1}}}, "test": entry}
    entry |= {"tasks": tasks, "task_intervals": ends}
    page = Page(render_report("mine", {"scores": scores}, answers=answers([])))
    text = page.words.replace("\u00a0", " ")
    words = text[text.index("test: 500 of 602 tasks, worst chrf first") :]
    assert ("href", "#tasks") in page.attributes
    assert "old: 1 task, worst chrf first" in words
    assert "480 further tasks" in words
    rows = ["x" * 100 + "…1–0.50–", "<b>59910–30.10 [20.00, 40.25]1.00", "<b>59810–30.20"]
    places = [words.index(row) for row in rows]
    assert places == sorted(places)
    assert "<b>101" in words
    assert "<b>100" not in words
    assert "b" not in page.tags
    # By a rate of errors, the highest is the worst; a task that has none is not.
    few = {"tasks": dict(list(tasks.items())[-3:]), "metrics": {"ter": ter}}
    words = Page(render_report("mine", {"scores": {"test": few}})).words
    places = [words.index(row) for row in ("12,3452.00", "<b>599101.00", "xxx…1–")]
    assert places == sorted(places)


def test_report_without_scores_or_anything_else() -> None:
    page = Page(render_report("bare", {}))
    assert "Not evaluated yet" in page.words
    assert not {"img", "svg", "script"} & set(page.tags)


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
        {"t": {"metrics": {"bleu": 3}, "tasks": {"a": 1, "b": {"bleu": []}, "c": {"n": 1e400}}}},
        {"t": {"tasks": {"a": {}}, "task_intervals": {"a": {"bleu": [1, "x"]}}}},
    ],
)
def test_report_survives_odd_scores(scores: Any) -> None:
    assert ">Scores</h2>" in render_report("odd", {"scores": scores})


def test_report_is_inert_and_self_contained() -> None:
    rows = [
        {"source": HOSTILE, "references": [HOSTILE], "prediction": HOSTILE, "baseline": HOSTILE}
    ]
    told = {"notes": [HOSTILE], "labels": {"table": [{"label": HOSTILE, "references": HOSTILE}]}}
    told["tasks"] = {HOSTILE: {"n": HOSTILE, HOSTILE: HOSTILE}}
    scores = {
        HOSTILE: {"n": HOSTILE, "metrics": {HOSTILE: {**SCORE, "signature": HOSTILE}}, **told}
    }
    manifest = {"base": {"name": HOSTILE, HOSTILE: HOSTILE}, "scores": scores, "device": [HOSTILE]}
    recipe = f"a: {HOSTILE}\nb: 1\n"
    text = render_report(HOSTILE, manifest, recipe=recipe, answers=answers(rows, HOSTILE))
    page = Page(text)
    # The data and the package's own script, which the page's policy allows by its hash.
    assert page.tags.count("script") == len(page.scripts) == 2
    assert ("type", "application/json") in page.attributes
    (policy,) = (value or "" for _, value in page.attributes if "default-src 'none'" in str(value))
    assert f"script-src {content_hash(page.scripts[1])}" in policy
    assert f"style-src {content_hash(text.split('<style>')[1].split('</style>')[0])}" in policy
    assert "unsafe" not in policy
    assert page.data["rows"][0][1] == HOSTILE.replace("\x1b", "\\x1b")
    assert "img" not in page.tags
    names = {name for name, _ in page.attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"src", "style"}
    assert all(str(value).startswith("#") for name, value in page.attributes if name == "href")
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
    assert "Training loss from 3 to 0.075; validation loss 0.2" in page.words


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
