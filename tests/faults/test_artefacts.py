"""Adapters and merged models carry hashes of their files: what was changed afterwards is refused,
and named.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from harness import SHORT, make_start
from preloaded import Preloaded

pytestmark = pytest.mark.slow  # a run for each file

ADAPTER = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, preloaded: Preloaded) -> Path:
    folder = make_start(tmp_path_factory.mktemp("merged") / "it")
    assert preloaded.run(folder, *SHORT).code == 0
    evaluated = preloaded.run(folder, "eval", "adapters/it", "--data", "rows.jsonl", "--limit", "4")
    assert evaluated.code == 0, evaluated.stderr
    outcome = preloaded.run(folder, "merge", "adapters/it", "--out", "merged")
    assert outcome.code == 0, outcome.stderr
    return folder


def listed(model: Path) -> set[str]:
    return set(json.loads((model / "manifest.json").read_text(encoding="utf-8"))["files"])


def test_every_file_that_is_loaded_is_listed_and_scores_leave_the_list(merged: Path) -> None:
    assert set(ADAPTER) <= listed(merged / "adapters" / "it")
    assert {
        "config.json",
        "model.safetensors",
        "generation_config.json",
        "tokenizer.json",
    } <= listed(merged / "merged")
    assert "README.md" not in listed(merged / "adapters" / "it")


@pytest.mark.parametrize("model", ["adapters/it", "merged"])
def test_a_changed_file_is_refused_by_name(
    tmp_path: Path, merged: Path, preloaded: Preloaded, model: str
) -> None:
    assert preloaded.run(merged, "predict", model, "repeat the number 3").code == 0
    for name in sorted(listed(merged / model)):
        folder = shutil.copytree(merged / model, tmp_path / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-2] + b" " + content[-1:])
        outcome = preloaded.run(merged, "predict", str(folder), "repeat the number 3")
        assert outcome.code == 3, (name, outcome.stderr)
        assert str(folder / name) in outcome.stderr
        assert "Traceback" not in outcome.stderr
        (folder / name).unlink()
        missing = preloaded.run(merged, "predict", str(folder), "repeat the number 3")
        assert missing.code in (2, 3), (name, missing.stderr)
