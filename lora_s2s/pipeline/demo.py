"""The steps of ``demo`` and its before/after table."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_s2s.console import say
from lora_s2s.errors import RunError, UsageError
from lora_s2s.inference.decode import decode
from lora_s2s.inference.loading import load_predictor
from lora_s2s.pipeline.decoding import settings_for
from lora_s2s.pipeline.evaluate import score_model
from lora_s2s.pipeline.merge import merge_model
from lora_s2s.pipeline.scores import Asked
from lora_s2s.pipeline.train import train_adapter
from lora_s2s.pipeline.trained import RunOptions, check_run_folder
from lora_s2s.recipe.load import load_recipe

_SAMPLES = 3


def run_demo(out: Path, sets: Sequence[str]) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """Prepares, trains, scores, merges and answers again with the merged model.

    Returns:
        the ``--json`` object, and a few rows of ``predictions.jsonl``.

    Raises:
        RunError: the merged model answers differently from the adapter.
    """
    began = time.perf_counter()
    recipe = load_recipe("demo", [f"output.dir={out / 'adapters'}", *sets])
    check_run_folder(recipe, RunOptions(overwrite=True))
    merged = _merged_folder(out)
    say("1/4 prepare and train")
    trained = train_adapter(recipe, options=RunOptions(overwrite=True))
    adapter = Path(recipe.output.dir) / str(recipe.output.name)
    say("2/4 score the adapter and its base on messages neither has seen")
    scores = score_model(str(adapter), Asked(baseline=True))
    say("3/4 merge")
    report = merge_model(str(adapter), merged, dtype="float32")
    say("4/4 answer again with the merged model")
    rows = scores.rows
    whole = load_predictor(str(merged), dtype="float32")
    settings = settings_for(recipe, whole, plain=True)
    answers = decode(whole, [row.source for row in rows], settings)
    differing = sum(
        answer.text != row.prediction for answer, row in zip(answers, rows, strict=True)
    )
    if differing:
        raise RunError(
            f"the merged model answers {differing} of {len(rows)} messages differently from the "
            "adapter"
        )
    shown = scores.to_dict()
    result = {
        "base": {name: score.value for name, score in (scores.baseline or {}).items()},
        "adapter": {name: score.value for name, score in scores.metrics.items()},
        "difference": shown["difference"],
        "n": scores.n,
        "merged_equal": True,
        "max_logit_difference": report.max_logit_difference,
        "seconds": round(time.perf_counter() - began, 1),
        "training_seconds": round(trained.tokens / trained.tokens_per_second, 1),
        "adapter_dir": str(adapter),
        "merged_dir": str(merged),
    }
    return {**result, "scores": shown}, [row.to_json() for row in rows[:_SAMPLES]]


def _merged_folder(out: Path) -> Path:
    """Returns the folder of the merged model, free: an earlier demo's is removed, anything else
    refused.
    """
    merged = out / "merged"
    if merged.exists():
        if not (merged / "config.json").is_file():
            raise UsageError(
                f"{merged} is not a merged model, so it is not replaced",
                hint="give --out another folder",
            )
        shutil.rmtree(merged)
    return merged
