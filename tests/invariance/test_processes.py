"""Two processes train what one process with twice the accumulation trains."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from training_parts import metrics, saved_steps

WORKER = Path(__file__).with_name("process_worker.py")


def launch(folder: Path, *, processes: int, accumulation: int) -> list[dict[str, torch.Tensor]]:
    """Runs the worker in so many processes as a launcher would and returns the adapter each ends with."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    started = []
    for rank in range(processes):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
        environment = {**os.environ, **(own if processes > 1 else {}), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(WORKER), str(folder), str(accumulation), str(rank)]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    return [safetensors.torch.load_file(folder / f"rank{rank}.safetensors") for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    (alone,) = launch(tmp_path / "one", processes=1, accumulation=4)
    first, second = launch(tmp_path / "two", processes=2, accumulation=2)
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for here, there in zip(one, two, strict=True):
        assert here.get("target_tokens") == there.get("target_tokens")
        for key in ("loss", "validation_loss"):
            assert here.get(key, 0.0) == pytest.approx(there.get(key, 0.0), abs=2e-6)
        # AdamW's step is as large as any where a gradient is mere rounding: the norm shows it, the loss does not.
        assert here.get("grad_norm", 0.0) == pytest.approx(there.get("grad_norm", 0.0), abs=1e-4)
    # The first step starts from equal weights: there the gradients must agree as closely as float32 can.
    assert one[0]["grad_norm"] == pytest.approx(two[0]["grad_norm"], abs=1e-6)
    assert max(float((alone[name] - first[name]).abs().max()) for name in alone) < 1e-3
    assert saved_steps(tmp_path / "two") == saved_steps(tmp_path / "one")
