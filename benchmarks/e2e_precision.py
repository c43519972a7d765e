"""Quality by precision on E2E NLG: full fine-tuning, LoRA in bfloat16, QLoRA in 4 and 8 bits; three
seeds each.

One process trains one variant with one seed on the bundled base and scores it on the official test
set; its JSON lands in `--out`. All of it is `lora_s2s.train` and `lora_s2s.evaluate`, with the same
rows in the same order for all; the best validation is kept. (The results in the repository are of
a loop of the benchmark's own, which kept the last step.)

    python benchmarks/e2e_precision.py run --variant nf4 --seed 1 --data FOLDER
    python benchmarks/e2e_precision.py table
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from train_and_score import FILES, RESULTS, device

import lora_s2s
from lora_s2s.recipe.schema import Recipe

# Variant → what its recipe changes, and the peak learning rate (each side's best of a small sweep).
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {"sets": {"lora.method": "full"}, "learning_rate": 2e-3},
    "lora-bf16": {"sets": {"model.dtype": "bfloat16"}, "learning_rate": 8e-3},
    "nf4": {
        "sets": {"model.dtype": "bfloat16", "model.quantization": "nf4"},
        "learning_rate": 8e-3,
    },
    "nf4-wo16": {
        "sets": {
            "model.dtype": "bfloat16",
            "model.quantization": "nf4",
            "model.skip_quantization": ["wo"],
        },
        "learning_rate": 8e-3,
    },
    "int8": {
        "sets": {"model.dtype": "bfloat16", "model.quantization": "int8"},
        "learning_rate": 8e-3,
    },
}


def recipe_for(folder: Path, variant: str, seed: int, steps: int, learning_rate: float) -> Recipe:
    """Returns the shipped E2E recipe on the bundled base, cut to so many steps."""
    splits = zip(("train", "validation", "test"), FILES["e2e-nlg"], strict=True)
    sets = {f"data.{split}": str(folder / file) for split, file in splits}
    sets |= {
        "model.name": "demo",
        "training.seed": seed,
        "training.max_steps": steps,
        "training.tokens_per_batch": 4096,
        "training.learning_rate": learning_rate,
        "output.name": f"{variant}-seed{seed}",
        "evaluation.metrics": ["bleu", "rougeL"],
        **VARIANTS[variant]["sets"],
    }
    return lora_s2s.load_recipe("e2e-nlg", sets)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and scores one variant with one seed, in the current folder."""
    rate = arguments.learning_rate or VARIANTS[arguments.variant]["learning_rate"]
    recipe = recipe_for(arguments.data, arguments.variant, arguments.seed, arguments.steps, rate)
    trained = lora_s2s.train(recipe, overwrite=True)
    result: dict[str, Any] = {
        "variant": arguments.variant,
        "seed": arguments.seed,
        "steps": trained.steps,
        "learning_rate": rate,
        "command": " ".join(["python", "benchmarks/e2e_precision.py", *sys.argv[1:]]),
        **device(),
        "trainable_parameters": trained.trainable_parameters,
        "train_loss": round(trained.train_loss, 4),
        "validation_loss": trained.validation_loss and round(trained.validation_loss, 4),
        "tokens_per_second": trained.tokens_per_second,
    }
    if not arguments.no_scores and trained.adapter:
        decoding = {"evaluation.max_new_tokens": 128, "evaluation.num_beams": arguments.beams}
        scored = lora_s2s.evaluate(trained.adapter, overrides=decoding).to_dict()
        result |= {"n": scored["n"], "beams": arguments.beams, "metrics": scored["metrics"]}
    return result


def table(folder: Path) -> str:
    """Returns the Markdown table over every kept result: mean and spread over seeds."""
    lines = [
        "| variant | seeds | BLEU, mean (each) | ROUGE-L, mean | validation loss, mean | "
        "tokens/s, median |",
        "|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        found = [
            json.loads(path.read_text("utf-8"))
            for path in sorted(folder.glob(f"{variant}-seed*.json"))
        ]
        if not found:
            continue
        bleu, rouge = (
            [row["metrics"][name]["value"] for row in found] for name in ("bleu", "rougeL")
        )
        each = ", ".join(f"{value:.1f}" for value in bleu)
        loss = statistics.fmean(row["validation_loss"] for row in found)
        speed = statistics.median(row["tokens_per_second"] for row in found)
        lines.append(
            f"| {variant} | {len(found)} | {statistics.fmean(bleu):.1f} ({each}) | "
            f"{statistics.fmean(rouge):.1f} | {loss:.4f} | {speed:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs one variant and seed, or prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("run", "table"))
    parser.add_argument("--variant", choices=tuple(VARIANTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument(
        "--no-scores", action="store_true", help="validation loss only, for a sweep; keeps no file"
    )
    parser.add_argument("--data", type=Path, help="folder with E2E NLG's three files")
    parser.add_argument("--out", type=Path, default=RESULTS / "e2e-precision")
    arguments = parser.parse_args()
    if arguments.task == "table":
        print(table(arguments.out))
        return
    result = run(arguments)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    if not arguments.no_scores:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"{arguments.variant}-seed{arguments.seed}.json").write_text(
            text + "\n", encoding="utf-8"
        )
    print(text)


if __name__ == "__main__":
    main()
