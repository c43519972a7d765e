"""Measures what the automatic settings reach beside a sweep of rate, batch and targets, on many
kinds of task.

Each cell (task, settings, seed) is kept as JSON as soon as it is done; a cell that is there is not
run again, so the script can be stopped and continued.

    python benchmarks/defaults.py run --data DATA --work WORK orders 'reverse rate=3e-3 batch=2048
    seed=2' python benchmarks/defaults.py table --work WORK

A cell without settings is the plain path: nothing but data and model. `DATA` holds disfl-qa,
e2e-nlg, nl2bash and conversations as published; the other tasks are generated (`default_tasks.py`).
Greedy decoding, 250 sources.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from pathlib import Path
from typing import Any

from default_tasks import TASKS

from lora_s2s.recipe.fields import ERROR_RATES

RESULTS = Path(__file__).parent / "results"
KEYS = {
    "rate": "training.learning_rate",
    "batch": "training.tokens_per_batch",
    "targets": "lora.target_modules",
    "steps": "training.max_steps",
    "epochs": "training.epochs",
    "seed": "training.seed",
    "r": "lora.r",
    "alpha": "lora.alpha",
    "warmup": "training.warmup",
    "evaluate": "training.evaluate_every",
    "decay": "training.weight_decay",
    "dropout": "lora.dropout",
    "schedule": "training.schedule",
    "dtype": "model.dtype",
}


def task_files(name: str, data: Path, work: Path) -> tuple[Path, Path]:
    """Writes the training and test file of a task, once; returns their paths."""
    folder = work / "data" / name
    paths = folder / "train.jsonl", folder / "test.jsonl"
    if not paths[1].exists():
        folder.mkdir(parents=True, exist_ok=True)
        if name == "conversations":
            shutil.copy(data / "conversations/sgd_train.jsonl", paths[0])
            some = (data / "conversations/sgd_dev.jsonl").read_text("utf-8").splitlines()[::8]
            paths[1].write_text("\n".join(some) + "\n", "utf-8")
        else:
            for path, pairs in zip(paths, TASKS[name].pairs(data), strict=True):
                lines = [
                    json.dumps({"source": s, "target": t}, ensure_ascii=False) for s, t in pairs
                ]
                path.write_text("\n".join(lines) + "\n", "utf-8")
    return paths


def run_cell(cell: str, data: Path, work: Path) -> None:
    """Trains and scores one cell unless its JSON is there."""
    name, *words = cell.split()
    done = work / "cells" / f"{'_'.join([name, *sorted(words)])}.json"
    if done.exists():
        return
    import lora_s2s

    train_file, test_file = task_files(name, data, work)
    task, given = TASKS[name], dict(word.split("=") for word in words)
    settings = {
        "data.train": str(train_file),
        "model.name": "demo",
        "output.name": name,
        "output.dir": str(work / "adapters"),
        **{KEYS[key]: value for key, value in given.items()},
    }
    began, cpu = time.monotonic(), time.process_time()
    run = lora_s2s.train(lora_s2s.load_recipe(settings), overwrite=True)
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu
    adapter = Path(str(run.adapter))
    metrics = {"evaluation.metrics": [task.metric, *task.metrics]}
    scored = lora_s2s.evaluate(adapter, test_file, limit=250, overrides=metrics)
    resolved = recipe_settings(adapter)
    curve = [
        json.loads(line) for line in (adapter / "metrics.jsonl").read_text("utf-8").splitlines()
    ]
    kept = {
        "task": name,
        "settings": given,
        "resolved": resolved,
        "metric": task.metric,
        "score": scored.metrics[task.metric].value,
        "interval": scored.metrics[task.metric].interval,
        "scores": {key: entry.value for key, entry in scored.metrics.items()},
        "train_seconds": round(seconds, 1),
        "train_cpu_seconds": round(cpu_seconds, 1),
        "eval_seconds": round(time.monotonic() - began - seconds, 1),
        "train": {key: value for key, value in run.to_dict().items() if key != "adapter"},
        "validations": [
            [row["step"], round(row["validation_loss"], 4)]
            for row in curve
            if "validation_loss" in row
        ],
        "device": {"machine": platform.machine(), "python": platform.python_version()},
    }
    done.parent.mkdir(parents=True, exist_ok=True)
    done.with_suffix(".part").write_text(json.dumps(kept, indent=1), "utf-8")
    done.with_suffix(".part").rename(done)
    loss = f"validation {run.validation_loss:.4f}, {run.steps} steps, {cpu_seconds:.0f} s"
    print(f"{time.strftime('%H:%M')} {cell}: {task.metric} {kept['score']:.2f}, {loss}", flush=True)


def recipe_settings(adapter: Path) -> dict[str, Any]:
    """Returns what an adapter's recipe says about the keys of :data:`KEYS`."""
    from lora_s2s.recipe.load import load_recipe

    sections = load_recipe(str(adapter / "recipe.yaml")).model_dump(mode="json")
    paths = {key: path.split(".") for key, path in KEYS.items()}
    return {key: sections[section][name] for key, (section, name) in paths.items()}


