"""``eval``: which metrics it chooses for a file, what it tells, and what lands in the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_parts import Invoke

from lora_s2s.pipeline import html

DEMO = Path(__file__).parents[2] / "adapters" / "demo"
LESS = ("--set", "evaluation.max_new_tokens=3")


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def test_labels_are_counted_and_those_never_answered_are_named(
    invoke: Invoke, here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_s2s.console._SECONDS_OF_SILENCE", 600)
    names = ["billing", "<b>delivery</b>", "refund"]
    write_rows(
        here / "t.jsonl", [{"source": f"m {n}", "target": names[n // 20]} for n in range(60)]
    )
    result = invoke(
        "eval",
        str(tiny_model),
        "--data",
        "t.jsonl",
        "--limit",
        "30",
        "--out",
        "ev",
        "--json",
        *LESS,
    )
    scores = json.loads(result.stdout)
    assert list(scores["metrics"]) == ["exact_match", "macro_f1"]
    assert "metrics: exact_match, macro_f1 (the targets are 3 labels)" in result.stderr
    assert (scores["n"], scores["sources"]) == (30, 60)
    assert len(scores["labels"]["table"]) == 3
    assert set(scores["labels"]["never_answered"]) == set(names)
    assert "3 of 3 labels are never answered" in result.stderr
    kept = json.loads((here / "ev" / "scores.json").read_text(encoding="utf-8"))
    assert kept["labels"] == scores["labels"]
    assert kept["notes"] == scores["notes"]
    assert any("near zero" in note for note in scores["notes"])
    assert "100%" not in result.stderr  # short work shows no progress


def test_columns_named_by_languages_are_a_translation(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_rows(
        here / "t.jsonl", [{"en": f"the house {n}", "de": f"das Haus {n}"} for n in range(4)]
    )
    result = invoke("eval", str(tiny_model), "--data", "t.jsonl", "--json", *LESS)
    assert list(json.loads(result.stdout)["metrics"]) == ["chrf", "bleu"]
    assert "source and target are in two languages" in result.stderr
    write_rows(
        here / "u.jsonl",
        [{"source": f"q {n}", "target": f"a text of more words than six {n}"} for n in range(4)],
    )
    texts = invoke("eval", str(tiny_model), "--data", "u.jsonl", "--json", *LESS)
    assert list(json.loads(texts.stdout)["metrics"]) == ["rougeL", "chrf", "exact_match"]
    named = invoke(
        "eval",
        str(tiny_model),
        "--data",
        "u.jsonl",
        "--set",
        "evaluation.metrics=bleu",
        "--json",
        *LESS,
    )
    assert list(json.loads(named.stdout)["metrics"]) == ["bleu"]
    assert "metrics:" not in named.stderr


def test_a_folders_recipe_cannot_run_a_metric_of_its_own_and_the_command_line_can(
    invoke: Invoke, here: Path
) -> None:
    adapter = shutil.copytree(DEMO, here / "adapters" / "demo")
    recipe = (adapter / "recipe.yaml").read_text(encoding="utf-8")
    named = recipe.replace("  - exact_match\n", "  - payload:run\n  - exact_match\n")
    assert named != recipe
    named = named.replace("evaluation:\n", "evaluation:\n  mbr: payload:run\n")
    (adapter / "recipe.yaml").write_text(named, encoding="utf-8")
    (here / "payload.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")
    skipped = invoke("eval", "adapters/demo", "--limit", "3", "--json")
    assert "metric payload:run is skipped: a function named by a folder's recipe" in skipped.stderr
    assert "exact_match" in json.loads(skipped.stdout)["metrics"]
    assert "named by a folder's recipe runs only where you name it too: --set evaluation.mbr" in (
        skipped.stderr
    )
    (here / "my_metrics.py").write_text(
        "def words(answer, references): return len(answer.split())\n", encoding="utf-8"
    )
    asked = ("--limit", "3", "--set", "evaluation.metrics=[my_metrics:words, sqrt(bleu*chrf++)]")
    asked = (*asked, "--set", "evaluation.mbr=my_metrics:words")
    done = invoke("eval", "adapters/demo", *asked, "--json")
    assert "the one of 16 samples with the highest expected my_metrics:words" in done.stderr
    scores = json.loads(done.stdout)["metrics"]
    assert json.loads(done.stdout)["decoding"]["mbr"] == "my_metrics:words"
    assert list(scores) == ["my_metrics:words", "sqrt(bleu*chrf++)"]
    assert scores["my_metrics:words"]["value"] > 1


def test_an_error_rate_says_wherever_it_is_shown_that_lower_is_better(
    invoke: Invoke, here: Path
) -> None:
    adapter = shutil.copytree(DEMO, here / "adapters" / "demo")
    manifest = json.loads((adapter / "manifest.json").read_text(encoding="utf-8"))
    del manifest["scores"]
    (adapter / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    asked = ("--limit", "30", "--set", "evaluation.metrics=[ter,exact_match]", "--baseline")
    done = invoke("eval", "adapters/demo", *asked, "--json")
    scores = json.loads(done.stdout)
    for part in ("metrics", "baseline", "difference"):
        assert scores[part]["ter"]["lower_is_better"] is True
        assert "lower_is_better" not in scores[part]["exact_match"]
    assert scores["metrics"]["ter"]["value"] < scores["baseline"]["ter"]["value"]
    assert (scores["unstopped"], scores["baseline_unstopped"]) == (0, 1)
    assert "1 of 30 answers of the base was cut at the length limit" in " ".join(
        done.stderr.split()
    )
    assert scores["difference"]["ter"]["interval"][1] < 0
    kept = json.loads((adapter / "manifest.json").read_text(encoding="utf-8"))["scores"]
    assert [entry["metrics"] for entry in kept.values()] == [scores["metrics"]]
    for told in (
        done.stderr,
        invoke("adapters").stderr,
        invoke("adapters", "show", "demo").stderr,
        invoke("adapters", "compare", "demo", str(DEMO)).stderr,
        (adapter / "README.md").read_text(encoding="utf-8"),
        (adapter / "report.html").read_text(encoding="utf-8"),
        html.scored(scores),
        html.scored({**scores, "baseline": None, "difference": None}),
    ):
        assert "(lower" in told.replace("\\", "")  # a narrow table breaks the line around it
        assert "exact_match (lower" not in told
    assert "ter (lower is better)" in done.stderr
    assert "&lt;0.001" in html.scored(scores)


def test_texts_too_long_for_ter_are_refused_before_anything_is_decoded(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_rows(
        here / "t.jsonl",
        [{"source": f"q {n}", "target": f"{n} " * (300 + 1000 * n)} for n in range(2)],
    )
    asked = ("eval", str(tiny_model), "--data", "t.jsonl", "--set", "evaluation.metrics=ter")
    refused = invoke(*asked, *LESS, code=2).stderr
    assert "error: ter compares sentences: a reference has 1,300 words, expected at most" in refused
    assert "hint: choose another metric: --set evaluation.metrics=chrf" in refused
    assert "decode" not in refused
    write_rows(here / "t.jsonl", [{"source": f"q {n}", "target": f"{n} " * 900} for n in range(5)])
    told = invoke(*asked, *LESS).stderr
    assert "ter may take up to about 2 minutes: it is meant for sentences" in told
    sampled = invoke(*asked, *LESS, "--limit", "1").stderr
    assert "minutes" not in sampled
