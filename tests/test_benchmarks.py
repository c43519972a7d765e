"""The benchmark scripts run: here on shapes so small that their figures mean nothing."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from preloaded import Preloaded
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def result_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    preloaded: Preloaded,
) -> Run:
    """Runs a script in this process, and each side that it measures in a fork."""

    def in_fork(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        _, script, *words = command
        done = preloaded.run(tmp_path, *words, script=script)
        sys.stderr.write(done.stderr[-2000:])
        return subprocess.CompletedProcess(command, done.code, done.stdout)

    def run(script: str, *words: str) -> dict[str, Any]:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *words, "--out", str(tmp_path)])
        module = importlib.import_module(script)
        monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=in_fork, PIPE=None))
        module.main()
        (kept,) = tmp_path.glob("*.json")
        found: dict[str, Any] = json.loads(kept.read_text())
        assert json.loads(capsys.readouterr().out) == found
        return found

    return run


@pytest.mark.slow
def test_gpu_memory_trains_both_sides_on_a_cpu_too(result_of: Run) -> None:
    words = (
        "--device",
        "cpu",
        "--caps",
        "tiny:8",
        "--steps",
        "3",
        "--source",
        "24",
        "--target",
        "8",
    )
    found = result_of("gpu_memory", *words)
    assert [run["side"] for run in found["runs"]] == ["ours", "hf"]
    for run in found["runs"]:
        assert run["trained"]
        assert run["losses"][-1] < run["losses"][0]
        assert 0 < run["loaded_GB"] <= run["peak_GB"]


@pytest.mark.long  # the test of gpu_memory.py runs the same sides
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_step_measures_every_variant(result_of: Run) -> None:
    words = (
        "--shape",
        "tiny",
        "--rows",
        "2",
        "--micro-batch",
        "1",
        "--source",
        "24",
        "--target",
        "8",
        "--steps",
        "2",
    )
    found = result_of("memory_step", *words, "--only", "ours")
    (run,) = found["runs"]
    assert 0 < run["MiB"]["baseline"] <= run["MiB"]["peak"]
    assert len(run["losses"]) == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_throughput_measures_both_sides_on_as_many_tokens_and_their_losses_agree(
    tmp_path: Path, result_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    products = importlib.import_module("roofline")._PRODUCTS
    monkeypatch.setitem(products, "cpu", products["cpu"][:1])  # the smallest: 2 GFLOP, not 17
    words = (
        "--shape",
        "tiny",
        "--sides",
        "hf-best,ours",
        "--batches",
        "6",
        "--rows-tried",
        "8",
        "--profile",
        "e2e",
    )
    found = result_of("throughput", *words)
    assert str(tmp_path) not in json.dumps(found)
    ours, best = found["sides"]["ours"], found["sides"]["hf-best"]
    assert [run["rows"] for run in best["tries"]] == [8]
    for run in (ours, best):
        assert run["seconds"] > 0
        assert run["cpu_seconds"] > 0
        assert run["peak_MiB_over_model"] > 0
        assert 0 < run["share_of_peak"] < 1
        assert run["tokens_per_second"] == pytest.approx(
            run["real_tokens"] / run["seconds"], rel=0.01
        )
    assert best["real_tokens"] == pytest.approx(ours["real_tokens"], rel=0.2)
    assert ours["forward"] == "padding-free"
    assert set(found["ratios"]) == {"ours/hf-best"}
    assert len(found["parity"]["ours"]) == len(found["parity"]["hf"]) == 3
    assert found["parity"]["max_loss_difference"] <= 1e-4


def test_needed_work_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    needed_flops = importlib.import_module("roofline").needed_flops
    # d_model 2, d_ff 3, one layer, one head of 2, vocabulary 5, rank 1: q, k, v and o are 4
    # multiply-adds each, the feed-forward 18, a pair of factors 4. Encoder 4·4 + 18, cross keys and
    # values 8, decoder 6·4 + 18: 84, there and back; three pairs of factors on either token, 24,
    # three times; six products of attention on three pairs of tokens, 2 each; the head 10, there
    # and back. Spared in both blocks 0: q, k and v back to the input, both factors A (2 each) too,
    # and the keys' gradient (2).
    expected = 2 * (2 * 84 + 3 * 24 + 6 * 3 * 2 + 2 * 10 - 2 * (3 * 4 + 2 * 2 + 2))
    one = np.array([1])
    assert needed_flops((2, 3, 1, 1, 2, 5), one, one, rank=1) == expected == 520


@pytest.mark.parametrize("source", [11, 40])
def test_needed_work_is_what_torch_counts(source: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    needed_flops = importlib.import_module("roofline").needed_flops
    config = transformers.T5Config(
        d_model=48,
        d_ff=80,
        num_layers=3,
        num_heads=2,
        d_kv=16,
        vocab_size=64,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    base = transformers.T5ForConditionalGeneration(config)
    adapter = LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q", "v"])
    model = get_peft_model(base, adapter).train()
    # One target token: transformers computes the causal attention's other half too, which nothing
    # needs.
    with FlopCounterMode(display=False) as counter:
        model(
            input_ids=torch.full((1, source), 5), labels=torch.tensor([[1]]), use_cache=False
        ).loss.backward()
    needed = needed_flops((48, 80, 3, 2, 16, 64), np.array([source]), np.array([1]), rank=4)
    assert counter.get_total_flops() == needed


def test_every_profile_has_the_lengths_it_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    workload = importlib.import_module("workload")
    claimed = {"lognormal": (146, 25), "e2e": (37.2, 26.6), "conversations": (165, 16.1)}
    for profile, (source, target) in claimed.items():
        rows = workload.ProfileRows(profile, 512)
        assert rows.source_lengths.mean() == pytest.approx(source, rel=0.03)
        assert rows.target_lengths.mean() == pytest.approx(target, rel=0.06)
        row = rows[7]
        assert [len(row["input_ids"]), len(row["labels"])] == [
            rows.source_lengths[7],
            rows.target_lengths[7],
        ]


def test_the_sample_of_an_epoch_has_as_many_tokens_as_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    workload = importlib.import_module("workload")
    rows = workload.ProfileRows("lognormal", 512)
    for order in ("random", "grouped"):
        batches = workload.hf_batches(rows, order, 8)
        assert sorted(row for batch in batches for row in batch) == list(range(len(rows)))
        _, *picked = workload.sample(rows, batches, 100_000)
        assert rows.real_tokens(picked) == pytest.approx(100_000, rel=0.03)


def test_the_speed_page_is_what_the_kept_results_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent / "tools"))
    page = importlib.import_module("speed_page")
    assert page.PAGE.read_text(encoding="utf-8") == page.render(page.kept(page.RESULTS))


def test_the_page_of_scaling_is_what_sizes_and_formula_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent / "tools"))
    page = importlib.import_module("scaling_page")
    result = page.computed()
    assert json.loads(page.RESULT.read_text(encoding="utf-8")) == json.loads(json.dumps(result))
    assert page.PAGE.read_text(encoding="utf-8") == page.render(result)
    # Published sizes in millions: all weights, and adapters of rank 16.
    for size, published in {
        "small": (0.69, 2.56, 76.96),
        "base": (1.77, 6.78, 247.6),
        "large": (4.72, 18.28, 783.2),
        "xl": (9.44, 35.39, 2849.8),
        "xxl": (18.87, 70.78, 11135.3),
    }.items():
        counts = [page.parameters(size, method) / 1e6 for method in page.METHODS]
        assert counts == pytest.approx(published, rel=0.005)
    # By hand: two GPUs send each byte once in 2 messages; four messages of 10 µs a step.
    link = page.Link("by hand", 1e9, 1e-5)
    two = page.Case(2, link)
    assert page.communication(10**7, two) == pytest.approx(0.01 + 8e-5)
    assert page.efficiency(0.01008, 10**7, two) == pytest.approx(0.5)
    assert page.communication(10**7, page.Case(64, link)) == pytest.approx(0.0196875 + 0.00504)


def test_the_speed_page_shows_every_side_and_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent / "tools"))
    page = importlib.import_module("speed_page")
    run = {
        "tokens_per_second": 722.4,
        "tokens_per_cpu_second": 741.7,
        "peak_MiB_over_model": 1086.6,
    }
    run |= {"share_of_peak": 0.721, "seconds": 20.7, "cpu_seconds": 20.1}
    failed = {"failed": "out of memory"}
    result = {
        "command": "python benchmarks/throughput.py",
        "device": "x86_64",
        "cores": 2,
        "threads": 1,
        "on": "cpu",
        "dtype": "float32",
        "versions": {"torch": "2"},
        "shape": "small",
        "quantization": "none",
        "profile": "e2e",
        "peak_gflops": 110.7,
        "sides": {"hf-best": {**failed, "tries": [{"rows": 8, **failed}]}, "ours": run},
        "ratios": {},
        "parity": {"ours": [1.0], "hf": [1.0], "max_loss_difference": 7e-8},
    }
    text = page.render([result])
    assert "| hf-best | out of memory |" in text
    assert "| ours | 722 | 742 | 1,087 | 72 % |" in text
    assert "8 rows (out of memory)" in text
    assert "7e-08 apart" in text


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_scaling_measures_every_size(result_of: Run) -> None:
    found = result_of("scaling", "--rows", "200", "400", "--steps", "5")
    assert (
        [run["rows"] for run in found["padded"]]
        == [run["rows"] for run in found["packed"]]
        == [200, 400]
    )
    assert all(run["tokens_per_cpu_second"] > 0 and run["peak_MiB"] > 0 for run in found["packed"])
    assert len(found["by-tokens"][0]["points"]) == 5


def test_defaults_puts_the_plain_path_beside_the_best_cell(tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    cells.mkdir()
    scores = {
        ("reverse", "exact_match"): (90.0, 80.0, 100.0),
        ("translate", "ter"): (40.0, 50.0, 20.0),  # lower is better
    }
    for (task, metric), values in scores.items():
        for settings, score in zip(({}, {"seed": "2"}, {"rate": "1e-3"}), values, strict=True):
            cell = {"task": task, "metric": metric, "settings": settings, "score": score}
            (cells / f"{task}-{score}.json").write_text(json.dumps(cell), encoding="utf-8")
    words = [
        sys.executable,
        str(BENCHMARKS / "defaults.py"),
        "table",
        "--work",
        str(tmp_path),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "| reverse | exact_match | 80.0, 90.0 | 100.0 (rate=1e-3) | 0.8 | 3 |" in done.stdout
    assert "| translate | ter | 40.0, 50.0 | 20.0 (rate=1e-3) | 0.4 | 3 |" in done.stdout
    assert (
        len(json.loads((tmp_path / "defaults-cpu.json").read_text(encoding="utf-8"))["cells"]) == 6
    )


def test_defaults_generates_the_same_tasks_every_time_and_scores_other_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tasks = importlib.import_module("default_tasks").TASKS
    for name in ("intents77", "orders", "labels7-300"):
        trained, scored = tasks[name].pairs(Path())
        assert (trained, scored) == tasks[name].pairs(Path())
        assert len(trained) == tasks[name].rows
        assert not {source for source, _ in trained} & {source for source, _ in scored}
    assert len({label for _, label in tasks["intents77"].pairs(Path())[0]}) == 77


@pytest.mark.slow
def test_defaults_trains_a_cell_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script, tasks = (importlib.import_module(name) for name in ("defaults", "default_tasks"))
    monkeypatch.setattr(tasks, "_SCORED", 8)  # so few rows that answers take no time
    monkeypatch.setitem(tasks.TASKS, "format-300", replace(tasks.TASKS["format-300"], rows=40))
    words = ["defaults.py", "run", "--work", str(tmp_path), "format-300 steps=2"]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    assert "exact_match" in capsys.readouterr().out
    (cell,) = (tmp_path / "cells").glob("*.json")
    assert json.loads(cell.read_text(encoding="utf-8"))["resolved"]["steps"] == 2
    script.main()
    assert capsys.readouterr().out == ""


def first_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_first_run")


def test_every_line_that_only_a_gpu_runs_has_a_part_of_the_first_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script, package = first_run(monkeypatch), BENCHMARKS.parent / "lora_s2s"
    on_gpu = re.compile(r'== "cuda"|torch\.cuda\.|\bis_cuda\b|in COMPILED_ON')
    reached, functions = set(), set()
    for path in package.rglob("*.py"):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(package).as_posix()
        owner = dict.fromkeys(range(1, len(text.splitlines()) + 1), "<module>")
        if not on_gpu.search(text):
            continue
        for node in ast.walk(ast.parse(text)):  # inner functions come after outer ones
            if isinstance(node, ast.FunctionDef):
                owner.update(dict.fromkeys(range(node.lineno, node.end_lineno + 1), node.name))
        functions |= {f"{name}:{function}" for function in owner.values()}
        lines = enumerate(text.splitlines(), start=1)
        reached |= {f"{name}:{owner[number]}" for number, line in lines if on_gpu.search(line)}
    assert reached <= script.CUDA_ONLY.keys()
    assert script.CUDA_ONLY.keys() <= functions
    assert set(script.CUDA_ONLY.values()) <= script.PARTS.keys()
    assert sum(part.seconds for part in script.PARTS.values()) < 8 * 60


def test_a_part_that_fails_or_hangs_is_reported_and_the_rest_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = first_run(monkeypatch)

    def failing(_: str) -> dict[str, Any]:
        raise ValueError("no kernel")

    parts = {
        "bad": script.Part("", failing, 30),
        "killed": script.Part("", lambda _: os.kill(os.getpid(), 9), 30),
        "slow": script.Part("", lambda _: time.sleep(60), 0.1),
        "good": script.Part("all is well", lambda _: {"problem": None}, 30),
    }
    monkeypatch.setattr(script, "PARTS", parts)
    assert script.main(["--out", str(tmp_path), "--only", *parts]) == 3
    bad, killed, slow, good, last = capsys.readouterr().out.splitlines()
    assert bad.startswith("FAILED bad: ValueError: no kernel (test_benchmarks.py:")
    assert "ended with -9" in killed
    assert "not done after 0 s" in slow
    assert good.startswith("ok     good: all is well")
    assert last == "1 of 4 parts passed"
    kept = json.loads((tmp_path / "gpu-first-run-cuda.json").read_text("utf-8"))
    assert [*kept["parts"]] == [*parts]


@pytest.mark.long
def test_the_first_run_on_a_gpu_passes_on_a_cpu_with_tiny_shapes(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu_first_run.py"), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"capture_output": True, "text": True, "env": environment}
    done = subprocess.run([*command, "--out", str(tmp_path)], check=False, **pipes)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "8 of 8 parts passed"
