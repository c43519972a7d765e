"""Kills and stops runs at random moments, fails every file operation, fills disks, and compares;
and what safety costs.

python benchmarks/faults.py                              everything, about an hour on two cores
python benchmarks/faults.py --only kills --kills 300     writes its part of
benchmarks/results/faults-cpu.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "faults"
sys.path[:0] = [str(ROOT), str(TESTS), str(ROOT / "tests" / "helpers")]

from harness import (  # noqa: E402
    DEMO,
    SHORT,
    VERBS,
    fail_and_continue,
    kill_and_continue,
    make_reference,
    stop_and_continue,
    undisturbed,
)
from layer import KINDS  # noqa: E402
from preloaded import Preloaded  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "faults-cpu.json"
ON_DEMO = {
    **VERBS,
    "prepare": ("prepare", "demo", "--out", "other"),
    "eval": ("eval", "adapters/it"),
}


def shared(
    processes: int, work: Callable[[int, Path, Preloaded], tuple[Counter[str], list[str]]]
) -> dict[str, Any]:
    """Has ``work`` done in parts, each with a folder and a preloaded process of its own; sums what
    they count.
    """
    total, wrong = Counter[str](), []
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(processes) as pool:

        def part(number: int) -> tuple[Counter[str], list[str]]:
            folder = Path(name) / str(number)
            folder.mkdir()
            with Preloaded() as preloaded:
                return work(number, folder, preloaded)

        for mine, bad in pool.map(part, range(processes)):
            total.update(mine)
            wrong += bad
    return {
        **dict(sorted(total.items())),
        "different or failed": len(wrong),
        "first problems": wrong[:5],
    }


def kills(asked: argparse.Namespace) -> dict[str, Any]:
    """Kills the demo recipe, shortened, until so many runs were killed while they ran; every third
    run three times.
    """

    def work(part: int, folder: Path, preloaded: Preloaded) -> tuple[Counter[str], list[str]]:
        rng, mine, bad = random.Random(f"{asked.seed} {part}"), Counter[str](), []
        reference = make_reference(folder / "reference", preloaded, DEMO)
        while mine["killed"] < asked.kills / asked.processes:
            times = 3 if mine["runs"] % 3 == 0 else 1
            moments = [rng.uniform(0.05, 1.02 * reference.seconds) for _ in range(times)]
            mine["runs"] += 1
            try:
                codes = kill_and_continue(folder / str(mine["runs"]), moments, reference, preloaded)
            except AssertionError as problem:
                bad.append(f"killed after {moments} s: {problem}")
            else:
                mine.update(killed=codes.count(-9), equal=1)
        return mine, bad

    return {"recipe": " ".join(DEMO), **shared(asked.processes, work)}


def operations(asked: argparse.Namespace) -> dict[str, Any]:
    """Fails every file operation of a short run, and of the other verbs, in turn and in every
    way.
    """

    def work(part: int, folder: Path, preloaded: Preloaded) -> tuple[Counter[str], list[str]]:
        mine, bad = Counter[str](), []
        reference = make_reference(folder / "reference", preloaded, SHORT)
        verbs = {
            verb: undisturbed(folder / verb, reference.whole, VERBS[verb], preloaded)
            for verb in VERBS
        }
        for name, run in {"train": reference, **verbs}.items():
            cases = [(n, kind) for n in range(1, len(run.operations) + 1) for kind in KINDS]
            for n, kind in cases[part :: asked.processes]:
                try:
                    code = fail_and_continue(folder / f"{name}-{n}-{kind}", n, kind, run, preloaded)
                except AssertionError as problem:
                    bad.append(f"{name}: {str(problem)[:1000]}")
                else:
                    mine[f"{name}: exit {code}"] += 1
        return mine, bad

    return shared(asked.processes, work)


def signals(asked: argparse.Namespace) -> dict[str, Any]:
    """Sends SIGTERM and SIGINT to every verb on the demo at random moments; how long it takes, and
    what stands then.
    """
    rng, slowest, codes, bad = random.Random(asked.seed), Counter[str](), Counter[str](), []
    with tempfile.TemporaryDirectory() as name, Preloaded() as preloaded:
        where = Path(name)
        reference = make_reference(where / "reference", preloaded, DEMO)
        verbs = {
            verb: undisturbed(where / verb, reference.whole, ON_DEMO[verb], preloaded)
            for verb in ON_DEMO
        }
        for verb, run in {"train": reference, **verbs}.items():
            for turn in range(asked.signals):
                number, moment = (
                    signal.SIGTERM if turn % 2 else signal.SIGINT,
                    rng.uniform(0.05, run.seconds),
                )
                try:
                    outcome = stop_and_continue(
                        where / f"{verb}-{turn}", moment, number, run, preloaded
                    )
                except AssertionError as problem:
                    bad.append(str(problem)[:1000])
                else:
                    codes[f"{verb}: exit {outcome.code}"] += 1
                    slowest[verb] = max(slowest[verb], round(outcome.seconds - moment, 2))
    return {
        "slowest seconds from signal to end": dict(slowest),
        **dict(sorted(codes.items())),
        "wrong": len(bad),
        "first problems": bad[:5],
    }


def disks(asked: argparse.Namespace) -> dict[str, Any]:
    """Runs every verb on real disks too small for it, and on read-only ones."""
    command = [
        "unshare",
        "-rm",
        sys.executable,
        str(TESTS / "small_disks.py"),
        "--sizes",
        str(asked.sizes),
    ]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def cost(asked: argparse.Namespace) -> dict[str, Any]:
    """Trains the demo recipe with the clock on everything that is there to survive: hashes, syncs,
    writes, checks.
    """
    import os

    from lora_s2s.pipeline import adapter_folder, train
    from lora_s2s.recipe.load import load_recipe
    from lora_s2s.training import checkpoint, run

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

    timed("checkpoints", run.Run, "save")
    timed("adapter files", adapter_folder, "described")
    timed("adapter files", adapter_folder, "sync_tree")
    timed("code", adapter_folder, "code_hash")
    timed("base checked again", adapter_folder, "weights_hash")
    timed("one checkpoint read", checkpoint, "read_checkpoint")
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        recipe = load_recipe("demo", [f"training.max_steps={asked.steps}"])
        train.prepare_data(recipe)
        began = time.perf_counter()
        result = train.train_adapter(recipe)
        whole = time.perf_counter() - began
        checkpoint.read_checkpoint(
            Path(str(result.adapter)) / "checkpoints" / f"step-{asked.steps:06d}"
        )
        os.chdir(here)
    training = result.tokens / result.tokens_per_second
    parts = {what: round(seconds, 4) for what, seconds in spent.items()}
    share = sum(spent.values()) / training
    return {
        "training_seconds": training,
        "whole_seconds": whole,
        **parts,
        "share_of_training": round(share, 5),
    }


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "kills": kills,
    "operations": operations,
    "signals": signals,
    "disks": disks,
    "cost": cost,
}


def main() -> None:
    """Runs the parts asked for and writes each into the result as soon as it is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(PARTS))
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--signals", type=int, default=20, help="for each verb")
    parser.add_argument("--sizes", type=int, default=20, help="of disks, for each verb")
    parser.add_argument("--steps", type=int, default=250, help="of the demo recipe, for the cost")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    for part in asked.only or PARTS:
        began = time.monotonic()
        found = PARTS[part](asked)
        found["minutes"] = round((time.monotonic() - began) / 60, 1)
        standing = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.is_file() else {}
        result = {
            **standing,
            "machine": f"{platform.machine()}, {asked.processes} processes",
            part: found,
        }
        asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(json.dumps({part: found}, indent=2), flush=True)


if __name__ == "__main__":
    main()
