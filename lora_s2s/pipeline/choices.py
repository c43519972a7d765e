"""Values for ``auto`` before a run, advice from its loss curves after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lora_s2s.console import say
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.files import read_jsonl
from lora_s2s.recipe.defaults import Facts, Lengths, explanation, resolve
from lora_s2s.recipe.load import recorded_recipe, with_choices_of
from lora_s2s.recipe.schema import Recipe
from lora_s2s.training.advice import Curves, advise
from lora_s2s.training.log import METRICS


def resolved_recipe(recipe: Recipe, facts: Facts, *, begun: Path | None = None) -> Recipe:
    """The recipe with a value for every ``auto`` key of its training; reports the values.

    Args:
        begun: the folder of a run to resume, whose values are kept.
    """
    if begun is not None and (begun / "recipe.yaml").is_file():
        recipe = with_choices_of(recipe, recorded_recipe(begun))
    if line := explanation(recipe, facts):
        say(line)
    return resolve(recipe, facts)


def gather_facts(prepared: PreparedDataset, *, parameters: int, device: str) -> Facts:
    """The facts that :func:`lora_s2s.recipe.defaults.resolve` decides by.

    Args:
        parameters: the base's.
        device: the type of device, ``cpu`` or ``cuda``.
    """
    table, validation = prepared.train, prepared.split("validation")
    held_out = (
        0
        if validation is None
        else int(validation.source_lengths.sum() + validation.target_lengths.sum())
    )
    return Facts(
        rows=len(table),
        source=_lengths(table.source_lengths),
        target=_lengths(table.target_lengths),
        distinct_targets=table.distinct_targets(),
        validation_tokens=held_out,
        parameters=parameters,
        device="cpu" if device == "cpu" else "cuda",
    )


def advice_on(adapter: Path, recipe: Recipe, rows: int) -> list[dict[str, str]]:
    """Advice from a finished run's loss curves: ``advice`` of ``train --json``."""
    curves = Curves.of_lines(read_jsonl(adapter / METRICS))
    training = recipe.training.settled()
    given = advise(
        curves,
        rows=rows,
        learning_rate=training.learning_rate,
        early_stopping=training.early_stopping,
    )
    return [advice.to_json() for advice in given]


def _lengths(tokens: npt.NDArray[np.int32]) -> Lengths:
    p50, p95, p99, longest = (
        (int(x) for x in np.percentile(tokens, (50, 95, 99, 100))) if len(tokens) else (0,) * 4
    )
    return Lengths(total=int(tokens.sum()), p50=p50, p95=p95, p99=p99, longest=longest)
