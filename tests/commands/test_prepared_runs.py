"""Training without a recipe: on data and a model alone, and on a folder that ``prepare`` wrote."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from cli_parts import Invoke, write_csv

from lora_s2s.pipeline.recipes import run_name, train_command
from lora_s2s.recipe.load import load_recipe

STEPS = ("--set", "training.max_steps=2", "--set", "training.batch_size=4")


def next_command(stderr: str) -> list[str]:
    (line,) = [line for line in stderr.splitlines() if line.startswith("next: ")]
    words = shlex.split(line.removeprefix("next: "))
    assert words[0] == "lora-s2s"
    return words[1:]


@pytest.mark.parametrize("folder", ["p", "My data (1)", "demo", "it's"])
def test_the_next_command_of_prepare_runs_as_printed(
    invoke: Invoke, here: Path, tiny_model: Path, folder: str
) -> None:
    write_csv(here / "my rows.csv")
    made = invoke("prepare", "--data", "my rows.csv", "--model", str(tiny_model), "--out", folder)
    planned = json.loads(invoke(*next_command(made.stderr), "--dry-run", "--json").stdout)
    assert planned["recipe"]["data"]["train"] == "my rows.csv"
    assert planned["recipe"]["model"]["name"] == str(tiny_model)


def test_data_and_model_alone_train_and_the_resolved_recipe_repeats_it(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "my rows.csv")
    base = ("--data", "my rows.csv", "--model", str(tiny_model))
    trained = json.loads(invoke("train", *base, *STEPS, "--json").stdout)
    assert trained["adapter"] == "adapters/my-rows"
    resolved = load_recipe("adapters/my-rows/recipe.yaml")
    limits = (
        resolved.data.max_source_tokens,
        resolved.data.max_target_tokens,
        resolved.evaluation.max_new_tokens,
    )
    assert all(isinstance(limit, int) for limit in limits)
    assert limits[1] < limits[2]  # the longest target, and a margin
    invoke("train", "adapters/my-rows/recipe.yaml", "--set", "output.name=again")
    prepared = invoke("prepare", *base, "--out", "p", "--set", "training.seed=42")
    invoke(*next_command(prepared.stderr), *STEPS, "--set", "output.name=third")
    weights = {
        (here / "adapters" / name / "adapter_model.safetensors").read_bytes()
        for name in ("my-rows", "again", "third")
    }
    assert len(weights) == 1
    assert (
        json.loads(invoke("eval", "adapters/third", "--json").stdout)["decoding"]["max_new_tokens"]
        == limits[2]
    )


def test_a_prepared_folder_needs_its_files_no_longer(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "a.csv")
    invoke("prepare", "--data", "a.csv", "--model", str(tiny_model), "--out", "p")
    (here / "a.csv").write_text("question,answer\nsecret,word\n", encoding="utf-8")
    result = invoke("train", "p", *STEPS)
    assert (
        "warning: the files that p was prepared from are missing or have changed" in result.stderr
    )
    manifest = json.loads((here / "adapters/p/manifest.json").read_text(encoding="utf-8"))
    assert manifest["sources"] == {}
    assert manifest["data"]["rows"]["kept"] == 40


def test_what_went_into_a_folder_is_not_overridden(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "a.csv")
    invoke("prepare", "--data", "a.csv", "--model", str(tiny_model), "--out", "p")
    refused = invoke("train", "p", "--set", "data.max_source_tokens=9", code=2).stderr
    assert (
        "error: data.max_source_tokens=9: p is prepared already\nhint: prepare it anew: " in refused
    )
    same = f"model.name={tiny_model}"
    assert "\nnext: lora-s2s train p" in invoke("train", "p", "--set", same, "--dry-run").stderr
    assert "omit --data and --model" in invoke("train", "p", "--data", "a.csv", code=2).stderr
    (here / "p" / "recipe.yaml").unlink()
    assert "p holds no recipe.yaml" in invoke("train", "p", code=3).stderr
    refused = invoke("train", "--data", "a.csv", code=2).stderr
    assert "expected a RECIPE, or --data and --model together\n" in refused
    assert "hint: a data file suffices: lora-s2s train a.csv\n" in refused


def test_data_given_twice_means_both(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    write_csv(here / "a.csv", rows=10)
    (here / "b [x].csv").write_text("question,answer\nwhere,here\n", encoding="utf-8")
    words = ("--data", "a.csv", "--data", "b [x].csv", "--model", str(tiny_model), "--json")
    assert json.loads(invoke("prepare", *words).stdout)["rows"]["read"] == 11


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/my file.csv.gz", "my-file"),
        ("a.jsonl@0.5", "a"),
        ("../x/", "x"),
        ("日本.csv", "日本"),
        ("data/заявки (2).csv", "заявки-2"),
        ("données²/e\u0301te\u0301.csv", "été"),
        ("हिन्दी.csv", "हिन्दी"),
        ("ж" * 60 + ".csv", "ж" * 50),  # bytes count for file systems
        ("😀.csv", "run"),
        ("demo:train", "demo-train"),
    ],
)
def test_a_run_is_named_after_its_file(path: str, name: str) -> None:
    assert run_name(path) == name


def test_a_folder_like_a_shipped_recipe_is_told_apart() -> None:
    assert train_command(Path("demo")) == "lora-s2s train ./demo"
    assert train_command(Path("-p")) == "lora-s2s train ./-p"
