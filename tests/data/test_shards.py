"""``prepare --shard`` and ``--join``: the folder of one run, byte for byte."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from read_and_prepare import prepare, prepare_shard, read_examples

import lora_s2s
from lora_s2s.data import spool
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.errors import DataError
from lora_s2s.examples import shard as sharding
from lora_s2s.examples.example import Example

WORDS = "the name of a place near that river where people eat and drink é 世 <b> </s>".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Pairs with duplicates and leaks far apart, bad rows, dialogues, weights, a file to omit."""
    folder, chance = tmp_path_factory.mktemp("data"), random.Random(0)

    def text(most: int) -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, most)))

    pairs: list[Any] = [{"source": text(30), "target": text(12), "note": n % 3} for n in range(400)]
    pairs[300:310] = pairs[:10]
    pairs[200:203] = [{"source": "x"}, {"source": "y", "target": [1]}, "broken"]
    talks = [
        {"conversations": [{"from": ("human", "gpt")[n % 2], "value": text(20)} for n in range(k)]}
        for k in (chance.randint(1, 9) for _ in range(60))
    ]
    test = [{"source": text(40), "target": text(30)} for _ in range(40)] + pairs[350:360]
    rows = {"pairs": pairs, "talks": talks, "test": test, "many/a": pairs[:30]}
    (folder / "many").mkdir()
    (folder / "many/b.jsonl").write_text('{"q": 1, "z": "one", "k": "two"}\n')
    for name, listed in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in listed)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    train = [f"{folder}/pairs.jsonl", f"{folder}/many", f"{folder}/talks.jsonl@1.5"]
    return {"train": train, "test": f"{folder}/test.jsonl"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and batches of few rows."""
    monkeypatch.setattr(sharding, "RECORDS", 7)
    monkeypatch.setattr(spool, "ROWS", 50)
    monkeypatch.setattr(spool, "CHARACTERS", 4000)


def settings(data: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    limits = {"max_source_tokens": 40, "max_target_tokens": 24, "validation_fraction": 0.1}
    return {**data, **limits, "out": out, "max_rejected": 1.0, **more}


def in_shards(data: dict[str, Any], out: Path, count: int, **more: Any) -> PreparedDataset:
    for number in range(count, 0, -1):
        prepare_shard(f"{number}/{count}", **settings(data, out, **more))
    return prepare(join=True, **settings(data, out, **more))


def assert_same(one: PreparedDataset, two: PreparedDataset) -> None:
    names = sorted(path.name for path in one.path.iterdir())
    assert names == sorted(path.name for path in two.path.iterdir())
    for name in set(names) - {"manifest.json"}:
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes(), name
    first, second = (json.dumps({**data.manifest.content, "created": ""}) for data in (one, two))
    assert first == second


@pytest.mark.parametrize(
    ("count", "more"),
    [(3, {}), (4, {"lossless_text": "off", "max_source_tokens": "auto"})],
    ids=["tokenised again", "tokenised in shards"],
)
def test_joined_shards_are_one_runs_folder(
    count: int, more: dict[str, Any], data: dict[str, Any], tmp_path: Path
) -> None:
    whole = prepare(**settings(data, tmp_path / "whole", **more))
    parts = in_shards(data, tmp_path / "parts", count, **more)
    reasons = whole.manifest.report["rows"]["by_reason"]
    assert reasons.keys() >= {
        "duplicate",
        "source is held out",
        "missing target",
        "no known columns in this file",
    }
    assert bool(whole.manifest.report["lossless_text"]) == (not more)
    assert_same(whole, parts)


def test_a_complete_shard_is_kept_and_limits_may_still_change(
    data: dict[str, Any], tmp_path: Path
) -> None:
    few = {"train": data["test"], "validation_fraction": 0.1, "out": tmp_path / "out"}
    first = prepare_shard("1/2", **few)
    again = prepare_shard("1/2", **few, max_target_tokens=8, long_targets="cut")
    assert (first.reused, again.reused) == (False, True)
    (first.path / "rows.arrow").write_bytes(b"")
    assert not prepare_shard("1/2", **few).reused
    with pytest.raises(DataError, match="lacks 1 shard of 2: 2/2") as missing:
        prepare(join=True, **few)
    assert "--shard 2/2" in str(missing.value.hint)
    prepare_shard("2/2", **few)
    with pytest.raises(DataError, match=r"shard 1/2 .*training.seed"):
        prepare(join=True, seed=7, **few)
    prepare_shard("1/3", **few)
    with pytest.raises(DataError, match="different sets, of 2 and 3"):
        prepare(join=True, **few)
    shutil.rmtree(tmp_path / "out.shards/00001-of-00003")
    limit = prepare(join=True, max_target_tokens=8, long_targets="cut", **few)
    assert limit.manifest.report["truncated"]["target"] > 0


def test_a_failed_join_keeps_the_shards_and_leaves_nothing_half_written(
    data: dict[str, Any], tmp_path: Path
) -> None:
    Path(tmp_path / "bad.jsonl").write_text('{"source": "a", "target": ""}\n' * 40)
    few = {"train": f"{tmp_path}/bad.jsonl", "out": tmp_path / "out"}
    for number in (1, 2):
        prepare_shard(f"{number}/2", **few)
    with pytest.raises(DataError, match=r"no row of .*bad.jsonl has .*40 × empty target"):
        prepare(join=True, **few)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "out.shards"]


def test_the_command_and_python_make_and_join_shards(invoke: Any, here: Path) -> None:
    rows = ("prepare", "--data", "demo:validation", "--model", "demo", "--out", "p")
    invoke(*rows, "--shard", "3/2", code=2)
    invoke(*rows, "--shard", "1/2", "--join", code=2)
    made = invoke(*rows, "--shard", "1/2", "--json")
    assert json.loads(made.stdout)["shard"] == [1, 2]
    assert "--join" in made.stderr
    recipe = {"model.name": "demo", "data.train": "demo:validation"}
    same = lora_s2s.prepare(recipe, "p", shard="1/2", progress=False)
    assert (same.reused, same.to_dict()) == (True, json.loads(made.stdout))
    with pytest.raises(lora_s2s.DataError, match="lacks 1 shard of 2: 2/2"):
        lora_s2s.prepare(recipe, "p", join=True, progress=False)
    lora_s2s.prepare(recipe, Path("p"), shard="2/2", progress=False)
    assert json.loads(invoke(*rows, "--join", "--json").stdout)["out"] == "p"
    assert not Path("p.shards").exists()
    assert "train p" in invoke(*rows, "--join").stderr
    assert lora_s2s.prepare(recipe, "p", join=True, progress=False).report["out"] == "p"
    with pytest.raises(lora_s2s.UsageError, match="shard and join exclude each other"):
        lora_s2s.prepare(recipe, shard="1/2", join=True)  # type: ignore[call-overload]
    with pytest.raises(lora_s2s.UsageError, match="invalid shard '3/2'"):
        lora_s2s.prepare(recipe, shard="3/2")


def test_unused_columns_are_hashed_alike_on_every_machine(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"source": "a", "target": "b", "note": note} for note in ("x", ["y", 1.5])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [item.rest for item in read_examples(str(path)) if isinstance(item, Example)]
    assert found == [1002757986877822892, 8886387040738716375]
