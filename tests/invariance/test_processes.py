"""Several processes train what one process trains, and continue each other's runs; by the command
line too.
"""

from __future__ import annotations

import itertools
import json
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
from preloaded import Preloaded
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


def train(preloaded: Preloaded, folder: Path, *words: str, expected: int = 0) -> dict[str, Any]:
    """Trains by the command line in two processes, of which one talks; returns its JSON object."""
    first, other = preloaded.run_together(folder, 2, "train", "recipe.yaml", "--json", *words)
    assert first.code == expected, first.stderr
    assert (other.code, other.stdout) == (expected, ""), other
    assert ("data:" in first.stderr, "data:" in other.stderr) == (True, False)
    result: dict[str, Any] = json.loads(first.stdout)
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
    tmp_path: Path, preloaded: Preloaded
) -> None:
    whole, parts = make(tmp_path / "whole"), make(tmp_path / "parts")
    assert train(preloaded, whole)["steps"] == 8
    assert sorted(path.name for path in whole.iterdir()) == [
        "adapters",
        "prepared",
        "recipe.yaml",
        "rows.jsonl",
    ]
    assert [path.name for path in (whole / "adapters").iterdir()] == ["it"]
    stopped = train(preloaded, parts, "--stop-after", "1s", expected=1)
    assert stopped["stopped"] == "deadline"
    assert train(preloaded, parts, "--resume")["steps"] == 8
    weights = Path("adapters/it/adapter_model.safetensors")
    assert (parts / weights).read_bytes() == (whole / weights).read_bytes()


@pytest.mark.parametrize(
    ("method", "sharding"),
    [
        pytest.param("lora", "none", marks=pytest.mark.slow),
        # Sharding and LoRA, of which the others have either; the case "sharded" above has both.
        pytest.param("lora", "full", marks=pytest.mark.long),
        pytest.param("full", "full", marks=pytest.mark.slow),
    ],
)
def test_train_starts_processes_that_train_what_one_trains(
    tmp_path: Path, preloaded: Preloaded, method: str, sharding: str
) -> None:
    losses, weights, folder = [], [], make(tmp_path / "here")
    for processes in (1, 2):
        name = f"p{processes}"
        given = {
            "lora.method": method,
            "training.sharding": sharding,
            "training.max_steps": 3,
            "training.gradient_accumulation": 2,
            "output.name": name,
            "data.train": "rows.jsonl",
            "data.validation": "null",
            "data.test": "null",
        }
        sets = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
        words = ("train", "demo", *sets, "--json")
        if method == "lora" or processes == 1:
            done = preloaded.run(folder, *words, "--processes", str(processes))
        else:  # a launcher's, which take no start
            done, _ = preloaded.run_together(folder, processes, *words)
        assert done.code == 0, done.stderr
        losses.append(json.loads(done.stdout)["train_loss"])
        assert done.stderr.count("next: ") == 1
        (file,) = (folder / "adapters" / name).glob("*model.safetensors")
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
def test_what_every_process_refuses_is_said_once(tmp_path: Path, preloaded: Preloaded) -> None:
    done = preloaded.run(tmp_path, "train", "nosuch", "--processes=2")
    assert done.code == 2
    assert done.stderr.count("error: no such recipe") == 1
    assert "Traceback" not in done.stderr
