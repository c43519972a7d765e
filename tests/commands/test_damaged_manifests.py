"""Manifests that lack or distort what a command needs: one message names the key, exit code 3."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Invoke, write_csv

STEPS = ("--set", "training.max_steps=1", "--set", "training.batch_size=4")


def spoil(folder: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = Path(folder) / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def made(invoke: Invoke, here: Path, tiny_model: Path) -> Path:
    """Prepared data ``p`` and the finished adapter ``adapters/p``."""
    write_csv(here / "a.csv")
    invoke("prepare", "--data", "a.csv", "--model", str(tiny_model), "--out", "p")
    invoke("train", "p", *STEPS)
    return here


def test_a_finished_run_without_counts(invoke: Invoke, made: Path) -> None:
    assert "done already" in invoke("train", "p", *STEPS, "--resume").stderr
    spoil("adapters/p", lambda manifest: manifest.pop("counts"))
    stderr = invoke("train", "p", *STEPS, "--resume", code=3).stderr
    assert "`manifest.json` is damaged: counts is missing" in stderr
    assert "hint: train it again: lora-s2s train " in stderr
    spoil("adapters/p", lambda manifest: manifest.update(counts={"total_parameters": 1}))
    stderr = invoke("train", "p", *STEPS, "--resume", code=3).stderr
    assert "counts.trainable_parameters is missing" in stderr


def test_prepared_data_without_a_report(invoke: Invoke, made: Path) -> None:
    spoil("p", lambda manifest: manifest.update(report={}))
    stderr = invoke("train", "p", *STEPS, "--set", "output.name=b", code=3).stderr
    assert "`manifest.json` is damaged: report.rows is missing" in stderr
    assert "hint: remove p and prepare the data again" in stderr


def test_an_adapter_with_a_source_limit_that_no_recipe_takes(invoke: Invoke, made: Path) -> None:
    spoil("adapters/p", lambda manifest: manifest["input"].update(max_source_tokens=2))
    for command in (("predict", "adapters/p", "hello"), ("merge", "adapters/p", "--out", "m")):
        stderr = invoke(*command, code=3).stderr
        assert "damaged: input.max_source_tokens should be at least 4, not 2" in stderr
