"""Quality by precision on E2E NLG: full fine-tuning, LoRA in bfloat16, QLoRA in 4 and 8 bits; three
seeds each.

One process trains one variant with one seed on the bundled base and scores it on the official test
set; its JSON lands in `--out`. The steps are the package's own (plan, schedule, `train_step`), the
same rows in the same order for all.

    python benchmarks/e2e_precision.py run --variant nf4 --seed 1 --data FOLDER
    python benchmarks/e2e_precision.py table
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from train_and_score import FILES, RESULTS, device

from lora_s2s.data.collate import collate
from lora_s2s.evaluation.evaluate import evaluate, group_references
from lora_s2s.examples.read import Examples
from lora_s2s.fast_t5.choose import fast_forward
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.torch_engine import TorchEngine
from lora_s2s.lora.inject import inject_lora, trainable_parameters
from lora_s2s.models.loading import load_base
from lora_s2s.pipeline.prepare import prepare_data
from lora_s2s.recipe.load import load_recipe
from lora_s2s.recipe.schema import Recipe
from lora_s2s.tokens.loading import load_tokenizer
from lora_s2s.training.loop import train_step
from lora_s2s.training.optimizer import build_optimizer, learning_rate_at
from lora_s2s.training.plan import StepPlan
from lora_s2s.training.validation import make_validation

# Variant → what load_base gets, the peak learning rate (each side's best of a small sweep), whether
# all weights train.
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {"base": {"dtype": "float32"}, "learning_rate": 2e-3},
    "lora-bf16": {"base": {"dtype": "bfloat16"}, "learning_rate": 8e-3},
    "nf4": {"base": {"dtype": "bfloat16", "quantization": "nf4"}, "learning_rate": 8e-3},
    "nf4-wo16": {
        "base": {"dtype": "bfloat16", "quantization": "nf4", "skip_quantization": ["wo"]},
        "learning_rate": 8e-3,
    },
    "int8": {"base": {"dtype": "bfloat16", "quantization": "int8"}, "learning_rate": 8e-3},
}


def recipe_for(folder: Path, seed: int, steps: int, learning_rate: float) -> Recipe:
    """Returns the shipped E2E recipe on the bundled base, cut to so many steps."""
    splits = zip(("train", "validation", "test"), FILES["e2e-nlg"], strict=True)
    sets = [f"data.{split}={folder / file}" for split, file in splits]
    sets += [
        "model.name=demo",
        f"training.seed={seed}",
        f"training.max_steps={steps}",
        "output.name=e2e-precision",
    ]
    return load_recipe(
        "e2e-nlg",
        [*sets, "training.tokens_per_batch=4096", f"training.learning_rate={learning_rate}"],
    )


def build(recipe: Recipe, variant: str) -> nn.Module:
    """Returns the model that trains: every weight of it, or an adapter on every linear layer of a
    frozen base.
    """
    base = load_base("demo", **VARIANTS[variant]["base"])
    base.family.set_dropout(base.model, recipe.training.dropout)
    if variant == "full":
        model: nn.Module = base.model.requires_grad_(True)
        return model
    return inject_lora(base, recipe.lora, seed=recipe.training.seed)


def train(model: nn.Module, recipe: Recipe, table: Any, pad: int) -> tuple[float, float]:
    """Takes the recipe's optimizer steps; returns the mean loss of the last 25 (nats a token) and
    real tokens/s.
    """
    settings, accelerator = (
        recipe.training.settled(),
        Accelerator(cpu=not torch.cuda.is_available()),
    )
    model.to(accelerator.device)
    plan = StepPlan(table, settings)
    optimizer = build_optimizer(model, settings)
    losses: list[float] = []
    tokens, began = 0, time.perf_counter()
    with fast_forward(model):
        for step in range(plan.total_steps):
            rate = learning_rate_at(step, plan.total_steps, settings)
            batches = [
                collate([table.features(row) for row in rows], pad) for rows in plan.steps(0)[step]
            ]
            stats = train_step(
                model,
                optimizer,
                batches,
                accelerator=accelerator,
                step=step,
                learning_rate=rate,
                settings=settings,
            )
            losses.append(stats.loss)
            tokens += stats.tokens
    return statistics.fmean(losses[-25:]), tokens / (time.perf_counter() - began)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and scores one variant with one seed."""
    rate = arguments.learning_rate or VARIANTS[arguments.variant]["learning_rate"]
    recipe = recipe_for(arguments.data, arguments.seed, arguments.steps, rate)
    prepared = prepare_data(
        recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": 1})})
    )
    tokenizer = load_tokenizer("demo")
    model = build(recipe, arguments.variant)
    loss, speed = train(model, recipe, prepared.train, int(tokenizer.pad_token_id))
    validation = prepared.split("validation")
    held_out = make_validation(
        validation, pad_token_id=int(tokenizer.pad_token_id), tokens_per_batch=8192
    )(model)
    result: dict[str, Any] = {
        "variant": arguments.variant,
        "seed": arguments.seed,
        "steps": arguments.steps,
        "learning_rate": rate,
        "command": " ".join(["python", "benchmarks/e2e_precision.py", *sys.argv[1:]]),
        **device(),
        "trainable_parameters": trainable_parameters(model),
        "train_loss_last_25": round(loss, 4),
        "validation_loss": round(held_out["validation_loss"], 4),
        "tokens_per_second": round(speed, 1),
    }
    if not arguments.no_scores:
        columns = {"source_column": "mr", "target_column": "ref"}
        rows = list(Examples(recipe.data.model_copy(update=columns), "test"))
        sources, references = group_references(
            [row.source for row in rows], [row.target for row in rows]
        )
        engine = TorchEngine("e2e", model.eval(), tokenizer)
        predictor = Predictor("e2e", engine, tokenizer)
        settings = DecodingSettings(max_new_tokens=128, num_beams=arguments.beams)
        scored = evaluate(
            predictor, sources, references, metrics=["bleu", "rougeL"], settings=settings
        )
        result |= {"n": scored.n, "beams": arguments.beams, "metrics": scored.to_json()["metrics"]}
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
