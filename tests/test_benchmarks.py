"""The benchmark scripts run: here on shapes so small that their figures mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def result_of(script: str, out: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / script), *words, "--out", str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (kept,) = out.glob("*.json")
    found: dict[str, Any] = json.loads(kept.read_text())
    assert json.loads(done.stdout) == found
    return found


@pytest.mark.slow
def test_gpu_memory_trains_both_sides_on_a_cpu_too(tmp_path: Path) -> None:
    words = ("--device", "cpu", "--caps", "tiny:8", "--steps", "3", "--source", "24", "--target", "8")
    found = result_of("gpu_memory.py", tmp_path, *words)
    assert [run["side"] for run in found["runs"]] == ["ours", "hf"]
    for run in found["runs"]:
        assert run["trained"]
        assert run["losses"][-1] < run["losses"][0]
        assert 0 < run["loaded_GB"] <= run["peak_GB"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_step_measures_every_variant(tmp_path: Path) -> None:
    words = ("--shape", "tiny", "--rows", "2", "--micro-batch", "1", "--source", "24", "--target", "8", "--steps", "2")
    found = result_of("memory_step.py", tmp_path, *words, "--only", "ours")
    (run,) = found["runs"]
    assert 0 < run["MiB"]["baseline"] <= run["MiB"]["peak"]
    assert len(run["losses"]) == 2
