"""Does the loop stay as fast and as lean from 10³ to 10⁶ examples, and does a step take time by its
real tokens?

Each size runs in a process of its own: a synthetic prepared split is written to a temporary folder,
then `train` runs over it with a model so small that the way of the data counts. Memory is what the
process itself holds (RssAnon): pages of the mapped file also count as resident, but the system
takes them back.

    python benchmarks/scaling.py                          # writes
    benchmarks/results/scaling-cpu.json python benchmarks/scaling.py --rows 1000 2000 --steps 8
    --out FOLDER
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from train_and_score import RESULTS, device

from lora_s2s.data.prepared import KeptRow, SplitTable, SplitWriter, record_batch
from lora_s2s.models.host_memory import return_memory_at_once
from lora_s2s.recipe.schema import TrainingSettings
from lora_s2s.training.loop import train
from lora_s2s.training.plan import StepPlan

VOCABULARY = 512
CHUNK = 1024
BUDGETS = (512, 1024, 2048, 4096, 8192)


def chunks(rows: int) -> Iterator[list[KeptRow]]:
    """Yields log-normal lengths, mean 60 and 15 tokens, as `prepare` writes them: 1,024 rows at
    once.
    """
    rng = np.random.default_rng(0)
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        lengths = [
            rng.lognormal(np.log(mean) - 0.245, 0.7, count).clip(2, 8 * mean).astype(int)
            for mean in (60, 15)
        ]
        sides = [np.split(rng.integers(2, VOCABULARY, n.sum()), n.cumsum()[:-1]) for n in lengths]
        yield [
            KeptRow(
                *(side[row].astype(np.int32) for side in sides), "", "", f"synthetic:{start + row}"
            )
            for row in range(count)
        ]


def write_split(path: Path, made: Iterator[list[KeptRow]]) -> None:
    """Writes a split's Arrow file."""
    with SplitWriter(path.parent) as writer:
        for chunk in made:
            writer.add(path.stem, record_batch(chunk))


def tiny_model() -> Any:
    """Returns a T5 of two layers a side, width 32, with an adapter."""
    from peft import LoraConfig, get_peft_model
    from transformers import T5Config, T5ForConditionalGeneration

    return_memory_at_once()  # as loading a base does
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    lora = LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q", "v"])
    return get_peft_model(T5ForConditionalGeneration(config), lora)


def own_memory() -> int:
    """Returns the bytes this process holds itself (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class PeakMemory(threading.Thread):
    """Looks at :func:`own_memory` fifty times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._ended = 0, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.02):
            self.peak = max(self.peak, own_memory())

    def stop(self) -> int:
        self._ended.set()
        return self.peak


def steps_of(path: Path, steps: int, **settings: Any) -> tuple[list[float], list[float]]:
    """Trains so many steps; returns each one's real tokens and CPU seconds of all threads, without
    those of a start.

    CPU seconds, since on a machine with other work the wall clock measures that as well.
    """
    clock = [time.process_time()]
    hook = register_optimizer_step_post_hook(lambda *_: clock.append(time.process_time()))
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        settings = {"save_every": 10**6, "max_steps": steps, **settings}
        section, table = TrainingSettings(**settings), SplitTable(path)
        train(tiny_model(), table, pad_token_id=0, settings=section, run_dir=Path(folder))
        lines = [
            json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()
        ]
    hook.remove()
    tokens = [line["source_tokens"] + line["target_tokens"] for line in lines]
    return tokens[steps // 5 :], np.diff(clock)[steps // 5 :].tolist()


def one(path: Path, steps: int, packing: bool) -> dict[str, Any]:
    """Measures one size in this process."""
    small = path.with_name("small.arrow")
    write_split(small, chunks(64))
    steps_of(small, 2, packing=packing)  # imports and first kernels are no part of a size
    memory = PeakMemory()
    memory.start()
    settings = TrainingSettings(packing=packing, max_steps=1)
    began = time.process_time()
    rows = len(table := SplitTable(path))
    opened = time.process_time()
    batches = len(StepPlan(table, settings).steps(0))
    planned = time.process_time()
    del table
    gc.collect()
    tokens, seconds = steps_of(path, steps, packing=packing)
    return {
        "rows": rows,
        "packing": packing,
        "batches": batches,
        "file_bytes": path.stat().st_size,
        "open_seconds": round(opened - began, 4),
        "plan_an_epoch_seconds": round(planned - opened, 4),
        "tokens_per_cpu_second": round(sum(tokens) / sum(seconds), 1),
        "peak_MiB": round(memory.stop() / 2**20, 1),
    }


def by_tokens(path: Path, steps: int) -> dict[str, Any]:
    """Fits the seconds of a step against its real tokens, over batches of several sizes."""
    points = []
    for budget in BUDGETS:
        tokens, seconds = steps_of(path, steps, tokens_per_batch=budget)
        points.append((float(np.mean(tokens)), float(np.mean(seconds))))
    x, y = np.array(points).T
    slope, start = np.polyfit(x, y, 1)
    return {
        "points": [
            {"tokens": round(tokens, 1), "cpu_seconds": round(seconds, 5)}
            for tokens, seconds in points
        ],
        "seconds_a_step": round(float(start), 5),
        "seconds_per_1000_tokens": round(1000 * float(slope), 5),
        "r_squared": round(float(np.corrcoef(x, y)[0, 1] ** 2), 4),
    }


def main() -> None:
    """Runs every size in a process of its own; prints the result and writes it to
    ``scaling-cpu.json``.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--measure",
        choices=["padded", "packed", "by-tokens"],
        help="one measurement, in this process",
    )
    parser.add_argument("--split", type=Path, help="the split that --measure runs over")
    arguments = parser.parse_args()
    if arguments.measure:
        path, steps = arguments.split, arguments.steps
        fitted = arguments.measure == "by-tokens"
        print(
            json.dumps(
                by_tokens(path, steps)
                if fitted
                else one(path, steps, arguments.measure == "packed")
            )
        )
        return
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/scaling.py", *sys.argv[1:]]),
        **device(),
    }
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
            path = Path(folder) / "train.arrow"
            write_split(path, chunks(rows))
            for kind in ("padded", "packed", "by-tokens"):
                if kind == "by-tokens" and rows != arguments.rows[1]:
                    continue
                words = ["--measure", kind, "--split", str(path), "--steps", str(arguments.steps)]
                done = subprocess.run(
                    [sys.executable, __file__, *words],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                result.setdefault(kind, []).append(json.loads(done.stdout))
                print(kind, rows, done.stdout, file=sys.stderr)
    for kind in ("padded", "packed"):
        runs = result[kind]
        result[f"{kind}_largest_over_smallest"] = {
            key: round(max(run[key] for run in runs) / min(run[key] for run in runs), 3)
            for key in ("tokens_per_cpu_second", "peak_MiB")
        }
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2)
    (arguments.out / "scaling-cpu.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
