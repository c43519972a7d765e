"""Two processes train what one process with twice the accumulation trains, by the command line
too.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import programs
import pytest
import safetensors.torch
import torch
from training_parts import metrics, saved_steps

from lora_s2s.cli import app

WORKER = Path(__file__).with_name("process_worker.py")


RECIPE = """\
model: {name: demo}
data: {train: rows.jsonl, validation_fraction: 0.2}
lora: {r: 4, alpha: 8, dropout: 0.1, target_modules: attention-qv}
training: {max_steps: 8, batch_size: 4, gradient_accumulation: 2, save_every: 3, evaluate_every: 4}
output: {dir: adapters, name: it}
"""


def start(processes: int, *words: str, where: Path | None = None) -> list[tuple[int, str, str]]:
    """Runs Python in so many processes as a launcher would; returns each one's exit code, stdout
    and stderr.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    started = []
    for rank in range(processes):
        own = {
            **shared,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(processes),
        }
        environment = programs.environment(**(own if processes > 1 else {}), OMP_NUM_THREADS="1")
        command = [sys.executable, *(str(rank) if word == "RANK" else word for word in words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, cwd=where, **pipes))
    told = [process.communicate(timeout=240) for process in started]
    return [(process.returncode, *pair) for process, pair in zip(started, told, strict=True)]


def launch(folder: Path, *, processes: int, accumulation: int) -> list[dict[str, torch.Tensor]]:
    """Runs the worker and returns the adapter each process ends with."""
    folder.mkdir()
    for code, _, errors in start(processes, str(WORKER), str(folder), str(accumulation), "RANK"):
        assert code == 0, errors
    return [
        safetensors.torch.load_file(folder / f"rank{rank}.safetensors") for rank in range(processes)
    ]


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
        # AdamW's step is as large as any where a gradient is mere rounding: the norm shows it, the
        # loss does not.
        assert here.get("grad_norm", 0.0) == pytest.approx(there.get("grad_norm", 0.0), abs=1e-4)
    # The first step starts from equal weights: there the gradients must agree as closely as float32
    # can.
    assert one[0]["grad_norm"] == pytest.approx(two[0]["grad_norm"], abs=1e-6)
    assert max(float((alone[name] - first[name]).abs().max()) for name in alone) < 1e-3
    assert saved_steps(tmp_path / "two") == saved_steps(tmp_path / "one")


def train(folder: Path, *words: str, expected: int = 0) -> dict[str, Any]:
    """Trains by the command line in two processes, of which one talks; returns its JSON object."""
    (code, out, err), other = start(
        2, "-m", "lora_s2s", "train", "recipe.yaml", "--json", *words, where=folder
    )
    assert code == expected, err
    assert other[:2] == (expected, ""), other
    assert ("data:" in err, "data:" in other[2]) == (True, False)
    result: dict[str, Any] = json.loads(out)
    return result


def make(folder: Path) -> Path:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    rows = [
        {"source": f"table for {n} at {n}pm", "target": f"size={n}; time={n}"} for n in range(60)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.slow
def test_the_command_line_in_two_processes_prepares_once_and_resumes_bit_for_bit(
    tmp_path: Path,
) -> None:
    whole, parts = make(tmp_path / "whole"), make(tmp_path / "parts")
    assert train(whole)["steps"] == 8
    assert sorted(path.name for path in whole.iterdir()) == [
        "adapters",
        "prepared",
        "recipe.yaml",
        "rows.jsonl",
    ]
    assert [path.name for path in (whole / "adapters").iterdir()] == ["it"]
    assert train(parts, "--stop-after", "1s", expected=1)["stopped"] == "deadline"
    assert train(parts, "--resume")["steps"] == 8
    weights = Path("adapters/it/adapter_model.safetensors")
    assert (parts / weights).read_bytes() == (whole / weights).read_bytes()


def test_verbs_of_one_process_say_so_under_a_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as ended:
        app(["predict", "demo", "hi"])
    assert ended.value.code == 2
    assert (
        "error: predict runs in one process, but 2 were started\nhint:" in capsys.readouterr().err
    )


def launched(here: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs ``train`` with --processes in a folder."""
    command = [sys.executable, "-m", "lora_s2s", "train", *words]
    environment = programs.environment(OMP_NUM_THREADS="1")
    pipes = {"capture_output": True, "text": True, "timeout": 240}
    done = subprocess.run(command, cwd=here, env=environment, check=False, **pipes)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_train_starts_processes_that_train_what_one_trains(tmp_path: Path, method: str) -> None:
    losses, weights = [], []
    for processes, accumulation in ((1, 2), (2, 1)):
        name = f"p{processes}"
        given = {
            "lora.method": method,
            "training.max_steps": 3,
            "training.gradient_accumulation": accumulation,
            "output.name": name,
            "data.train": "demo:validation",
            "data.validation": "demo:test",
            "data.test": "null",
        }
        sets = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
        done = launched(tmp_path, "demo", "--processes", str(processes), *sets, "--json")
        losses.append(json.loads(done.stdout)["train_loss"])
        assert done.stderr.count("next: ") == 1
        (file,) = (tmp_path / "adapters" / name).glob("*model.safetensors")
        weights.append(safetensors.torch.load_file(file))
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    one, two = weights
    for key, weight in one.items():
        # Where a gradient is mere rounding, AdamW's step is as large as any.
        apart = (two[key] - weight).abs()
        assert float(apart.mean()) < 1e-4, key


@pytest.mark.slow
def test_what_every_process_refuses_is_said_once(tmp_path: Path) -> None:
    done = launched(tmp_path, "nosuch", "--processes=2", code=2)
    assert done.stderr.count("error: no such recipe") == 1
    assert "Traceback" not in done.stderr
