"""``eval`` of predictions made elsewhere, against another model, of several models, and resumed."""

from __future__ import annotations

import copy
import json
import re
import shlex
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_parts import Invoke, listing, make_tiny_model
from preloaded import Preloaded

import lora_s2s
from lora_s2s.pipeline import html, kept_answers
from lora_s2s.pipeline.several import Several, seeds_of

LESS = ("--set", "evaluation.max_new_tokens=3", "--json")
WORDS = "one two three four five six".split()


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second tiny model, with other weights."""
    return make_tiny_model(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture
def data(here: Path) -> str:
    """Ten rows of nine different sources."""
    sources = [f"{WORDS[n % 6]} {WORDS[n % 4]} is {n}" for n in range(9)]
    rows = [{"source": text, "target": f"answer to {text}"} for text in [*sources, sources[0]]]
    rows[-1]["target"] = "another answer"
    return written(here / "t.jsonl", rows)


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path.name


def answers(good: int) -> list[dict[str, Any]]:
    """Thirty rows, of which the first are answered correctly."""
    return [
        {
            "source": f"source {n}",
            "target": f"the text {n}",
            "prediction": f"the text {n}" if n < good else "no",
        }
        for n in range(30)
    ]


def test_predictions_are_scored_and_compared_without_a_model(invoke: Invoke, here: Path) -> None:
    written(here / "a.jsonl", answers(24))
    written(here / "b.jsonl", answers(12))
    asked = ("--set", "evaluation.metrics=[exact_match,chrf]", "--json")
    done = invoke("eval", "--from", "a.jsonl", "--against", "b.jsonl", *asked, "--out", "ev")
    scores = json.loads(done.stdout)
    assert scores["metrics"]["exact_match"]["value"] == 80
    against = scores["against"]
    assert against["name"] == "b.jsonl"
    assert against["metrics"]["exact_match"]["value"] == 40
    difference = against["difference"]["exact_match"]
    assert difference["value"] == 40
    assert difference["p_value"] < 0.01
    assert difference["bootstrap_p_value"] < 0.01
    assert 15 < difference["detectable"] < 40
    (line,) = [line for line in done.stderr.splitlines() if "80.00  " in line and "+40.00" in line]
    assert line.split()[0] == "exact_match"
    assert len(line.rstrip()) <= 80  # not folded on a usual terminal
    least = f"{difference['detectable']:.2f}"
    found = "the difference of 40.00 points of exact_match"
    enough = f"{found} is unlikely to be chance: 30 sources reliably tell"
    assert scores["enough"].startswith(f"{enough} {least} points or more")
    assert scores["enough"] in " ".join(done.stderr.split())
    assert "Against b.jsonl" in done.stderr
    rows = [json.loads(line) for line in (here / "ev" / "predictions.jsonl").open()]
    assert rows[20]["prediction"] == "the text 20"
    assert rows[20]["against"] == "no"
    in_python = lora_s2s.evaluate(
        predictions="a.jsonl",
        against="b.jsonl",
        overrides={"evaluation.metrics": ["exact_match", "chrf"]},
        progress=False,
    )
    assert json.loads(json.dumps(in_python.to_dict()))["against"] == against


def test_a_column_or_the_files_name_tasks(invoke: Invoke, here: Path) -> None:
    rows = [{**row, "task": "ab"[n % 3 == 0]} for n, row in enumerate(answers(15))]
    data = written(here / "tasks.jsonl", rows)
    asked = ("eval", "--from", data, "--set", "evaluation.metrics=[exact_match]", "--json")
    by_column = ("--data", data, "--set", "data.task_column=task")
    done = invoke(*asked, *by_column, "--out", "e")
    scores = json.loads(done.stdout)
    assert scores["tasks"] == {"b": {"n": 10, "exact_match": 50}, "a": {"n": 20, "exact_match": 50}}
    assert scores["task_intervals"]["a"]["exact_match"] == pytest.approx((29.93, 70.07), abs=0.005)
    for shown in (done.stderr, html.scored(scores)):
        assert "2 tasks, worst exact_match first" in " ".join(shown.split())
    by_file = ("--data", data, "--set", "data.task_column=file")
    assert list(json.loads(invoke(*asked, *by_file).stdout)["tasks"]) == ["tasks"]
    none = ("--data", data, "--set", "data.task_column=nothing")
    assert "no row names a task" in invoke(*asked, *none, code=3).stderr


def test_references_come_from_the_data_and_must_belong_to_it(
    invoke: Invoke, here: Path, data: str
) -> None:
    (here / "lines.txt").write_text("answer\n" * 10, encoding="utf-8")
    done = invoke("eval", "--from", "lines.txt", "--data", data, "--json")
    assert json.loads(done.stdout)["references"] == 10
    assert json.loads(done.stdout)["n"] == 9
    (here / "few.txt").write_text("answer\n" * 4, encoding="utf-8")
    few = invoke("eval", "--from", "few.txt", "--data", data, code=3).stderr
    assert "few.txt has 4 predictions, the data 10 rows (9 different sources)" in " ".join(
        few.split()
    )
    refused = invoke("eval", "--from", "lines.txt", "--data", data, "--baseline", code=2).stderr
    assert "--baseline is for a model that answers" in refused
    assert "expected a model, an adapter or predictions" in invoke("eval", code=2).stderr


def test_the_base_of_several_adapters_is_reported_once() -> None:
    base, own = "3 of 9 answers of the base were cut at the limit", "all 9 answers are the same"
    scores: Any = SimpleNamespace(notes=(own, base), against=None, enough=None, n=9)
    several = Several({"a": scores, "b": copy.copy(scores)}, ())
    assert [list(several.notes(name)) for name in "ab"] == [[own, base], [own]]


def test_another_model_scores_there_as_it_does_alone(
    invoke: Invoke, here: Path, data: str, tiny_model: Path, other_model: Path
) -> None:
    less = (*LESS, "--set", "evaluation.metrics=[chrf,loss,bits_per_byte]")
    alone = [
        json.loads(invoke("eval", str(model), "--data", data, *less).stdout)
        for model in (tiny_model, other_model)
    ]
    assert alone[0]["metrics"]["loss"] != alone[1]["metrics"]["loss"]
    against = ("--against", str(other_model), "--data", data)
    both = json.loads(invoke("eval", str(tiny_model), *against, *less).stdout)
    assert both["metrics"] == alone[0]["metrics"]
    assert both["against"]["metrics"] == alone[1]["metrics"]
    assert both["against"]["unstopped"] == alone[1]["unstopped"] > 0
    two = [str(tiny_model), str(other_model)]
    several = invoke("eval", *two, "--data", data, *less, "--out", "e")
    metrics = {"evaluation.max_new_tokens": 3, "evaluation.metrics": list(alone[0]["metrics"])}
    in_python = lora_s2s.evaluate(two, data, overrides=metrics, out="p", progress=False)
    as_json = json.loads(json.dumps(in_python.to_dict()))
    assert [entry["metrics"] for entry in as_json["models"]] == [one["metrics"] for one in alone]
    result = json.loads(several.stdout)
    assert [entry["metrics"] for entry in result["models"]] == [one["metrics"] for one in alone]
    assert result["metrics"] == alone[0]["metrics"]
    assert result["models"][0]["against"] is None
    reverse = result["models"][1]["against"]
    assert reverse["name"] == result["models"][0]["name"]
    assert reverse["unstopped"] == alone[0]["unstopped"] > 0
    for name, entry in both["against"]["difference"].items():
        assert reverse["difference"][name]["value"] == pytest.approx(-entry["value"])
    assert "2 models: 9 sources" in several.stderr
    assert "9 sources: 1 of the 10 rows repeat one, and their" in several.stderr
    cut = f"answers of {reverse['name']} were cut at its length limit"
    assert cut in " ".join(result["models"][1]["notes"])
    assert "answers were cut at the length limit" in several.stderr
    assert "answers of" not in several.stderr  # the first model's are reported once
    assert not [path for path in listing(here) if path.endswith(".part")]
    twice = invoke("eval", str(tiny_model), str(tiny_model), "--data", data, code=2)
    assert "named twice" in twice.stderr


def test_a_folder_of_prepared_data_is_scored(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    rows = [{"source": f"question {n}", "target": f"answer {n}"} for n in range(60)]
    written(here / "all.jsonl", rows)
    model = ("--model", str(tiny_model), "--set", "data.validation_fraction=0.2")
    invoke("prepare", "--data", "all.jsonl", *model, "--out", "ready")
    scores = json.loads(invoke("eval", str(tiny_model), "--data", "ready", *LESS).stdout)
    assert 0 < scores["n"] < 30


def test_a_killed_evaluation_continues_to_the_same_files(
    invoke: Invoke,
    here: Path,
    data: str,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_answers, "AT_ONCE", 4)
    asked = ("eval", str(tiny_model), "--data", data, *LESS, "--out")
    invoke(*asked, "whole")
    real, calls = kept_answers.decode, []

    def killed(*arguments: Any) -> Any:
        calls.append(len(arguments[1]))
        if len(calls) == 3:
            raise SystemExit(143)
        return real(*arguments)

    monkeypatch.setattr(kept_answers, "decode", killed)
    stopped = invoke(*asked, "again", code=143).stderr
    command = f"lora-s2s {shlex.join(asked)} again --resume"
    assert f"again.decode.part holds 8 of 9 answers; continue: {command}\n" in stopped
    part = here / "again.decode.part"
    kept = part.read_bytes()
    part.write_bytes(kept[:-7])  # cut off in the second four
    refused = invoke(*asked, "again", code=2).stderr
    assert refused.endswith(f"continue: {command}\n")
    invoke(*shlex.split(command)[1:])
    assert calls == [4, 4, 1, 4, 1]
    for name in ("predictions.jsonl", "scores.json"):
        assert (here / "again" / name).read_bytes() == (here / "whole" / name).read_bytes()
    assert not part.exists()
    part.write_bytes(kept)
    changed = ("--set", "evaluation.num_beams=2", "--resume")
    assert "made with another decoding" in invoke(*asked, "again", *changed, code=2).stderr


KILLED = """
import os, signal
from lora_s2s.pipeline.unfinished import Unfinished
add = Unfinished.add
def add_and_die(self, lines):
    add(self, lines)
    os.kill(os.getpid(), signal.SIGKILL)
