"""Tokenising batch by batch: the same rows, whatever the size of a batch."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from read_and_prepare import prepare

from lora_s2s.data import spool
from lora_s2s.data.prepared import PreparedDataset

WORDS = "the name of a place near that river where people eat and drink { } é 世 <b> </s>".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pairs with duplicates, long and bad rows, and conversations that are cut."""
    folder, chance = tmp_path_factory.mktemp("data"), random.Random(0)

    def text(most: int) -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, most)))

    pairs: list[Any] = [{"source": text(40), "target": text(20)} for _ in range(3000)]
    pairs[100:120] = pairs[:20]
    pairs[200:205] = [{"source": "x"}] * 5
    talks = [
        [
            {"from": ("human", "gpt")[turn % 2], "value": text(25)}
            for turn in range(chance.randint(2, 9))
        ]
        for _ in range(400)
    ]
    rows = {"pairs": pairs, "talks": [{"conversations": talk} for talk in talks]}
    rows["test"] = [{"source": text(60), "target": text(60)} for _ in range(100)] + pairs[:3]
    for name, listed in rows.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in listed), encoding="utf-8"
        )
    return {name: str(folder / f"{name}.jsonl") for name in rows}


def prepared(data: dict[str, str], out: Path, **settings: Any) -> PreparedDataset:
    return prepare(
        train=[data["pairs"], f"{data['talks']}@1.5"],
        test=data["test"],
        model_name="demo",
        out=out,
        max_source_tokens=48,
        max_target_tokens=24,
        validation_fraction=0.1,
        max_rejected=1.0,
        **settings,
    )


def test_every_row_is_accounted_for(data: dict[str, str], tmp_path: Path) -> None:
    one = prepared(data, tmp_path / "out")
    report = one.report
    files = {path.name for path in one.path.iterdir()} - {"manifest.json"}
    arrow = {f"{split}.arrow" for split in ("train", "validation", "test")}
    assert files == {*arrow, "rejected.jsonl", "report.html"}
    assert report["truncated"]["source"] > 100
    assert report["rows"]["by_reason"].keys() >= {
        "duplicate",
        "source is held out",
        "missing target",
        "target longer than 24 tokens",
    }
    assert report["lossless_text"]
    turns = [source for source in one.train.sources() if source.endswith("assistant:")]
    # Some lost their first turn.
    assert {source.split(":")[0] for source in turns} >= {"user", "assistant"}


def test_the_size_of_a_batch_changes_nothing_but_the_file(
    data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = prepared(data, tmp_path / "large")
    monkeypatch.setattr(spool, "ROWS", 17)
    monkeypatch.setattr(spool, "CHARACTERS", 2000)
    small = prepared(data, tmp_path / "small")
    assert small.report["rows"] == large.report["rows"]
    assert {**small.report, "out": ""} == {**large.report, "out": ""}
    assert small.preview == large.preview
    for split in ("train", "validation", "test"):
        one, two = large.split(split), small.split(split)
        assert one is not None
        assert two is not None
        assert one.origins() == two.origins()
        assert one.sources() == two.sources()
        for row in range(0, len(one), 7):
            for side in ("input_ids", "labels"):
                assert (
                    getattr(one.features(row), side).tolist()
                    == getattr(two.features(row), side).tolist()
                )


def test_a_failure_in_the_middle_leaves_nothing(
    data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "ROWS", 64)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lora_s2s.data.prepared.SplitWriter.add", full)
    with pytest.raises(OSError, match="No space"):
        prepared(data, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
