"""What ``auto`` chooses: pure, bounded, and never in place of what the user set."""

from __future__ import annotations

from typing import Any

import pytest

from lora_s2s.recipe.defaults import Facts, Lengths, expected_steps, explanation, resolve
from lora_s2s.recipe.fields import AUTO
from lora_s2s.recipe.load import recipe_from_settings, recipe_to_yaml, with_choices_of
from lora_s2s.recipe.schema import Recipe

DEMO, BASE, XXL = 4_559_488, 247_577_856, 11_135_332_352


def recipe_with(*words: str) -> Recipe:
    return recipe_from_settings("x", ["model.name=demo", "data.train=a.csv", *words])


def facts(rows: int, *, source: int = 30, target: int = 10, **changes: Any) -> Facts:
    """Rows of one length, with a twentieth held out."""
    sides = {
        name: Lengths(total=rows * size, p50=size, p95=size, p99=size, longest=size)
        for name, size in (("source", source), ("target", target))
    }
    held_out = rows * (source + target) // 20
    given = {
        "distinct_targets": rows,
        "validation_tokens": held_out,
        "parameters": DEMO,
        "device": "cpu",
    }
    return Facts(**{"rows": rows, **sides, **given, **changes})


@pytest.mark.parametrize("rows", [200, 500, 2_400, 7_000, 13_000])
def test_small_data_gets_500_to_3000_steps(rows: int) -> None:
    resolved = resolve(recipe_with(), facts(rows))
    assert 500 <= expected_steps(resolved.training, facts(rows)) <= 3_000


def test_large_data_gets_one_to_three_passes_and_a_cpu_no_more_than_it_computes_in_minutes() -> (
    None
):
    epochs = [
        resolve(recipe_with(), facts(rows, device="cuda")).training.epochs
        for rows in (40_000, 70_000, 10**6)
    ]
    assert epochs == [3, 2, 1]
    assert resolve(recipe_with(), facts(1_000_000)).training.epochs == 1
    assert resolve(recipe_with(), facts(13_000, source=200, target=100)).training.epochs == 1


def test_a_cpu_too_slow_for_a_base_still_takes_500_steps_of_small_batches() -> None:
    for rows in (300, 2_400, 13_000):
        slow = facts(rows, parameters=BASE)
        training = resolve(recipe_with(), slow).training
        assert expected_steps(training, slow) >= 450
        assert training.settled().tokens_per_batch <= 1_024


def test_the_rate_falls_with_the_size_of_the_base() -> None:
    rates = [
        resolve(recipe_with(), facts(2_400, parameters=n)).training.learning_rate
        for n in (DEMO, BASE, XXL)
    ]
    assert rates == [3e-3, 9e-4, 3e-4]
    scaled = resolve(recipe_with("lora.method=rslora"), facts(2_400)).training.learning_rate
    assert isinstance(scaled, float)
    assert scaled < 3e-3
    whole = resolve(recipe_with("lora.method=full"), facts(2_400, parameters=BASE))
    assert whole.training.learning_rate == 2e-4
    relative = resolve(recipe_with("training.optimizer=adafactor"), facts(2_400))
    assert relative.training.learning_rate == 1e-2


def test_nothing_stays_automatic_and_nothing_given_is_changed() -> None:
    given = recipe_with()
    before = given.model_dump()
    resolved = resolve(given, facts(2_400))
    assert given.model_dump() == before
    assert AUTO not in resolved.training.model_dump().values()
    resolved.training.settled()
    words = "epochs=2", "tokens_per_batch=512", "learning_rate=1e-4", "evaluate_every=7"
    fixed = recipe_with(*(f"training.{word}" for word in words))
    assert resolve(fixed, facts(2_400)) == fixed
    assert explanation(fixed, facts(2_400)) is None


def test_what_is_given_shapes_what_is_chosen() -> None:
    few = resolve(recipe_with("training.max_steps=50"), facts(2_400)).training
    assert (few.max_steps, few.settled().max_steps) == (50, 50)
    by_rows = resolve(recipe_with("training.batch_size=4"), facts(2_400)).training
    assert (by_rows.batch_size, by_rows.tokens_per_batch) == (4, None)
    whole = resolve(recipe_with(), facts(2_400)).training
    parts = resolve(recipe_with("training.gradient_accumulation=4"), facts(2_400)).training
    assert isinstance(whole.tokens_per_batch, int)
    assert isinstance(parts.tokens_per_batch, int)
    assert parts.tokens_per_batch < whole.tokens_per_batch


def test_a_run_that_goes_on_keeps_the_numbers_it_began_with() -> None:
    begun = resolve(recipe_with(), facts(2_400))
    again = with_choices_of(recipe_with(), begun)
    assert again == begun
    assert resolve(again, facts(9_000, parameters=BASE)) == begun
    assert recipe_to_yaml(again) == recipe_to_yaml(begun)
    assert (
        with_choices_of(recipe_with("training.learning_rate=2e-4"), begun).training.learning_rate
        == 2e-4
    )


def test_the_line_says_what_was_chosen_and_from_what() -> None:
    line = explanation(recipe_with("training.epochs=2"), facts(2_400))
    assert line is not None
    for word in (
        "2,400 rows of 40 tokens",
        "4.6 M parameters",
        "learning_rate 0.003",
        "tokens_per_batch",
    ):
        assert word in line
    assert "epochs" not in line
