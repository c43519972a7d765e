"""``evaluation.constraint`` from the recipe to the adapter's folder, the scores and the answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml
from cli_parts import Invoke

import lora_s2s
from lora_s2s.errors import DataError, RecipeError, UsageError
from lora_s2s.pipeline.followed import recipe_to_answer
from lora_s2s.recipe.load import load_recipe, recipe_from_settings

LABELS = ["bad", "good", "so so"]


def train(folder: Path, model: Path, **evaluation: object) -> Path:
    rows = [f"text {number},{LABELS[number % 3]}" for number in range(30)]
    rows += [f"more {number},so  so" for number in range(9)]  # the same label in other spaces
    (folder / "train.csv").write_text("\n".join(["question,answer", *rows, ""]), encoding="utf-8")
    recipe = {
        "model": {"name": model},
        "data": {"train": "train.csv", "validation_fraction": 0.2},
        "training": {"max_steps": 1, "batch_size": 4},
        "evaluation": evaluation,
        "output": {"name": "short"},
    }
    adapter = lora_s2s.train(recipe, progress=False).adapter
    assert adapter is not None
    return adapter


def test_labels_of_the_training_data(here: Path, tiny_model: Path, invoke: Invoke) -> None:
    adapter = train(here, tiny_model, constraint="labels")
    written = yaml.safe_load((adapter / "recipe.yaml").read_text(encoding="utf-8"))
    assert written["evaluation"]["constraint"] == LABELS

    model = lora_s2s.load(adapter, progress=False)
    questions = [f"what of {number}" for number in range(8)]
    assert {*model(questions)} <= {*LABELS}
    assert model(questions[0], constraint=["yes", "no"]) in ("yes", "no")

    scores = json.loads(invoke("eval", str(adapter), "--json").stdout)
    assert scores["decoding"]["constraint"] == LABELS
    assert scores["unstopped"] == 0
    lines = Path(scores["predictions"]).read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["prediction"] for line in lines} <= {*LABELS}
    # A merged model answers as it was scored.
    lora_s2s.merge(adapter, "merged", progress=False)
    assert {*lora_s2s.load("merged", progress=False)(questions)} <= {*LABELS}

    answer = invoke("predict", str(adapter), "what", "--constraint", "[yes, no]")
    assert answer.stdout.strip() in ("yes", "no")
    assert ", as evaluation.constraint allows\n" in answer.stderr
    free = invoke("predict", str(adapter), "what", "--set", "evaluation.constraint=null")
    assert free.stdout.strip() not in LABELS


def test_labels_for_an_adapter_trained_without(here: Path, tiny_model: Path) -> None:
    adapter = train(here, tiny_model)
    asked = {"evaluation.constraint": "labels"}
    model = lora_s2s.load(adapter, overrides=asked, progress=False)
    assert {*model(["a", "b", "c"])} <= {*LABELS}
    (here / "train.csv").write_text("question,answer\na,changed\nb,other\n", encoding="utf-8")
    with pytest.raises(DataError, match="differs from the file used in training"):
        recipe_to_answer(str(adapter), asked)
    with pytest.raises(UsageError, match="has no recipe that names training data"):
        recipe_to_answer(str(tiny_model), asked)


def test_an_untrusted_recipe_opens_no_file(here: Path, tiny_model: Path) -> None:
    (here / "schema.json").write_text('{"type": "integer"}', encoding="utf-8")
    folder = here / "adapter"
    folder.mkdir()
    recipe = {"model": {"name": str(tiny_model)}, "data": {"train": "none"}}
    recipe["evaluation"] = {"constraint": "json: schema.json"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.raises(DataError, match=r"names the file 'schema\.json' .* not read") as caught:
        recipe_to_answer(str(folder))
    asked = str(caught.value.hint).partition("--set ")[2].strip("'")
    inline = 'json: {"type": "integer"}'
    assert recipe_to_answer(str(folder), [asked]).evaluation.constraint == inline
    for content in ("[1]", "{nonsense"):
        (here / "schema.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match="not a JSON Schema"):
            recipe_to_answer(str(folder), [asked])
    with pytest.raises(DataError, match="not a grammar in GBNF"):
        recipe_to_answer(str(folder), ["evaluation.constraint=grammar: schema.json"])


def test_training_stops_before_it_begins(here: Path, tiny_model: Path) -> None:
    with pytest.raises(UsageError, match="the longest label takes"):
        train(here, tiny_model, constraint="labels", max_new_tokens=1)
    assert not (here / "adapters" / "short").exists()


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("labels", "labels"),
        ("[yes, no]", ["yes", "no"]),
        ("'regex: [0-9]+'", "regex: [0-9]+"),
        ("\n    regex: '[0-9]+'", "regex: [0-9]+"),
        ("{json: schema.json}", "json: schema.json"),
        ("null", None),
    ],
)
def test_ways_to_write_it(written: str, means: object, here: Path) -> None:
    text = f"model:\n  name: demo\ndata:\n  train: x.csv\nevaluation:\n  constraint: {written}\n"
    (here / "recipe.yaml").write_text(text, encoding="utf-8")
    assert load_recipe("recipe.yaml").evaluation.constraint == means


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ({"type": "object", "properties": {}}, 'json: {"type": "object", "properties": {}}'),
        ({"enum": ["a"]}, 'json: {"enum": ["a"]}'),
        ({"enum": [math.nan]}, 'json: {"enum": [NaN]}'),  # refused where it is compiled
        ({"json": {"enum": ["a"]}}, 'json: {"enum": ["a"]}'),
        ({"regex": "[0-9]+"}, "regex: [0-9]+"),
    ],
)
def test_a_dict_is_a_schema_or_a_kind_and_its_text(given: object, means: str) -> None:
    for nested in ({"evaluation.constraint": given}, {"evaluation": {"constraint": given}}):
        settings = {"model.name": "demo", "data.train": "x", **nested}
        assert recipe_from_settings("x", settings).evaluation.constraint == means


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("yes", "expected labels, a list of labels"),
        (["yes"], "a set of labels of one, 'yes'"),
        (["yes", "yes"], "a set of labels of one"),
        (["yes", ""], "a label is empty"),
        ("regex:", "regex is empty"),
        ("regex: " + "a" * 200_000, "should have at most 131,072 characters"),
        ([str(number) for number in range(10_001)], "10,001 labels: should be at most 10,000"),
        ({"enum": {"a"}}, "evaluation.constraint: expected a value or a list, got dict"),
    ],
)
def test_values_that_mean_nothing(value: object, message: str) -> None:
    settings = {"model.name": "demo", "data.train": "x", "evaluation.constraint": value}
    with pytest.raises(RecipeError, match=message):
        recipe_from_settings("x", settings)
