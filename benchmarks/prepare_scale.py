"""Many rows: `prepare` against `datasets.map` with the same tokenizer: rows a second, CPU time and
peak memory of both.

Rows are made up (words of the vocabulary, log-normal lengths), written as JSON lines to a temporary
folder. Each side starts from that file in a process of its own and ends with token ids in Arrow
files: `prepare` also checks, finds duplicates and leaks, splits, counts and reports; `datasets`
loads the file and maps the two tokenizer calls of the usual example over it, with as many processes
as there are cores. Memory is summed over a side's processes, sampled: what they hold themselves
(RssAnon); pages of mapped files are the system's to take back.

    python benchmarks/prepare_scale.py  # writes benchmarks/results/prepare-scale-cpu.json
    python benchmarks/prepare_scale.py --rows 200000 --model FOLDER --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from train_and_score import RESULTS, device

from lora_s2s.hub import locate_model

THEIRS = """
import os, sys, datasets
from transformers import AutoTokenizer
file, model, cache = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
def encode(rows):
    inputs = tokenizer(rows["source"], max_length=512, truncation=True)
    targets = tokenizer(text_target=rows["target"], max_length=128, truncation=True)
    inputs["labels"] = targets["input_ids"]
    return inputs
rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=cache)
print(len(rows.map(encode, batched=True, num_proc=len(os.sched_getaffinity(0)))))
"""


def words(model: str) -> list[str]:
    """Returns the whole words of a tokenizer's vocabulary, the commonest first."""
    pieces = json.loads((locate_model(model) / "tokenizer.json").read_text(encoding="utf-8"))[
        "model"
    ]["vocab"]
    return [piece[1:] for piece, _ in pieces if piece[0] == "▁" and piece[1:].isalpha()]


def lines(rows: int, known: npt.NDArray[np.object_]) -> Iterator[str]:
    """Yields JSON lines: sources of 14 words on average, targets of 7; one in a hundred is the one
    before it again.
    """
    rng = np.random.default_rng(0)
    for start in range(0, rows, 10_000):
        count = min(10_000, rows - start)
        sizes = rng.lognormal(np.log((13.0, 6.5)), 0.5, (count, 2)).clip(1, 120).astype(int)
        chosen = known[rng.zipf(1.3, sizes.sum()) % len(known)]
        texts = np.split(chosen, sizes.ravel().cumsum()[:-1])
        made = [
            f'{{"source": "{" ".join(texts[2 * row])} {start + row}", "target": '
            f'"{" ".join(texts[2 * row + 1])}"}}\n'
            for row in range(count)
        ]
        for row in range(99, count, 100):
            made[row] = made[row - 1]
        yield from made


def tree(root: int) -> Iterator[int]:
    """Yields a process and all below it."""
    yield root
    try:
        children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from tree(int(child))


def held(process: int) -> int:
    """Returns the bytes of memory a process holds itself."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")),
        0,
    )


def cpu_seconds() -> float:
    """Returns the CPU time of all ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(command: list[str], **environment: str) -> dict[str, Any]:
    """Runs a command; returns its seconds, its CPU seconds, the most memory its processes held
    together, and what it printed.
    """
    before = cpu_seconds()
    started, peak, over = time.monotonic(), 0, threading.Event()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.2):
            peak = max(peak, sum(map(held, tree(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    over.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command[:4]} failed with {process.returncode}")
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(cpu_seconds() - before, 1),
        "peak_memory_mib": peak >> 20,
        "output": output,
    }


def main() -> None:
    """Runs both sides and writes the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--model", default="demo", help="whose tokenizer: a folder, or demo")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prepare-scale-") as folder:
        file = Path(folder) / "rows.jsonl"
        with file.open("w") as stream:
            stream.writelines(lines(asked.rows, np.array(words(asked.model), dtype=object)))
        size = file.stat().st_size
        ours = measured(
            [
                sys.executable,
                "-m",
                "lora_s2s",
                "prepare",
                "--data",
                str(file),
                "--model",
                asked.model,
                "--out",
                f"{folder}/prepared",
                "--json",
            ],
        )
        report = json.loads(ours.pop("output"))
        place = str(locate_model(asked.model))
        theirs = measured(
            [sys.executable, "-c", THEIRS, str(file), place, f"{folder}/cache"],
            HF_DATASETS_DISABLE_PROGRESS_BARS="1",
            HF_HUB_OFFLINE="1",
        )
        if not int(theirs.pop("output")) == asked.rows == report["rows"]["read"]:
            raise SystemExit("the two sides read different numbers of rows")
    for side in (ours, theirs):
        side["rows_per_second"] = round(asked.rows / side["seconds"])
    result = {
        "command": " ".join(["python", "benchmarks/prepare_scale.py", *sys.argv[1:]]),
        **device(),
        "rows": asked.rows,
        "bytes": size,
        "prepare": {**ours, "rows": report["rows"], "source_tokens": report["source_tokens"]},
        "datasets.map": theirs,
        "ratio": round(theirs["seconds"] / ours["seconds"], 2),
    }
    print(json.dumps(result, indent=2))
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "prepare-scale-cpu.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