Unfinished.add = add_and_die
from lora_s2s.cli import main
main()
"""


@pytest.mark.slow
def test_an_evaluation_that_is_killed_outright_continues_to_the_same_files(
    invoke: Invoke, here: Path, tiny_model: Path, preloaded: Preloaded
) -> None:
    rows = [{"source": f"the number {n}", "target": f"is {n}"} for n in range(600)]
    data = written(here / "many.jsonl", rows)
    asked = ["eval", str(tiny_model), "--data", data, "--set", "evaluation.max_new_tokens=6"]
    script = here / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    ended = preloaded.run(here, *asked, "--out", "again", script=str(script))
    assert ended.code == -signal.SIGKILL
    continued = invoke(*asked, "--out", "again", "--resume").stderr
    assert re.search(r"continuing: [1-9][0-9,]* of 600 sources are answered", continued)
    invoke(*asked, "--out", "whole")
    for name in ("predictions.jsonl", "scores.json"):
        assert (here / "again" / name).read_bytes() == (here / "whole" / name).read_bytes()


def test_runs_that_differ_in_the_seed_alone_are_one_recipe() -> None:
    class Fake:
        def __init__(self, value: float) -> None:
            score = type("Score", (), {"value": value})()
            self.metrics = {"chrf": score}

    scores: Any = {name: Fake(value) for name, value in (("a", 50.0), ("b", 54.0), ("c", 9.0))}
    recipes = [{"training": {"seed": n, "epochs": 1}, "output": {"name": n}} for n in range(3)]
    recipes[2]["training"]["epochs"] = 2
    (found,) = seeds_of(scores, recipes, [True] * 3)
    assert str(found) == "2 seeds of one recipe (a, b): chrf 52.00 ± 2.83 (sd)"
    assert found.to_json()["metrics"] == {
        "chrf": {"mean": 52.0, "sd": pytest.approx(2.828, abs=1e-3)}
    }
    assert seeds_of(scores, recipes, [True, False, True]) == []
