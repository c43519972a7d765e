"""Limits that are ``auto``: what the data needs, within a cap, the base's positions and the
machine's memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from read_and_prepare import prepare

from lora_s2s.data import limits
from lora_s2s.data.limits import Bounds, choose_limits
from lora_s2s.data.prepared import PreparedDataset

Write = Callable[[str, str], str]
GIB = 1 << 30


def chosen(
    sources: list[int], targets: list[int], bounds: Bounds = limits.UNBOUNDED, **asked: Any
) -> list[Any]:
    lengths = {"source": np.bincount(sources), "target": np.bincount(targets)}
    found = choose_limits({"source": "auto", "target": "auto", **asked}, lambda: lengths, bounds)
    return [(limit.tokens, limit.by) for limit in found.values()]


@pytest.mark.parametrize(
    ("lengths", "limit"),
    [
        ([7] * 50, 16),  # no less than 16 source tokens
        ([33] * 50, 40),
        ([128] * 50, 128),
        ([129] * 50, 192),
        ([40] * 999 + [80], 80),  # the longest is no outlier: no row is lost to it
        ([40] * 999 + [400], 40),
        ([40] * 99 + [400], 400 + 48),  # one row in a hundred is no outlier
    ],
)
def test_a_limit_is_the_longest_or_the_99th_percentile_rounded_up(
    lengths: list[int], limit: int
) -> None:
    assert chosen(lengths, [8])[0] == (limit, "data")


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(), [(1024, "cap"), (512, "cap")]),
        (Bounds(positions=1024), [(1024, "positions"), (512, "cap")]),
        (Bounds(positions=300), [(300, "positions"), (300, "positions")]),
        (
            Bounds(memory=8 * GIB, row_bytes=lambda s, t: (s + t) << 20),
            [(1024, "cap"), (512, "cap")],
        ),
        (
            Bounds(memory=4 * GIB, row_bytes=lambda s, t: (s + t) << 20),
            [(512, "memory"), (512, "cap")],
        ),
        (
            Bounds(memory=GIB, row_bytes=lambda s, t: (s + t) << 20),
            [(16, "memory"), (192, "memory")],
        ),
        (Bounds(memory=GIB), [(1024, "cap"), (512, "cap")]),
    ],
)
def test_a_limit_keeps_to_cap_positions_and_memory(bounds: Bounds, expected: list[Any]) -> None:
    assert chosen([3000] * 9, [900] * 9, bounds) == expected


def test_what_the_recipe_says_stands() -> None:
    tight = Bounds(positions=20, memory=1, row_bytes=lambda *_: GIB)
    assert chosen([90], [90], tight, source=70, target=60) == [(70, "recipe"), (60, "recipe")]
    assert chosen([90], [90], tight, source=70) == [(70, "recipe"), (8, "memory")]


def rows(count: int, long: int = 0) -> str:
    made = [
        {"source": f"count from {n}", "target": " ".join(["1"] * (5 if n >= long else 60))}
        for n in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in made)


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., PreparedDataset]:
    return lambda path, **more: prepare(train=path, model_name="demo", out=tmp_path / "out", **more)


def test_the_numbers_stand_in_manifest_and_report(
    write: Write, prepared: Callable[..., PreparedDataset]
) -> None:
    data = prepared(write("a.jsonl", rows(40)))
    longest = data.report["target_tokens"]["max"]
    limit = data.manifest.input.max_target_tokens
    assert longest <= limit < longest + 8
    assert data.manifest.input.max_source_tokens == 16
    assert data.report["limits"]["max_target_tokens"] == {"tokens": limit, "by": "data"}
    assert data.report["truncated"] == {"source": 0, "target": 0}


def test_a_folder_is_used_again_by_auto_and_by_the_numbers_that_came_out(
    write: Write, prepared: Callable[..., PreparedDataset]
) -> None:
    path = write("a.jsonl", rows(40))
    first = prepared(path)
    numbers = {
        key: getattr(first.manifest.input, key)
        for key in ("max_source_tokens", "max_target_tokens")
    }
    assert prepared(path).reused
    assert prepared(path, **numbers).reused
    assert not prepared(path, **{**numbers, "max_target_tokens": 99}).reused
    assert not prepared(path).reused  # what stands there was not chosen by the data
    assert prepared(path).fingerprint == first.fingerprint


def test_a_sample_sets_the_limits_of_many_rows(
    write: Write, prepared: Callable[..., PreparedDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_SAMPLE", 300)
    path = write("a.jsonl", rows(3000, long=600))
    first = prepared(path, seed=1)
    assert (
        first.report["limits"]["max_target_tokens"]["tokens"]
        >= first.report["target_tokens"]["max"]
    )
    assert first.report["rows"]["rejected"] == 0
