"""Kills the demo recipe (shortened) at random moments, continues it, and compares; and what saving safely costs.

python benchmarks/faults.py --kills 300          writes benchmarks/results/faults-cpu.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

from harness import Preloaded, kill_and_continue, make_reference  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "faults-cpu.json"


def kills(count: int, seed: int, processes: int) -> dict[str, Any]:
    """Kills until ``count`` runs have been killed while they ran; every third run is killed three times."""
    rng, total, wrong = random.Random(seed), Counter[str](), []
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)

        def work(part: int) -> tuple[Counter[str], list[str]]:
            mine, bad = Counter[str](), []
            with Preloaded() as preloaded:
                reference = make_reference(where / f"reference-{part}", preloaded)
                while mine["killed"] < count / processes:
                    times = 3 if mine["runs"] % 3 == 0 else 1
                    moments = [rng.uniform(0.05, 1.05 * reference.seconds) for _ in range(times)]
                    folder = where / f"{part}-{mine['runs']}"
                    mine["runs"] += 1
                    try:
                        codes = kill_and_continue(folder, moments, reference, preloaded)
                    except AssertionError as problem:
                        bad.append(f"killed after {moments} s: {problem}")
                    else:
                        mine.update(killed=codes.count(-9), ended=codes.count(0), equal=1)
            return mine, bad

        with ThreadPoolExecutor(processes) as pool:
            for mine, bad in pool.map(work, range(processes)):
                total.update(mine)
                wrong += bad
    return {**total, "different or failed": len(wrong), "first problems": wrong[:5]}


def cost(steps: int) -> dict[str, float]:
    """Trains the demo recipe with the clock on everything that is there to survive: hashes, syncs, writes, checks."""
    import os

    from lora_s2s.commands import _pipeline
    from lora_s2s.recipe.load import load_recipe
    from lora_s2s.training import checkpoint, loop

    spent: Counter[str] = Counter()

    def timed(what: str, module: Any, name: str) -> None:
        real = getattr(module, name)

        def clocked(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return real(*args, **more)
            finally:
                spent[what] += time.perf_counter() - began

        setattr(module, name, clocked)

    timed("checkpoints", loop.Run, "save")
    timed("adapter files", _pipeline, "described")
    timed("adapter files", _pipeline, "sync_tree")
    timed("code", _pipeline, "code_hash")
    timed("base checked again", _pipeline, "weights_hash")
    timed("one checkpoint read", checkpoint, "read_checkpoint")
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        recipe = load_recipe("demo", [f"training.max_steps={steps}"])
        _pipeline.prepare_data(recipe)
        began = time.perf_counter()
        result = _pipeline.train_adapter(recipe)
        whole = time.perf_counter() - began
        checkpoint.read_checkpoint(Path(result["adapter"]) / "checkpoints" / f"step-{steps:06d}")
        os.chdir(here)
    training = result["tokens"] / result["tokens_per_second"]
    parts = {what: round(seconds, 4) for what, seconds in spent.items()}
    share = sum(spent.values()) / training
    return {"training_seconds": training, "whole_seconds": whole, **parts, "share_of_training": round(share, 5)}


def main() -> None:
    """Runs both and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=250, help="of the demo recipe, for the cost")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    began = time.monotonic()
    result: dict[str, Any] = {"machine": f"{platform.machine()}, {asked.processes} processes", "seed": asked.seed}
    if asked.kills:
        result["kills"] = kills(asked.kills, asked.seed, asked.processes)
        result["kills_minutes"] = round((time.monotonic() - began) / 60, 1)
    if asked.steps:
        result["cost"] = cost(asked.steps)
    asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
