"""What a training run would do: rows, steps, tokens and parameters, with nothing left on the disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_s2s.commands._pipeline import adapted_base, parameter_counts, prepare_data
from lora_s2s.commands._show import show_preview

if TYPE_CHECKING:
    from lora_s2s.recipe.schema import Recipe


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """Reads the data, loads the base, counts, and tells people; returns the ``--json`` object."""
    from lora_s2s.console import table

    with tempfile.TemporaryDirectory(prefix="lora-s2s-") as folder:
        prepared = prepare_data(recipe, Path(folder) / "prepared")
        show_preview(prepared.preview)
        counted = {**_steps(prepared.split("train"), recipe), **parameter_counts(adapted_base(recipe)[1])}
        report = {key: value for key, value in prepared.report.items() if key != "out"}
    shown = {
        "examples": ", ".join(f"{count:,} {name}" for name, count in report["splits"].items()),
        "left out": f"{report['rows']['rejected']:,} of {report['rows']['read']:,} rows",
        "source tokens": "  ".join(f"{key} {value:,}" for key, value in report["source_tokens"].items()),
        "target tokens": "  ".join(f"{key} {value:,}" for key, value in report["target_tokens"].items()),
        "micro-batches": f"{counted['batching']}, × {recipe.training.gradient_accumulation} a step",
        "optimizer": f"{recipe.training.optimizer}, {recipe.training.schedule}, {recipe.training.learning_rate:g}",
        "steps": f"{counted['steps']:,} in {counted['epochs']:.2f} epochs",
        "tokens": f"{counted['tokens']:,}",
        "trainable parameters": f"{counted['trainable_parameters']:,} of {counted['total_parameters']:,}",
    }
    table(f"Dry run: {recipe.output.name}", ["what", "how much"], [[key, value] for key, value in shown.items()])
    return {"dry_run": True, "recipe": recipe.model_dump(mode="json"), **report, **counted}


def _steps(table: Any, recipe: Recipe) -> dict[str, Any]:
    from lora_s2s.training.plan import StepPlan

    settings = recipe.training
    plan = StepPlan(table, settings)
    in_epoch = len(plan.steps(0))
    epochs = plan.total_steps / in_epoch
    tokens_in_epoch = int(table.source_lengths.sum() + table.target_lengths.sum())
    size = f"{settings.batch_size} rows" if settings.batch_size else f"up to {settings.tokens_per_batch:,} slots"
    return {
        "steps": plan.total_steps,
        "epochs": round(epochs, 4),
        "tokens": round(tokens_in_epoch * epochs),
        "batching": f"{size}, {'packed' if settings.packing else 'padded by length'}",
    }
