"""Several processes train what one process trains, and continue each other's runs; by the command
line too.
"""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import programs
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_parts import metrics, saved_steps

from lora_s2s.errors import OWN_LAUNCH
from lora_s2s.pipeline.launch import in_processes
from lora_s2s.training.plan import shares

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


CASES = ("rows", "tokens", "packed", "nf4", "full", "sharded", "sharded-full")
CONTINUED = ("rows", "sharded", "sharded-full")
WORLDS = (1, 2, 4)
RESUMED = ((2, 1), (1, 2), (4, 3))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders N/CASE of runs in N processes, and N-M/CASE of those that M processes continue."""
    folder = tmp_path_factory.mktemp("runs")

    def told(name: str, first: str | None = None) -> Iterator[list[Any]]:
        for case in CASES if first is None else CONTINUED:
            half = first and f"{folder}/{first}/{case}/checkpoints/step-000003"
            yield [int(name[-1]), [case, f"{folder}/{name}/{case}", half]]

    launches = [run for world in WORLDS for run in told(str(world))]
    launches += [run for first, then in RESUMED for run in told(f"{first}-{then}", str(first))]
    command = [sys.executable, str(WORKER), json.dumps(launches)]
    environment = programs.environment(OMP_NUM_THREADS="1")
    pipes = {"capture_output": True, "text": True, "timeout": 1200}
    done = subprocess.run(command, env=environment, check=False, **pipes)
    assert done.returncode == 0, done.stderr
    return folder


def adapters(folder: Path) -> list[dict[str, torch.Tensor]]:
    """What each process of a run ends with."""
    return [safetensors.torch.load_file(path) for path in sorted(folder.glob("rank*.safetensors"))]


def assert_one_trajectory(one: Path, other: Path) -> None:
    for here, there in zip(metrics(one), metrics(other), strict=True):
        assert here["step"] == there["step"]
        assert here.get("target_tokens") == there.get("target_tokens")
        for key in ("loss", "validation_loss"):
            assert here.get(key, 0.0) == pytest.approx(there.get(key, 0.0), abs=1e-5)
        assert here.get("grad_norm", 0.0) == pytest.approx(there.get("grad_norm", 0.0), abs=1e-4)
    (alone,) = adapters(one)
    first, *others = adapters(other)
    for name, weight in alone.items():
        assert float((weight - first[name]).abs().max()) < 1e-4, name
        assert all(torch.equal(first[name], rank[name]) for rank in others if rank), name
    assert saved_steps(one)[-3:] == saved_steps(other)[-3:]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", WORLDS[1:])
def test_several_processes_train_what_one_trains(runs: Path, case: str, world: int) -> None:
    assert_one_trajectory(runs / "1" / case, runs / str(world) / case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CONTINUED)
@pytest.mark.parametrize("worlds", RESUMED, ids=lambda worlds: "to".join(map(str, worlds)))
def test_another_number_of_processes_continues_the_run(
    runs: Path, case: str, worlds: tuple[int, int]
) -> None:
    assert_one_trajectory(runs / "1" / case, runs / "{}-{}".format(*worlds) / case)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), processes=st.integers(1, 9))
def test_processes_share_the_rows_of_a_step(sizes: list[int], processes: int) -> None:
    ends = list(itertools.accumulate(sizes))
    step = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    dealt = shares(step, processes)
    assert sorted(row for share in dealt for rows in share for row in rows) == list(range(ends[-1]))
    assert all(any({*rows} <= {*whole} for whole in step) for share in dealt for rows in share)
    assert max(map(len, dealt)) == -(-len(step) // processes)
    assert dealt == [step] or processes > 1


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


def launched(here: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs ``train`` with --processes in a folder."""
    command = [sys.executable, "-m", "lora_s2s", "train", *words]
    environment = programs.environment(OMP_NUM_THREADS="1")
    pipes = {"capture_output": True, "text": True, "timeout": 240}
    done = subprocess.run(command, cwd=here, env=environment, check=False, **pipes)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "sharding"), [("lora", "none"), ("lora", "full"), ("full", "full")]
)
def test_train_starts_processes_that_train_what_one_trains(
    tmp_path: Path, method: str, sharding: str
) -> None:
    losses, weights = [], []
    for processes in (1, 2):
        name = f"p{processes}"
        given = {
            "lora.method": method,
            "training.sharding": sharding,
            "training.max_steps": 3,
            "training.gradient_accumulation": 2,
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


def test_processes_that_were_launched_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def elastic_launch(config: Any, _: str) -> Callable[..., None]:
        return lambda *words: started.append((config.run_id, words))

    started: list[tuple[str, tuple[str, ...]]] = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("lora_s2s.pipeline.launch.elastic_launch", elastic_launch)
    assert in_processes(2, ["train", "r", "--processes", "2"]) == 0
    ((run, words),) = started
    assert run.startswith(OWN_LAUNCH)  # so that they print the option that their words lack
    assert words == ("-m", "lora_s2s", "train", "r")


@pytest.mark.slow
def test_what_every_process_refuses_is_said_once(tmp_path: Path) -> None:
    done = launched(tmp_path, "nosuch", "--processes=2", code=2)
    assert done.stderr.count("error: no such recipe") == 1
    assert "Traceback" not in done.stderr
