"""A recipe's data as a prepared folder. Heavy to import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_s2s.commands._lengths import bounds_of
from lora_s2s.console import counted
from lora_s2s.data.prepare import prepare
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.recipe.schema import Recipe


def prepare_data(
    recipe: Recipe, out: Path | None = None, *, previews: int = 3, strict: bool = False
) -> PreparedDataset:
    """Prepares a recipe's data, or opens what an earlier run prepared from the same data and settings.

    Args:
        out: the folder; ``prepared/NAME`` beside the folder of adapters by default.
        previews, strict: see :func:`lora_s2s.data.prepare.prepare`.
    """
    data = recipe.data
    return prepare(
        train=data.train, validation=data.validation, test=data.test, format=data.format,
        source_column=data.source_column, target_column=data.target_column, template=data.template,
        max_source_tokens=data.max_source_tokens, max_target_tokens=data.max_target_tokens,
        truncate_source=data.truncate_source, long_targets=data.long_targets,
        validation_fraction=data.validation_fraction, lossless_text=data.lossless_text,
        special_tokens=data.special_tokens,
        max_rejected=data.max_rejected, source_language=data.source_language, target_language=data.target_language,
        previews=previews, strict=strict,
        model_name=recipe.model.name, revision=recipe.model.revision, seed=recipe.training.seed,
        out=out or Path(recipe.output.dir).parent / "prepared" / str(recipe.output.name),
        bounds=bounds_of(recipe),
    )  # fmt: skip


def data_line(prepared: PreparedDataset) -> str:
    """Returns one line on what is in a prepared folder."""
    report = prepared.report
    count = report["rows"]["rejected"]
    left_out = f"; {counted(count, 'row')} left out, see rejected.jsonl" if count else ""
    return f"data: {sizes(report)} ({prepared.path}{', as before' if prepared.reused else ''}){left_out}"


def sizes(report: Mapping[str, Any]) -> str:
    """Returns the rows of each split, in words."""
    return ", ".join(f"{count:,} {name}" for name, count in report["splits"].items())
