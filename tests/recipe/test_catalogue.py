"""The shipped recipes, the JSON Schema, and the promise that every key is documented and read."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from cli_parts import Invoke, here, invoke

import lora_s2s
from lora_s2s.recipe.catalogue import SCHEMA, about, json_schema, shipped
from lora_s2s.recipe.load import load_recipe, recipe_to_yaml
from lora_s2s.recipe.schema import SECTIONS

__all__ = ["here", "invoke"]

PACKAGE = Path(lora_s2s.__file__).parent
KEYS = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]


PROMISED = """
demo e2e-nlg disfl-qa nl2bash flan-t5-small flan-t5-base flan-t5-large flan-t5-xl flan-t5-xxl
dialogue-summaries article-summaries multilingual-summaries titles translation-t5 translation-nllb
translation-low-resource text-to-sql code-comments grammar simplification question-answering
classification extraction-json chat instructions graphemes-to-phonemes
"""


def test_the_promised_recipes_are_listed_by_purpose(invoke: Invoke) -> None:
    assert set(PROMISED.split()) == set(shipped())
    listed = json.loads(invoke("recipes", "--json").stdout)["recipes"]
    assert {one["name"]: one["purpose"] for one in listed}["text-to-sql"] == "code"
    shown = invoke("recipes").stderr
    assert shown.index("translation-nllb") > shown.index("classification")
    invoke("recipes", "copy", "chat", "mine.yaml")
    text = Path("mine.yaml").read_text(encoding="utf-8")
    schema = re.search(r"^# yaml-language-server: \$schema=(.+)$", text, re.MULTILINE)
    assert schema is not None
    assert Path(schema[1]).samefile(shipped()["chat"].with_name(SCHEMA))


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_recipe_loads_resolves_and_says_what_it_is(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.output.name == name
    resolved = tmp_path / "again.yaml"
    resolved.write_text(recipe_to_yaml(recipe), encoding="utf-8")
    assert load_recipe(str(resolved)) == recipe
    head = shipped()[name].read_text(encoding="utf-8").split("\nmodel:")[0]
    for word in ("# Data: ", "# Run:  ", "# Measured: ", f"$schema={SCHEMA}"):
        assert word in head, f"{name} lacks '{word}'"
    heading = about(shipped()[name])
    assert heading.summary.endswith((".", ")", ":"))
    assert re.fullmatch(r"CPU|(4|8|16|24) GB GPU", heading.machine)
    assert re.search(r"about \d+ → \d+ tokens .*at most [\d,]+ → [\d,]+; [\d,]+ ", heading.shape)
    assert all(vars(heading).values())


def test_at_most_85_keys_each_described_once() -> None:
    assert len(KEYS) <= 85
    descriptions = [SECTIONS[section].model_fields[key].description for section, key in KEYS]
    assert all(descriptions)
    assert len(set(descriptions)) == len(descriptions)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_is_read_outside_the_recipe_room(section: str, key: str) -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "recipe"]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == key and _reads(node.value, section):
                return
    pytest.fail(f"nothing reads {section}.{key}")


def _reads(owner: ast.expr, section: str) -> bool:
    """``recipe.training.seed``, ``settings.seed``, ``self._settings.seed`` and the like."""
    name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    return name.strip("_") in (section, "settings", "section", "asked")


def test_the_schema_documents_every_key() -> None:
    schema = json_schema()
    assert {"extends", *SECTIONS} == set(schema["properties"])
    documented = [key for part in schema["$defs"].values() for key in part["properties"].values()]
    assert len(documented) == len(KEYS)
    assert all(key.get("description") for key in documented)
    assert schema["$defs"]["LoraSection"]["additionalProperties"] is False


def test_metric_names_are_those_that_exist() -> None:
    from lora_s2s.evaluation.metrics import METRICS

    item = json_schema()["$defs"]["EvaluationSection"]["properties"]["metrics"]["items"]
    words, text = sorted(item["anyOf"], key=lambda option: "enum" not in option)
    assert set(words["enum"]) == {"auto", *METRICS}
    assert text == {"type": "string"}  # a combination, or module:function
    page = (PACKAGE.parent / "docs" / "METRICS.md").read_text(encoding="utf-8")
    assert [name for name in METRICS if f"`{name}`" not in page] == []


def test_early_stopping_says_what_it_watches_and_automatic_keys_how_they_are_chosen() -> None:
    keys = json_schema()["$defs"]["TrainingSection"]["properties"]
    assert "validation loss" in keys["early_stopping"]["description"]
    for name in ("epochs", "tokens_per_batch", "learning_rate", "evaluate_every"):
        assert keys[name]["default"] == "auto"
        assert "auto: " in keys[name]["description"]


def test_the_schema_file_is_that_of_the_package() -> None:
    path = shipped()["demo"].with_name(SCHEMA)
    assert json.loads(path.read_text(encoding="utf-8")) == json_schema(), (
        "run: lora-s2s recipes schema --json | python -m json.tool > recipes/recipe.schema.json"
    )
