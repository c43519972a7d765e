"""What a recipe leaves to ``auto``: shown before and after training, kept by a resumed run; advice
at the end.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_parts import Invoke, write_csv

from lora_s2s.recipe import defaults
from lora_s2s.recipe.load import load_recipe

CHOSEN = ("epochs", "tokens_per_batch", "learning_rate", "evaluate_every")


@pytest.fixture
def plain(here: Path, tiny_model: Path) -> str:
    """A recipe of nothing but data and model."""
    write_csv(here / "plain.csv")
    (here / "plain.yaml").write_text(
        f"model: {{name: {tiny_model}}}\ndata: {{train: plain.csv}}\n", encoding="utf-8"
    )
    return "plain.yaml"


def test_a_dry_run_shows_the_numbers_and_says_what_they_were_chosen_for(
    invoke: Invoke, here: Path, plain: str
) -> None:
    shown = invoke("train", plain, "--dry-run")
    (here / "resolved.yaml").write_text(shown.stdout, encoding="utf-8")
    training = load_recipe("resolved.yaml").training.model_dump()
    assert all(isinstance(training[key], int | float) for key in CHOSEN)
    assert f"learning_rate {training['learning_rate']:g}" in shown.stderr
    assert "39 rows" in shown.stderr
    assert "set by auto" not in invoke("train", "resolved.yaml", "--dry-run").stderr
    counted = json.loads(invoke("train", plain, "--dry-run", "--json").stdout)
    assert counted["recipe"]["training"] == training


@pytest.mark.slow
def test_a_resumed_run_keeps_what_it_began_with_though_the_rules_have_changed(
    invoke: Invoke, here: Path, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("train", plain, "--stop-after", "1s", code=1)
    begun = load_recipe("adapters/plain.running/recipe.yaml")
    changed = ("--set", "training.learning_rate=1e-5")
    assert "belongs to another run" in invoke("train", plain, *changed, "--resume", code=2).stderr
    monkeypatch.setattr(defaults, "_RATE", 1e-3)
    monkeypatch.setattr(defaults, "_MOST_PASSES", 7)
    invoke("train", plain, "--resume")
    assert load_recipe("adapters/plain/recipe.yaml") == begun
    for name in (plain, "plain.csv"):
        assert "done already" in invoke("train", name, "--resume").stderr
    other = invoke("train", plain, "--set", "training.learning_rate=1e-5", "--resume", code=2)
    assert "adapters/plain exists already" in other.stderr


@pytest.mark.slow
def test_a_resumed_run_names_what_the_user_chose(invoke: Invoke, plain: str) -> None:
    few = ("--set", "training.batch_size=8", "--set", "training.max_steps=400")
    more = ("--set", "training.max_steps=500")
    invoke("train", plain, *few, "--stop-after", "1s", code=1)
    refused = invoke("train", plain, *more, "--resume", code=2).stderr
    listed = [line for line in refused.splitlines() if line.startswith("  training.")]
    assert listed == ["  training.max_steps: checkpoint 400, now 500"]
    anyway = f"lora-s2s train {plain} --set training.max_steps=500 --resume-anyway"
    assert refused.endswith(f"continue anyway: {anyway}\n")
    assert "examples read" not in refused  # before anything loads
    other = ("--set", "training.epochs=9", "--set", "training.tokens_per_batch=64")
    refused = invoke("train", plain, *other, "--set", "lora.r=3", "--resume", code=2).stderr
    assert [line for line in refused.splitlines() if line.startswith("  ")][:3] == [
        "  lora.r: checkpoint 16, now 3",
        "  training.epochs: checkpoint training.max_steps=400, now 9.0",
        "  training.tokens_per_batch: checkpoint training.batch_size=8, now 64",
    ]
    assert "/400" in invoke("train", plain, "--resume").stderr  # as it began, though not said again
    again = invoke("train", plain, *more, "--resume", code=2).stderr
    assert "adapters/plain was trained with training.max_steps: 400; now 500" in again


@pytest.mark.slow
def test_a_run_begun_with_restore_is_refused_until_the_recipe_says_stop(
    invoke: Invoke, here: Path, plain: str
) -> None:
    invoke("train", plain, "--stop-after", "1s", code=1)
    recorded = here / "adapters" / "plain.running" / "recipe.yaml"
    text = recorded.read_text(encoding="utf-8")
    recorded.write_text(text.replace("on_nonfinite: stop", "on_nonfinite: restore"))
    assert "on_nonfinite: restore" in recorded.read_text()
    restore = ("--set", "training.on_nonfinite=restore")
    refused = invoke("train", plain, *restore, "--resume", code=2).stderr
    assert "training.on_nonfinite: restore was removed: write stop" in refused
    resumed = invoke("train", plain, "--resume", "--stop-after", "1s", code=None)
    assert "resuming after step" in resumed.stderr


def test_a_run_ends_with_what_its_curve_says_and_the_next_command(
    invoke: Invoke, plain: str
) -> None:
    result = invoke("train", plain, "--set", "training.max_steps=3", "--json")
    (advice,) = json.loads(result.stdout)["advice"]
    assert advice["kind"] == "too_few_steps"
    assert "3 steps are few for 39 rows" in result.stderr
    command = (
        f"train adapters/plain/recipe.yaml --set {advice['setting']} --set output.name=plain-2"
    )
    assert f"lora-s2s {command}" in result.stderr
    invoke(*command.split(), "--dry-run")
