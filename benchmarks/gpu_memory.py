"""Trains xxl- and xl-shaped models in nf4 under a hard cap of GPU memory: this package, and HF's
path.

Random weights, LoRA r=16 on q and v, sources of 512 and targets of 128 tokens, gradient
checkpointing, paged 8-bit AdamW. Each side runs in a process of its own that may allocate only the
cap (`set_per_process_memory_fraction`). A side that runs out of memory is recorded as such, with
where: while it loads, or while it trains.

    python benchmarks/gpu_memory.py                 xxl under 8 GB, then xl under 4 GB; needs a CUDA
    GPU python benchmarks/gpu_memory.py --device cpu --caps tiny:8 --steps 2 --source 24 --target 8
    no cap there

A GB is 10^9 bytes: less than what a card of that name has, by about as much as CUDA itself takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from memory_step import SHAPES, HostPeak, SyntheticRows, machine, run_hf, run_ours, write_checkpoint
from train_and_score import RESULTS

# What HF's path may choose and still be a user's own: the one of memory_step.py that needs least.
HF_VARIANT = "bfloat16 autocast, sdpa attention"
_OUT_OF_MEMORY = 4


class DevicePeak:
    """The peak of what torch has allocated on the GPU since the process began, in bytes."""

    def reset(self) -> None:
        """Does nothing: the cap holds for loading too."""

    def now(self) -> int:
        """Returns what is held at the moment."""
        return torch.cuda.memory_allocated()

    def read(self) -> int:
        """Returns the peak."""
        return torch.cuda.max_memory_allocated()


class WholeHostPeak(HostPeak):
    """The peak of this process's memory since it began: what stands in for a GPU's where there is
    none.
    """

    def reset(self) -> None:
        """Does nothing."""


def one_side(arguments: argparse.Namespace) -> None:
    """Runs one side in this process and prints its figures as the last line; ends with 4 where
    memory ran out.
    """
    if arguments.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, arguments.cap * 1e9 / total))
    peak = DevicePeak() if arguments.device == "cuda" else WholeHostPeak()
    rows = SyntheticRows(
        arguments.rows, arguments.source, arguments.target, SHAPES[arguments.shape][-1]
    )
    arguments.variant = HF_VARIANT
    arguments.optimizer = "adamw-paged-8bit" if arguments.device == "cuda" else "adamw-8bit"
    try:
        result = (run_ours if arguments.side == "ours" else run_hf)(arguments, rows, peak)
    except Exception as error:
        # This package says it in its own words, with torch's behind them.
        if not any(
            isinstance(told, torch.OutOfMemoryError | MemoryError)
            for told in (error, error.__cause__)
        ):
            raise
        print(json.dumps({"failed": str(error).split(". ")[0], "peak": peak.read()}))
        sys.exit(_OUT_OF_MEMORY)
    print(json.dumps(result))


def measured(
    side: str, shape: str, cap: float, model: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Runs one side in a fresh process; memory in GB (10^9 bytes), speed in tokens of source and
    target a second.
    """
    names = ("device", "rows", "source", "target", "steps", "micro_batch")
    words = [
        word
        for name in names
        for word in (f"--{name.replace('_', '-')}", str(getattr(arguments, name)))
    ]
    command = [
        sys.executable,
        __file__,
        "--side",
        side,
        "--shape",
        shape,
        "--cap",
        str(cap),
        "--model",
        str(model),
    ]
    done = subprocess.run([*command, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, _OUT_OF_MEMORY):
        sys.exit(f"{side} on {shape} failed with {done.returncode}")
    got = json.loads(done.stdout.splitlines()[-1])
    found: dict[str, Any] = {
        "side": side,
        "shape": shape,
        "cap_GB": cap,
        "peak_GB": round(got["peak"] / 1e9, 3),
    }
    if "failed" in got:
        return {**found, "trained": False, "why": got["failed"]}
    tokens = arguments.rows * (arguments.source + arguments.target)
    seconds = sum(got["seconds"][1:]) / max(1, len(got["seconds"]) - 1)
    return {
        **found,
        "trained": True,
        "loaded_GB": round(got["loaded"] / 1e9, 3),
        "steps": len(got["losses"]),
        "tokens_per_second": round(tokens / seconds, 1),
        "losses": [round(loss, 4) for loss in got["losses"]],
    }


def parsed() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--caps", nargs="+", default=["xxl:8", "xl:4"], metavar="SHAPE:GB")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rows", type=int, default=4, help="rows of one optimizer step")
    parser.add_argument("--micro-batch", type=int, default=1, help="rows at once")
    parser.add_argument("--source", type=int, default=512)
    parser.add_argument("--target", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", choices=["ours", "hf"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    for hidden, kind in {"side": str, "shape": str, "cap": float, "model": Path}.items():
        parser.add_argument(f"--{hidden}", type=kind, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measures both sides on every shape, prints the result and writes it to
    ``benchmarks/results``.
    """
    arguments = parsed()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA GPU here; --device cpu runs the same code without a cap")
    if arguments.side:
        one_side(arguments)
        return
    runs = []
    for shape, cap in (words.split(":") for words in arguments.caps):
        with tempfile.TemporaryDirectory(prefix="gpu-memory-") as folder:
            write_checkpoint(shape, Path(folder))
            sides = [side for side in ("ours", "hf") if arguments.only in (None, side)]
            runs += [measured(side, shape, float(cap), Path(folder), arguments) for side in sides]
    step = {
        name: getattr(arguments, name)
        for name in ("rows", "micro_batch", "source", "target", "steps")
    }
    command = " ".join(["python", "benchmarks/gpu_memory.py", *sys.argv[1:]])
    text = json.dumps({"command": command, **machine(), "step": step, "runs": runs}, indent=2)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"gpu-memory-{arguments.device}.json").write_text(
        text + "\n", encoding="utf-8"
    )
    print(text)


if __name__ == "__main__":
    main()