def gather(cells: Path) -> dict[str, Any]:
    """Returns every cell that is done, and for each task the plain path beside the best cell."""
    done = [json.loads(path.read_text("utf-8")) for path in sorted(cells.glob("*.json"))]
    for cell in done:
        cell.get("train", {}).pop("adapter", None)  # a path of the machine it ran on
    tasks: dict[str, Any] = {}
    for name in dict.fromkeys(cell["task"] for cell in done):
        mine = [cell for cell in done if cell["task"] == name]
        better, worse = (min, max) if mine[0]["metric"] in ERROR_RATES else (max, min)
        best = better(mine, key=lambda cell: float(cell["score"]))
        plain = [cell["score"] for cell in mine if not set(cell["settings"]) - {"seed"}]
        tasks[name] = {
            "metric": best["metric"],
            "cells": len(mine),
            "best": round(best["score"], 2),
            "best_settings": best["settings"] or "plain",
            "plain": [round(score, 2) for score in plain],
            "least_share_of_best": _share(worse(plain), best["score"]) if plain else None,
        }
    command = (
        "python benchmarks/defaults.py run … && python benchmarks/defaults.py table --work WORK"
    )
    return {"command": command, "tasks": tasks, "cells": done}


def _share(score: float, best: float) -> float | None:
    """How near a score is to the best: 0 to 1, also if lower is better."""
    low, high = sorted((score, best))
    return round(low / high, 3) if high else None


def print_table(result: dict[str, Any]) -> None:
    """Prints the tasks as Markdown."""
    print("| task | metric | plain path | best cell | share | cells |\n|---|---|---|---|---|---|")
    for name, row in result["tasks"].items():
        settings = row["best_settings"]
        words = (
            settings
            if isinstance(settings, str)
            else " ".join(f"{key}={value}" for key, value in settings.items())
        )
        plain = ", ".join(f"{score:.1f}" for score in row["plain"]) or "-"
        print(
            f"| {name} | {row['metric']} | {plain} | {row['best']:.1f} ({words}) "
            f"| {row['least_share_of_best']} | {row['cells']} |"
        )


def main() -> None:
    """Runs cells, or gathers those that are done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("cells", nargs="*", help="TASK [KEY=VALUE …]; a file with @FILE")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument(
        "--work", type=Path, required=True, help="where files, adapters and cells go"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the table goes")
    arguments = parser.parse_intermixed_args()
    if arguments.what == "table":
        result = gather(arguments.work / "cells")
        (arguments.out / "defaults-cpu.json").write_text(
            json.dumps(result, indent=1) + "\n", "utf-8"
        )
        print_table(result)
        return
    for cell in arguments.cells:
        if cell.startswith("@"):
            # Read anew after every cell, so that lines can be added while it runs.
            queue = Path(cell[1:])
            tried: set[str] = set()
            while waiting := [
                x for x in queue.read_text("utf-8").splitlines() if x.strip() and x not in tried
            ]:
                tried.add(waiting[0])
                run_cell(waiting[0], arguments.data, arguments.work)
        else:
            run_cell(cell, arguments.data, arguments.work)


if __name__ == "__main__":
    main()
