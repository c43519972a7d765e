"""Compares what ``plan`` expects of memory and time with what ``train`` takes, on a CPU.

Each setting is one ``lora-s2s plan`` and one ``lora-s2s train`` of a few steps, each in a process
of its own, on a random T5 v1.1 of a known shape with the bundled base's tokenizer and generated
rows. Memory is the peak of the resident set since the process began, as ``train --json`` reports
it. The interpreter and the libraries are a constant of it: ``plan`` takes its own as an estimate
of it, and here it is measured on a model of a few thousand weights (``libraries_bytes``). Two
errors are given: of the whole peak, and of what lies above the constant. Time is the median step
after the first (which compares both forwards); of rows whose lengths vary, the mean of whole
epochs.

    OMP_NUM_THREADS=1 python benchmarks/plan.py                 all settings, about 15 minutes
    OMP_NUM_THREADS=1 python benchmarks/plan.py --only small    those whose name has that word

Timings beside other work on the machine are noisy.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memory_step import SHAPES, write_checkpoint
from train_and_score import RESULTS, device

from lora_s2s.data.prepared import open_prepared
from lora_s2s.hub import DEMO_BASE

SHAPES["nano"] = (16, 32, 1, 2, 8, 2560)
SHAPES["demo"] = (256, 320, 3, 6, 32, 2560)
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model")
_MIB = 2**20


@dataclass(frozen=True)
class Setting:
    """One run; ``varied`` draws lengths from a tenth to all of ``source`` and ``target``."""

    name: str
    shape: str
    source: int = 128
    target: int = 32
    tokens: int = 2048
    dtype: str = "float32"
    quantization: str = "none"
    checkpointing: bool = False
    packing: bool = False
    varied: bool = False
    targets: str = "attention-qv"
    optimizer: str = "adamw"


SETTINGS = (
    Setting("demo", "demo"),
    Setting("demo, all-linear, packed", "demo", targets="all-linear", packing=True, varied=True),
    Setting("demo, long", "demo", source=1024, target=256, tokens=2560),
    Setting("demo, checkpointing", "demo", tokens=4096, checkpointing=True),
    Setting("small", "small", tokens=1280),
    Setting("small, all-linear, varied", "small", tokens=1280, targets="all-linear", varied=True),
    Setting("small, packed", "small", 256, 64, 1280, packing=True, varied=True),
    Setting("small, long", "small", source=1024, target=128, tokens=1152),
    Setting("small, long, checkpointing", "small", 1024, 128, 1152, checkpointing=True),
    Setting("small, bfloat16", "small", tokens=1280, dtype="bfloat16"),
    Setting("base", "base", tokens=640),
    Setting("base, nf4", "base", tokens=640, dtype="bfloat16", quantization="nf4"),
    Setting(
        "base, int8, checkpointing", "base", tokens=640, quantization="int8", checkpointing=True
    ),
    Setting(
        "large, nf4, all-linear",
        "large",
        tokens=320,
        dtype="bfloat16",
        quantization="nf4",
        targets="all-linear",
        optimizer="adamw-8bit",
    ),
)
NANO = Setting("nano", "nano", tokens=256)


def write_rows(path: Path, setting: Setting) -> None:
    """Writes rows of frequent words: at least as many tokens as the limits, which cut them."""
    words = "a the table for four on friday name of is to and in at seven we".split()
    draw = random.Random(0)
    rows = 4 * max(4, setting.tokens // (setting.source + setting.target))
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(rows):
            share = draw.uniform(0.1, 1) if setting.varied else 1
            sizes = (int(setting.source * share), int(setting.target * share))
            texts = [" ".join(draw.choices(words, k=max(2, size))) for size in sizes]
            stream.write(json.dumps({"source": texts[0], "target": texts[1]}) + "\n")


def write_base(shape: str, folder: Path) -> None:
    """Writes a random checkpoint of a shape, once, with the bundled base's tokenizer."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True)
    write_checkpoint(shape, folder)
    for name in _TOKENIZER:
        if (DEMO_BASE / name).stat().st_size:
            shutil.copyfile(DEMO_BASE / name, folder / name)


