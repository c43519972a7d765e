"""Trains a shipped recipe, scores its adapter against the base, and keeps one JSON result with
command and device.

The same script serves a CPU and a CUDA GPU; it only calls the command line that users call.

    python benchmarks/train_and_score.py e2e-nlg --name e2e-nlg-all-linear --data e2e-nlg/ --set
    model.name=demo

`--data FOLDER` fills in `data.train`, `data.validation` and `data.test` from the names in
:data:`FILES`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
FILES = {
    "e2e-nlg": ("trainset.csv.gz", "devset.csv.gz", "testset_w_refs.csv.gz"),
    "disfl-qa": ("train.jsonl", "dev.jsonl", "test.jsonl"),
}


def verb(*words: str) -> tuple[dict[str, Any], float]:
    """Runs one verb of the command line with ``--json``; returns its object and the wall seconds it
    took.
    """
    started = time.monotonic()
    command = [sys.executable, "-m", "lora_s2s", *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result, time.monotonic() - started


def device() -> dict[str, Any]:
    """Describes the hardware and the versions a figure depends on."""
    name = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"device": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), **versions}


def settings(recipe: str, folder: Path | None, given: list[str]) -> list[str]:
    """Returns the ``--set`` words: the data set's files first, then what was given."""
    pairs = list(given)
    if folder is not None:
        splits = zip(("train", "validation", "test"), FILES[recipe], strict=True)
        pairs = [f"data.{split}={folder / file}" for split, file in splits] + pairs
    return [word for pair in pairs for word in ("--set", pair)]


def main() -> None:
    """Runs train and eval --baseline; prints the result and writes it to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--name", required=True, help="name of the run and of the result")
    parser.add_argument("--data", type=Path, help="folder with the data set's files")
    parser.add_argument(
        "--set", action="append", default=[], dest="given", metavar="SECTION.KEY=VALUE"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    words = settings(
        arguments.recipe, arguments.data, [*arguments.given, f"output.name={arguments.name}"]
    )
    trained, train_seconds = verb("train", arguments.recipe, "--overwrite", *words)
    scored, eval_seconds = verb("eval", trained["adapter"], "--baseline")
    result = {
        "command": " ".join(["python", "benchmarks/train_and_score.py", *sys.argv[1:]]),
        **device(),
        "train_seconds": round(train_seconds, 1),
        "eval_seconds": round(eval_seconds, 1),
        "train": trained,
        "eval": scored,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    (arguments.out / f"{arguments.name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
