"""Splits by source: stable, disjoint, about as large as asked, a row of every class; duplicates,
leaks, weights.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lora_s2s.data.split import (
    DUPLICATE,
    LEAKED,
    SET_ASIDE,
    TEST,
    TRAIN,
    VALIDATION,
    Decisions,
    decide,
    joined,
    keys_of,
)
from lora_s2s.examples.example import Example

SOURCES = [f"source {number}" for number in range(4000)]


def pairs(*texts: str, weight: float = 1.0) -> list[Example]:
    return [Example(*text.split("/"), "a:1", weight=weight) for text in texts]


def decided(*splits: list[Example], fraction: float = 0.05, seed: int = 1) -> Decisions:
    return decide(
        joined(
            [keys_of(rows, [split] * len(rows), seed) for split, rows in enumerate(splits) if rows]
        ),
        fraction,
    )


def held_out(sources: list[str], fraction: float = 0.05, seed: int = 1) -> set[str]:
    code = decided(
        [Example(source, f"to {source}", "a:1") for source in sources], fraction=fraction, seed=seed
    ).code
    return {source for source, chosen in zip(sources, code == VALIDATION, strict=True) if chosen}


def test_about_the_fraction_and_stable_when_rows_are_added() -> None:
    chosen = held_out(SOURCES)
    assert 0.035 < len(chosen) / len(SOURCES) < 0.065
    assert (
        held_out([*SOURCES, *(f"new {number}" for number in range(999))]) & set(SOURCES) == chosen
    )
    assert held_out(SOURCES[::-1]) == chosen
    assert held_out(SOURCES, seed=2) != chosen
    assert chosen < held_out(SOURCES, 0.1)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_few_sources_still_give_both_sides(fraction: float) -> None:
    assert 0 < len(held_out(SOURCES[:5], fraction)) < 5


def test_nothing_is_split_off_one_source_or_for_fraction_zero() -> None:
    assert not held_out(["a"], 0.5)
    assert not held_out(SOURCES, 0.0)


def test_rows_of_one_source_or_group_stay_together() -> None:
    rows = [Example(f"s {n // 3}", f"t {n}", "a:1") for n in range(3000)]
    grouped = [replace(row, source=f"other {n}", group=row.source) for n, row in enumerate(rows)]
    for examples in (rows, grouped):
        code = decided(examples, fraction=0.3).code.reshape(-1, 3)
        assert (code == code[:, :1]).all()
        assert (code == VALIDATION).any()


def test_every_class_has_a_row_held_out_where_targets_are_few() -> None:
    rows = [Example(f"s {n}", "common", "a:1") for n in range(900)]
    rows += [Example(f"r {n}", f"rare {n % 3}", "a:1") for n in range(9)]
    found = decided(rows, fraction=0.05)
    targets = {row.target for row, code in zip(rows, found.code, strict=True) if code == VALIDATION}
    assert targets == {"common", "rare 0", "rare 1", "rare 2"}
    assert found.classes == 4
    assert decided([replace(row, target=f"{n}") for n, row in enumerate(rows)]).classes == 0


def test_duplicates_are_exact_pairs_of_train_the_first_one_stays() -> None:
    code = decided(pairs("a/b", "a/c", "a/b", "A/b", "a/b", "c/b"), pairs("v/x", "v/x")).code
    assert code.tolist() == [
        TRAIN,
        TRAIN,
        DUPLICATE,
        TRAIN,
        DUPLICATE,
        TRAIN,
        VALIDATION,
        VALIDATION,
    ]


def test_what_is_held_out_leaves_train() -> None:
    found = decided(pairs("a/1", "b/2", "c/3"), pairs("b/9", "b/8"), pairs("c/3", "d/4"))
    assert found.code.tolist() == [TRAIN, LEAKED, LEAKED, VALIDATION, VALIDATION, TEST, TEST]
    assert found.leaked == 3


def test_a_weight_repeats_rows_or_sets_some_aside() -> None:
    names = [f"{n}/{n}" for n in range(2000)]
    half, twice, plain = (
        decided(pairs(*names, weight=weight), fraction=0) for weight in (0.5, 2.0, 1.0)
    )
    assert 900 < (half.code == SET_ASIDE).sum() < 1100
    assert set(half.copies[half.code == TRAIN].tolist()) == {1}
    assert set(twice.copies.tolist()) == {2}
    assert set(plain.copies.tolist()) == {1}
    more = decided(pairs(*names, weight=1.25), fraction=0).copies
    assert 2400 < int(np.sum(more)) < 2600


def test_what_is_held_out_stands_once_whatever_its_weight() -> None:
    names = [f"{n}/{n}" for n in range(2000)]
    for weight in (0.25, 3.0):
        found = decided(pairs(*names, weight=weight), fraction=0.2)
        assert set(found.copies[found.code == VALIDATION].tolist()) == {1}
        assert 300 < (found.code == VALIDATION).sum() < 500
        assert not (found.copies[found.code == TRAIN] == 0).any()
