"""``eval``: which metrics it chooses for a file, what it tells, and what lands in the folder."""

from __future__ import annotations

import json
from pathlib import Path

from cli_parts import Invoke

LESS = ("--set", "evaluation.max_new_tokens=3")


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def test_labels_are_counted_and_those_never_answered_are_named(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
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
    assert (
        "metrics: exact_match, macro_f1 (the targets are 3 labels in 60 sources)" in result.stderr
    )
    assert (scores["n"], scores["sources"]) == (30, 60)
    assert len(scores["labels"]["table"]) == 3
    assert set(scores["labels"]["never_answered"]) == set(names)
    assert "3 of 3 labels are never answered" in result.stderr
    kept = json.loads((here / "ev" / "scores.json").read_text(encoding="utf-8"))
    assert kept["labels"] == scores["labels"]
    assert kept["notes"] == scores["notes"]
    assert any("near zero" in note for note in scores["notes"])


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
