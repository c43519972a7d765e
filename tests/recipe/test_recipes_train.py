"""Every shipped recipe trains: three steps on a tiny model of its base's family, on rows of its
shape.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from cli_parts import here
from tiny_families import BART_SIZES, TINY, write
from tiny_tokenizers import write_tokenizer

import lora_s2s
from lora_s2s.examples.template import PromptTemplate
from lora_s2s.recipe.catalogue import about, shipped
from lora_s2s.recipe.load import load_recipe
from lora_s2s.recipe.schema import DataSection

__all__ = ["here"]

ROOT = Path(__file__).parents[2]
# By the beginning of the base's name.
FAMILIES = {
    "google/flan-t5": "T5 v1.1, LM-adapted, Flan-T5",
    "google-t5/": "T5 v1.0",
    "google/mt5": "mT5",
    "google/byt5": "ByT5",
    "Salesforce/codet5p": "CodeT5, CodeT5+",
    "facebook/bart": "BART",
    "demo": "T5 v1.1, LM-adapted, Flan-T5",
}
NLLB = "facebook/nllb"
# Not of the tiny models: their widths, positions and the lack of a GPU.
SMALL = {
    "model.quantization": "none",
    "training.max_steps": 3,
    "training.tokens_per_batch": 256,
    "training.optimizer": "adamw",
    "training.gradient_accumulation": 1,
    "data.max_source_tokens": 40,
    "data.max_target_tokens": 40,
    "data.validation": None,
    "data.test": None,
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each family, by the beginning of the names of its bases."""
    folder = tmp_path_factory.mktemp("bases")
    made = {
        name: write(TINY[family], folder / str(number))
        for number, (name, family) in enumerate(FAMILIES.items())
    }
    made[NLLB] = folder / "nllb"
    made[NLLB].mkdir()
    write_tokenizer("nllb", made[NLLB])
    torch.manual_seed(0)
    config = transformers.M2M100Config(**{**BART_SIZES, "vocab_size": 300})
    transformers.M2M100ForConditionalGeneration(config).save_pretrained(made[NLLB])
    return made


def rows(data: DataSection) -> Iterator[dict[str, object]]:
    """Rows as a recipe reads them: its format's, or those of its columns and template."""
    for number in range(40):
        source, target = f"w{number + 5} w6 w7", f"w{number + 9} w{number % 3 + 8}"
        if data.format == "conversations":
            turns = [("human", source), ("gpt", target), ("human", target), ("gpt", source)]
            yield {"conversations": [{"from": who, "value": text} for who, text in turns]}
        elif data.format == "squad":
            yield {"context": source, "question": "w8", "answers": {"text": [target]}}
        elif data.format == "alpaca":
            yield {"instruction": source, "input": "", "output": target}
        else:
            of_template = PromptTemplate.of(data.template).columns if data.template else {}
            columns = [*of_template, data.source_column or "source"]
            yield {**dict.fromkeys(columns, source), data.target_column or "target": target}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_recipe_trains(name: str, here: Path, bases: dict[str, Path]) -> None:
    recipe = load_recipe(name)
    base = next(path for start, path in bases.items() if recipe.model.name.startswith(start))
    lines = [json.dumps(row) for row in rows(recipe.data)]
    Path("rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    changed = {**SMALL, "model.name": str(base), "data.train": "rows.jsonl"}
    run = lora_s2s.train(lora_s2s.load_recipe(recipe, changed), progress=False)
    assert run.steps == 3
    kept = load_recipe(f"adapters/{name}/recipe.yaml")
    assert kept.lora == recipe.lora
    assert kept.evaluation.metrics == recipe.evaluation.metrics


@pytest.mark.slow
def test_memory_and_time_are_those_of_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    figures = runpy.run_path(str(ROOT / "tools" / "recipe_figures.py"))["figures"]
    for name, path in shipped().items():
        memory, time = figures(name, path)
        heading = about(path)
        assert (f"{heading.memory}.", f"{heading.time}.") == (memory, time), (
            "run: python tools/recipe_figures.py"
        )
