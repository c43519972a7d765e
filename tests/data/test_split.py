"""Splits by source: stable, disjoint, about as large as asked."""

from __future__ import annotations

import pytest

from lora_s2s.data.split import split_of, validation_sources

SOURCES = [f"source {number}" for number in range(4000)]


def test_about_the_fraction_and_stable_when_rows_are_added() -> None:
    chosen = validation_sources(SOURCES, 0.05, seed=1)
    assert 0.035 < len(chosen) / len(SOURCES) < 0.065
    assert validation_sources([*SOURCES, *(f"new {number}" for number in range(999))], 0.05, 1) & set(SOURCES) == chosen
    assert validation_sources(reversed(SOURCES), 0.05, seed=1) == chosen
    assert validation_sources(SOURCES, 0.05, seed=2) != chosen
    assert all(split_of(source, 0.05, 1) == "validation" for source in chosen)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_few_sources_still_give_both_sides(fraction: float) -> None:
    assert 0 < len(validation_sources(SOURCES[:5], fraction, seed=1)) < 5


def test_nothing_is_split_off_one_source_or_for_fraction_zero() -> None:
    assert validation_sources(["a", "a"], 0.5, seed=1) == set()
    assert validation_sources(SOURCES, 0.0, seed=1) == set()
