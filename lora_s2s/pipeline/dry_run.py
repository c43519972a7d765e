"""What a run would do: rows, steps, tokens and parameters, with nothing left on the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_s2s.data.prepared import PreparedDataset, SplitTable
from lora_s2s.data_report import DataReport
from lora_s2s.pipeline.adapted import adapted_base
from lora_s2s.pipeline.choices import gather_facts, resolved_recipe
from lora_s2s.pipeline.lengths import warn_of_short_answers, with_data
from lora_s2s.pipeline.notices import show_data, show_preview
from lora_s2s.pipeline.prepare import prepare_data
from lora_s2s.recipe.schema import Recipe, TrainingSettings
from lora_s2s.training.plan import StepPlan


@dataclass(frozen=True)
class DryRun:
    """The resolved recipe, the report of its data (what is shown, and all of it), and what was
    counted.
    """

    recipe: Recipe
    report: DataReport
    content: Mapping[str, object]
    counted: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The object of ``train --dry-run --json``."""
        recipe = self.recipe.model_dump(mode="json")
        return {"dry_run": True, "recipe": recipe, **self.content, **self.counted}


def dry_run(recipe: Recipe, prepared: PreparedDataset | None = None) -> DryRun:
    """Counts rows, steps, tokens and parameters with nothing left on the disk."""
    with tempfile.TemporaryDirectory(prefix="lora-s2s-") as folder:
        prepared = prepared or prepare_data(recipe, Path(folder) / "prepared")
        show_data(prepared.manifest.report)
        show_preview(prepared.preview)
        warn_of_short_answers(recipe, prepared)
        recipe = with_data(recipe, prepared)
        adapted = adapted_base(recipe, prepared)
        recipe = resolved_recipe(
            recipe,
            gather_facts(
                prepared, parameters=adapted.base_parameters, device=adapted.base.device.type
            ),
        )
        counted = {**_steps(prepared.train, recipe.training.settled()), **adapted.counts}
        content = {key: value for key, value in prepared.report.items() if key != "out"}
    return DryRun(recipe, prepared.manifest.report, content, counted)


def _steps(rows: SplitTable, settings: TrainingSettings) -> dict[str, Any]:
    plan = StepPlan(rows, settings)
    plan.report_long_rows()
    epochs = plan.total_steps / len(plan.steps(0))
    tokens_in_epoch = int(rows.source_lengths.sum() + rows.target_lengths.sum())
    size = (
        f"{settings.batch_size} rows"
        if settings.batch_size
        else f"up to {settings.tokens_per_batch:,} padded tokens"
    )
    return {
        "steps": plan.total_steps,
        "epochs": round(epochs, 4),
        "tokens": round(tokens_in_epoch * epochs),
        "batching": f"{size}, {'packed' if settings.packing else 'grouped by length'}",
    }
