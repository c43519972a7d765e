"""An adapter's recipe leads to the data it was made from and to nothing else of the machine."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Invoke, write_csv

from lora_s2s.errors import DataError, SetupError
from lora_s2s.readers import origins, recorded
from lora_s2s.readers.recorded import follow_recorded, record_data

ROWS = (
    '{"source": "a table for two", "target": "SECRET-one"}\n{"source": "SECRET-two", "target": '
    '"done"}\n'
)
SHORT = (
    "--set",
    "training.max_steps=1",
    "--set",
    "training.batch_size=4",
    "--set",
    "evaluation.max_new_tokens=3",
)


@pytest.fixture
def adapter(here: Path, good_adapter: Path) -> Path:
    """A copy of the good adapter, and beside it a file that is nobody's business."""
    (here / "private").mkdir()
    (here / "private" / "keys.jsonl").write_text(ROWS)
    (here / "private" / "src.en").write_text("SECRET-one\n" * 3)
    (here / "private" / "src.de").write_text("SECRET-two\n" * 3)
    return Path(shutil.copytree(good_adapter, here / "ad"))


def recipe(folder: Path, **data: Any) -> None:
    """Gives a folder a recipe of its own."""
    lines = [f"  {key}: {json.dumps(value)}\n" for key, value in data.items()]
    (folder / "recipe.yaml").write_text(f"extends: demo\ndata:\n{''.join(lines)}")