def recipe_of(setting: Setting, base: Path, steps: int) -> dict[str, Any]:
    """Returns the recipe of a setting."""
    return {
        "model": {
            "name": str(base),
            "dtype": setting.dtype,
            "quantization": setting.quantization,
        },
        "data": {
            "train": "rows.jsonl",
            "max_source_tokens": setting.source,
            "max_target_tokens": setting.target,
            "long_targets": "cut",
            "validation_fraction": 0,
            "lossless_text": "off",
        },
        "lora": {"target_modules": setting.targets},
        "training": {
            "max_steps": steps,
            "tokens_per_batch": setting.tokens,
            "learning_rate": 5e-4,
            "evaluate_every": 0,
            "packing": setting.packing,
            "gradient_checkpointing": setting.checkpointing,
            "optimizer": setting.optimizer,
        },
    }


def command(folder: Path, *words: str) -> dict[str, Any]:
    """Runs a command of this package in a folder and returns its JSON object."""
    done = subprocess.run(
        [sys.executable, "-m", "lora_s2s", *words, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LORA_S2S_CACHE": str(folder.parent / "cache")},
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measured(setting: Setting, work: Path, steps: int) -> dict[str, Any]:
    """Plans and trains one setting; one that was measured in this folder is not measured again."""
    kept = work / f"{setting.name.replace(', ', '-')}.json"
    if kept.is_file():
        run: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return run
    steps = 2 * steps if setting.varied else steps
    base = work / "bases" / setting.shape
    write_base(setting.shape, base)
    folder = Path(tempfile.mkdtemp(dir=work))
    write_rows(folder / "rows.jsonl", setting)
    (folder / "it.yaml").write_text(json.dumps(recipe_of(setting, base, steps)), encoding="utf-8")
    # Identical rows would be removed as duplicates; there are none among these.
    planned = command(folder, "plan", "it.yaml")
    trained = command(folder, "train", "it.yaml", "--overwrite")
    epoch = round(steps / trained["epochs"])
    lines = (folder / trained["adapter"] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    # What a run has taken up to and with each step.
    until = [step["seconds"] for line in lines if "seconds" in (step := json.loads(line))]
    seconds = [after - before for before, after in itertools.pairwise([0.0, *until])]
    whole = seconds[epoch : steps // epoch * epoch]
    train = open_prepared(folder / "prepared" / "it").train
    lengths = zip(train.source_lengths.tolist(), train.target_lengths.tolist(), strict=True)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    run = {
        "setting": asdict(setting),
        "recipe": recipe_of(setting, Path(setting.shape), steps),
        "config": config,
        "rows": list(lengths),
        "planned": planned,
        "peak_bytes": trained["peak_memory_bytes"],
        "seconds_per_step": (
            statistics.fmean(whole) if setting.varied else statistics.median(seconds[1:])
        ),
    }
    shutil.rmtree(folder)
    kept.write_text(json.dumps(run), encoding="utf-8")
    return run


def with_errors(run: dict[str, Any], constant: int) -> dict[str, Any]:
    """Adds the errors of memory, whole and above the constant, and of time."""
    planned, peak = run["planned"], run["peak_bytes"]
    own = planned["total_bytes"] - planned["libraries_bytes"]
    run["errors"] = {
        "total": planned["total_bytes"] / peak - 1,
        "above_libraries": own / (peak - constant) - 1,
        "time": planned["seconds_per_step"] / run["seconds_per_step"] - 1,
    }
    return run


def table(runs: list[dict[str, Any]]) -> str:
    """Returns the runs as a Markdown table."""
    heads = "setting", "planned MiB", "measured MiB", "error", "above libraries", "time"
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for run in runs:
        planned, errors = run["planned"]["total_bytes"] / _MIB, run["errors"]
        cells = [run["setting"]["name"], f"{planned:,.0f}", f"{run['peak_bytes'] / _MIB:,.0f}"]
        cells += [f"{errors[key]:+.1%}" for key in ("total", "above_libraries", "time")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measures every setting, prints the table and writes ``plan-cpu.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="settings whose name has this word")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--work", type=Path, help="keeps random bases and runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plan-") as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        nano = measured(NANO, work, arguments.steps)
        constant = nano["peak_bytes"] - nano["planned"]["total_bytes"]
        constant += nano["planned"]["libraries_bytes"]
        runs = []
        for setting in SETTINGS:
            if arguments.only in setting.name:
                runs.append(with_errors(measured(setting, work, arguments.steps), constant))
                print(table(runs[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    result = {
        "command": " ".join(["python", "benchmarks/plan.py", *sys.argv[1:]]),
        **device(),
        "libraries_bytes": constant,
        "runs": runs,
    }
    if not arguments.only:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=1)
        (arguments.out / "plan-cpu.json").write_text(text + "\n", encoding="utf-8")
    print(table(runs))


if __name__ == "__main__":
    main()
