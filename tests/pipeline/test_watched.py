"""A run that answers and scores a sample while it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_parts import write_csv

import lora_s2s
from lora_s2s.errors import UsageError
from lora_s2s.evaluation import while_training
from lora_s2s.inference import fast_decoding

CLOCKS = ("seconds", "tokens_per_second", "memory_bytes")


def settings(base: Path, **training: object) -> dict[str, Any]:
    return {
        "model": {"name": base},
        "data": {"train": "train.csv", "validation_fraction": 0.3},
        "lora": {"dropout": 0.2},
        "training": {"max_steps": 4, "batch_size": 4, "evaluate_every": 2, **training},
        "evaluation": {"max_new_tokens": 4, "metrics": ["chrf", "length_ratio"]},
    }


def lines(run: lora_s2s.TrainedAdapter) -> list[dict[str, Any]]:
    text = (Path(str(run.adapter)) / "metrics.jsonl").read_text(encoding="utf-8")
    read = map(json.loads, text.splitlines())
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in read]


def weights(run: lora_s2s.TrainedAdapter) -> bytes:
    (path,) = Path(str(run.adapter)).glob("*.safetensors")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("forward", "method"),
    [("fast", "lora"), ("reference", "lora"), ("fast", "dora"), ("fast", "full")],
)
def test_answers_are_scored_and_training_does_not_notice(
    tiny_model: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    forward: str,
    method: str,
) -> None:
    monkeypatch.setenv("LORA_S2S_FORWARD", forward)
    write_csv(here / "train.csv")
    changes = {"lora.method": method, "training.dropout": 0.1, "evaluation.temperature": 0.9}
    recipe = {**settings(tiny_model), **changes}
    if method == "full":
        del recipe["lora"]
    plain = lora_s2s.train({**recipe, "output.name": "plain"})
    capsys.readouterr()
    fast_decoding._CHOSEN.clear()  # other tests' models
    kept, measure = [], while_training.measure

    def measured(*given: Any) -> Any:
        kept.append(len(fast_decoding._CHOSEN))
        return measure(*given)

    monkeypatch.setattr(while_training, "measure", measured)
    scored = lora_s2s.train({**recipe, "output.name": "scored", "training.scored_sources": 5})
    shown = capsys.readouterr().err
    assert weights(scored) == weights(plain)
    names = ("chrf", "length_ratio")
    without = [
        {key: value for key, value in line.items() if key not in names} for line in lines(scored)
    ]
    assert without == lines(plain)
    validations = [line for line in lines(scored) if "validation_loss" in line]
    assert [set(names) <= set(line) for line in validations] == [True, True]
    assert shown.count("    expected: it is ") == 6
    assert f"chrf {validations[0]['chrf']:.2f}" in shown
    assert kept == [0, 0]  # no second copy of the weights is left


def test_a_metric_keeps_its_best_step_and_a_resumed_run_is_the_undisturbed_one(
    tiny_model: Path, here: Path
) -> None:
    write_csv(here / "train.csv")
    recipe = settings(tiny_model, best_metric="sqrt(chrf*token_f1)", save_every=1)
    whole = lora_s2s.train({**recipe, "output.name": "whole"})
    scores = {line["step"]: line["sqrt(chrf*token_f1)"] for line in lines(whole) if "chrf" in line}
    assert (whole.kept_by, whole.kept_score) == ("sqrt(chrf*token_f1)", max(scores.values()))
    assert scores[whole.kept_step] == whole.kept_score
    stopped = lora_s2s.train({**recipe, "output.name": "cut"}, stop_after=1e-6)
    assert (stopped.adapter, stopped.steps) == (None, 1)
    resumed = lora_s2s.train({**recipe, "output.name": "cut"}, resume=True)
    assert (weights(resumed), lines(resumed)) == (weights(whole), lines(whole))


def test_a_metric_that_cannot_decide_is_refused_before_the_first_step(
    tiny_model: Path, here: Path
) -> None:
    write_csv(here / "train.csv")
    for name, problem in (
        ("copy_rate", "neither better high nor low"),
        ("auto", "chosen at the scoring"),
        ("chrrf", "expected one of"),
        ("bleu-chrf", "neither high nor low is better"),
        ("json_f1", "JSON"),
    ):
        with pytest.raises(UsageError, match=problem):
            lora_s2s.train(settings(tiny_model, best_metric=name))
    assert not [*here.glob("adapters/*")]