def sources(folder: Path, value: object) -> None:
    """Puts a record of data into a folder's manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sources": value}))


def published(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "data",
    [
        {"test": "private/keys.jsonl"},
        {"test": "{here}/private/keys.jsonl"},
        {"test": "private"},
        {"test": "private/*.jsonl"},
        {"test": "/**/keys.jsonl"},
        {"test": ["demo:test", "private/keys.jsonl@2"]},
        {"test": ["private/src.en", "private/src.de"], "format": "parallel"},
        {"test": None, "validation": "private/keys.jsonl"},
        {"test": None, "validation": None, "train": "private/keys.jsonl"},
        {"test": "ad/../private/keys.jsonl"},
        {"test": "hf:someone/private"},
        {"test": "hf:./private"},
    ],
    ids=lambda data: str(data)[:60],
)
def test_what_only_an_adapter_names_is_not_read(
    data: dict[str, Any], invoke: Invoke, here: Path, adapter: Path
) -> None:
    told = {
        key: value.replace("{here}", str(here)) if isinstance(value, str) else value
        for key, value in data.items()
    }
    recipe(adapter, **told)
    result = invoke("eval", "ad", code=3)
    named = next(str(value) for value in told.values() if value)
    assert (named if "[" not in named else "private/") in result.stderr
    assert re.search(r"hint: .*--data ", result.stderr)
    merged = invoke("merge", "ad", "--out", "merged")
    assert "compared on the demo task's sources" in merged.stderr
    assert (
        "SECRET"
        not in published(adapter) + published(here / "merged") + merged.stderr + result.stderr
    )
    assert not (here / "prepared").exists()


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        "x",
        [{"name": "private/keys.jsonl"}],
        [{"name": "private/keys.jsonl", "sha256": {}}],
        [{"name": "private/keys.jsonl", "sha256": {"private/keys.jsonl": "0" * 64}}],
        [{"name": "private/keys.jsonl", "sha256": {"private/keys.jsonl": None}}],
        [{"name": "private/keys.jsonl", "sha256": {"recipe.yaml": "0" * 64}}],
        [{"name": ["private/keys.jsonl"], "sha256": {}}],
        [
            {"name": "private/keys.jsonl", "sha256": {}},
            {"name": "another", "sha256": {"private/keys.jsonl": "0" * 64}},
        ],
    ],
    ids=str,
)
def test_a_record_that_does_not_know_the_content_opens_nothing(
    record: object, invoke: Invoke, here: Path, adapter: Path
) -> None:
    recipe(adapter, test="private/keys.jsonl")
    sources(adapter, {"test": record})
    assert "private/keys.jsonl" in invoke("eval", "ad", code=3).stderr
    assert "SECRET" not in published(adapter)


def test_a_folder_or_pattern_leads_to_recorded_files_alone(here: Path, adapter: Path) -> None:
    (here / "data").mkdir()
    (here / "data" / "a.jsonl").write_text(ROWS)
    record = record_data({"test": ["data/*.jsonl"], "train": "data"})
    assert follow_recorded(["data/*.jsonl"], record["test"], split="test") == ["data/a.jsonl"]
    assert follow_recorded("data", record["train"], split="train") == ["data"]
    (here / "data" / "b.jsonl").write_text(ROWS)
    assert follow_recorded(["data/*.jsonl"], record["test"], split="test") == ["data/a.jsonl"]
    with pytest.raises(DataError, match=r"names 'data/b.jsonl' as data.train"):
        follow_recorded("data", record["train"], split="train")


@pytest.mark.skipif(os.name != "posix", reason="no pipes and links")
def test_only_regular_files_are_followed(here: Path, adapter: Path) -> None:
    record = record_data({"test": "private/keys.jsonl"})
    (here / "private" / "keys.jsonl").unlink()
    os.mkfifo(here / "private" / "keys.jsonl")
    with pytest.raises(DataError, match="is not a file on this machine"):
        follow_recorded("private/keys.jsonl", record["test"], split="test")


def test_the_disk_is_not_walked(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walked(*_words: object, **_more: object) -> object:
        raise AssertionError("a pattern of a stranger's was looked for")

    monkeypatch.setattr(origins.glob, "iglob", walked)
    record = [
        {
            "name": "/**/*.jsonl",
            "sha256": record_data({"test": "private/keys.jsonl"})["test"][0]["sha256"],
        }
    ]
    assert follow_recorded("/**/*.jsonl", record, split="test") == ["private/keys.jsonl"]
    with pytest.raises(DataError, match="its manifest does not record its content"):
        follow_recorded("/**/*.jsonl", [], split="test")


def test_a_hubs_data_is_followed_in_the_cache_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    class Loaded:
        _fingerprint = "abc"

    def load(name: str, *, cached: bool = False) -> Loaded:
        asked.append(cached)
        if "absent" in name:
            raise SetupError("not in the cache")
        return Loaded()

    monkeypatch.setattr(origins, "_hub_dataset", load)
    record = record_data({"test": "hf:someone/some"})
    assert record == {"test": [{"name": "hf:someone/some", "sha256": {"hf:someone/some": "abc"}}]}
    assert follow_recorded("hf:someone/some", record["test"], split="test") == ["hf:someone/some"]
    assert asked == [False, True]
    other = [{"name": "hf:someone/some", "sha256": {"hf:someone/some": "abd"}}]
    with pytest.raises(DataError, match="differs from the file used in training"):
        follow_recorded("hf:someone/some", other, split="test")
    absent = [{"name": "hf:someone/absent", "sha256": {"hf:someone/absent": "abc"}}]
    with pytest.raises(DataError, match="not in the local cache"):
        follow_recorded("hf:someone/absent", absent, split="test")
    (here / "someone").mkdir()
    (here / "someone" / "some").mkdir()
    with pytest.raises(DataError, match="file or folder of this machine"):
        follow_recorded("hf:someone/some", record["test"], split="test")


@pytest.mark.parametrize("name", ["csv", "pandas", "private", "./private", "../x", "buckets/a/b/c"])
def test_a_hubs_name_opens_no_files_of_the_machine(
    name: str, invoke: Invoke, here: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    opened = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *_words, **_more: opened.append(name))
    recipe(adapter, test=f"hf:{name}")
    sources(adapter, {"test": [{"name": f"hf:{name}", "sha256": {f"hf:{name}": "0" * 16}}]})
    assert f"names 'hf:{name}' as data.test" in invoke("eval", "ad", code=3).stderr
    told = invoke("prepare", "demo", "--set", f"data.train=hf:{name}", "--out", "p", code=3).stderr
    assert f"'hf:{name}' is not read" in told
    assert opened == []


def test_ones_own_adapter_needs_no_flags_until_its_data_changes(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "train.csv")
    (here / "held.csv").write_text("question,answer\nwhat is the number of house 3,it is 3\n")
    (here / "more").mkdir()
    (here / "more" / "x.csv").write_text("question,answer\nwhat is the number of house 4,it is 4\n")
    words = (
        f"model.name={tiny_model}",
        "data.train=train.csv",
        "data.test=[held.csv, more/*.csv@2]",
        "output.name=it",
    )
    invoke("train", "flan-t5-small", *(part for word in words for part in ("--set", word)), *SHORT)
    short = ("--set", "evaluation.max_new_tokens=3")
    assert json.loads(invoke("eval", "adapters/it", "--json", *short).stdout)["n"] == 2
    validation = json.loads(
        invoke("eval", "adapters/it", "--set", "data.test=null", "--json", *short).stdout
    )
    assert validation["n"] >= 1
    (here / "held.csv").write_text("question,answer\nanother question,another answer\n")
    changed = invoke("eval", "adapters/it", *short, code=3).stderr
    assert (
        "the adapter's recipe names 'held.csv' as data.test, but it differs from the file used in "
        "training" in changed
    )
    assert "hint: if that is the data you want: --data held.csv" in changed
    (here / "held.csv").rename(here / "renamed.csv")
    gone = invoke("eval", "adapters/it", *short, code=3).stderr
    assert "it is not a file on this machine" in gone
    assert "score on that: lora-s2s eval adapters/it --data prepared/it\n" in gone
    assert (
        json.loads(invoke("eval", "adapters/it", "--data", "renamed.csv", "--json", *short).stdout)[
            "n"
        ]
        == 1
    )
    named = invoke("eval", "adapters/it", "--set", "data.test=renamed.csv", "--json", *short)
    assert json.loads(named.stdout)["n"] == 1
    (here / "adapters" / "it" / "evaluations").rename(here / "evaluations")
    told = invoke("merge", "adapters/it", "--out", "merged", "--data", "renamed.csv").stderr
    assert "demo task" not in told


def test_the_tokenizer_that_only_a_recipe_names_is_not_fetched(
    invoke: Invoke, here: Path, adapter: Path
) -> None:
    write_csv(here / "train.csv")
    recipe(adapter, train="train.csv", test=None, validation=None)
    with (adapter / "recipe.yaml").open("a") as lines:
        lines.write("model:\n  name: someone/evil\n")
    sources(adapter, record_data({"train": "train.csv"}))
    told = invoke("eval", "ad", code=3).stderr
    assert "names the model 'someone/evil', which is not on this machine" in told


@pytest.mark.parametrize("name", ["../private/r.yaml", "{here}/private/r.yaml", "~/r.yaml", "nix"])
def test_an_adapters_recipe_extends_no_file_of_the_machine(
    name: str, invoke: Invoke, here: Path, adapter: Path
) -> None:
    (here / "private" / "r.yaml").write_text("SECRET: 1\n")
    (adapter / "recipe.yaml").write_text(f"extends: {name.replace('{here}', str(here))}\n")
    for words in (("predict", "ad", "hello"), ("eval", "ad"), ("adapters", "compare", "ad", "ad")):
        told = invoke(*words, code=2).stderr
        assert "extends shipped recipes alone" in told
        assert "SECRET" not in told


def test_a_record_has_every_split_that_is_named(
    here: Path, write: Callable[[str, str], str]
) -> None:
    path = write("x.csv", "question,answer\na,b\n")
    record = recorded.record_data({"train": path, "test": None})
    assert [*record] == ["train"]
    assert len(record["train"][0]["sha256"][path]) == 64


def test_a_prepared_folder_leads_nowhere_either(
    invoke: Invoke, here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "train.csv")
    invoke(
        "prepare",
        "--data",
        "train.csv",
        "--model",
        str(tiny_model),
        "--out",
        "p",
        "--set",
        "output.name=it",
    )
    made = (here / "p" / "recipe.yaml").read_text()
    (here / "p" / "recipe.yaml").write_text(made.replace("train: train.csv", "train: /**/*.csv"))
    monkeypatch.setattr(
        origins.glob, "iglob", lambda *_words, **_more: pytest.fail("folders were searched")
    )
    told = invoke("train", "p", *SHORT[:4]).stderr
    assert "eval will need --data" in told
    assert json.loads((here / "adapters" / "it" / "manifest.json").read_text())["sources"] == {}
    (here / "p" / "recipe.yaml").write_text(
        made.replace(f"name: {tiny_model}", "name: someone/evil")
    )
    told = invoke("train", "p", "--overwrite", *SHORT[:4], code=3).stderr
    assert "names the model 'someone/evil', which is not on this machine" in told
    (here / "p" / "recipe.yaml").write_text(f"extends: {here}/secret.yaml\n")
    assert (
        "extends shipped recipes alone"
        in invoke("train", "p", "--overwrite", *SHORT[:4], code=2).stderr
    )
