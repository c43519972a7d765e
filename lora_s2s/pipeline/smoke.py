"""A tiny run of every step, for ``doctor --smoke``."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from lora_s2s.demo.task import examples
from lora_s2s.display import Silent, showing
from lora_s2s.errors import RunError
from lora_s2s.inference.decode import decode
from lora_s2s.inference.loading import load_predictor
from lora_s2s.pipeline.merge import merge_model
from lora_s2s.pipeline.train import train_adapter
from lora_s2s.pipeline.trained import RunOptions
from lora_s2s.recipe.load import recipe_from_settings

_ROWS, _STEPS = 40, 4


def smoke(folder: str) -> str:
    """Trains the bundled base, stopped after a step and resumed, merges and decodes.

    Args:
        folder: empty; receives everything.

    Returns:
        what was done, in how many seconds.
    """
    began = time.perf_counter()
    with showing(Silent()):
        adapter, rows = _trained(Path(folder))
        answers = _answers(Path(folder), adapter, rows)
    if not any(answers):
        raise RunError("the merged model answers nothing")
    seconds = time.perf_counter() - began
    return f"trained, resumed, merged and decoded in {seconds:.0f} seconds"


def _trained(folder: Path) -> tuple[Path, Path]:
    rows = folder / "rows.csv"
    with rows.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("source", "target"), *examples("test", _ROWS)])
    recipe = recipe_from_settings(
        "smoke",
        [
            "model.name=demo",
            f"data.train={rows}",
            f"output.dir={folder / 'adapters'}",
            f"training.max_steps={_STEPS}",
            "training.batch_size=4",
        ],
    )
    train_adapter(recipe, options=RunOptions(deadline=time.monotonic()))
    run = train_adapter(recipe, options=RunOptions(resume=True))
    if run.adapter is None or run.resumed_from != 1:
        raise RunError("the run did not continue from its checkpoint")
    return run.adapter, rows


def _answers(folder: Path, adapter: Path, rows: Path) -> list[str]:
    few = folder / "few.csv"
    few.write_text("\n".join(rows.read_text(encoding="utf-8").splitlines()[:5]), encoding="utf-8")
    merge_model(str(adapter), folder / "merged", data=str(few))
    predictor = load_predictor(str(folder / "merged"))
    sources = [source for source, _ in examples("test", 2)]
    return [answer.text for answer in decode(predictor, sources)]
