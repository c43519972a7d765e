"""Combinations of metrics, and functions of a user's own."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation.combined import Combined, combine
from lora_s2s.evaluation.measured import Better, RowScores, SumScores
from lora_s2s.evaluation.metrics import compare, measure, score, without_value
from lora_s2s.evaluation.sums import f1_of_sums
from lora_s2s.recipe.combinations import read_combination

TRUTH = [[text] for text in ("the cat sat on a mat", "a dog runs home", "we eat fish now", "x y z")]
ONE = ["the cat sat on the mat", "a dog ran home", "we eat the fish", "x y"]
OTHER = ["the cat", "dogs run to a home", "we eat fish now", "z"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("sqrt(bleu*chrf++)", lambda bleu, chrf, ter: math.sqrt(bleu * chrf)),
        ("(bleu + chrf++) / 2", lambda bleu, chrf, ter: (bleu + chrf) / 2),
        ("2*bleu-ter/-4", lambda bleu, chrf, ter: 2 * bleu + ter / 4),
        ("chrf++ + bleu", lambda bleu, chrf, ter: chrf + bleu),
    ],
)
def test_a_combination_is_computed_from_its_metrics(text: str, value: type) -> None:
    names = ["bleu", "chrf++", "ter"]
    parts = [score(ONE, TRUTH, [name])[name].value for name in names]
    found = score(ONE, TRUTH, ["bleu", text])
    assert list(found) == ["bleu", text]
    assert found[text].value == pytest.approx(value(*parts), abs=1e-12)
    assert found[text].signature.startswith(f"{text}|")
    assert "|tok:13a|" in found[text].signature


def test_every_resample_is_combined() -> None:
    text = "sqrt(bleu*chrf++)"
    one, two = (measure(texts, TRUTH, [text])[text] for texts in (ONE, OTHER))

    def value(places: list[int], answers: list[str]) -> float:
        kept = [answers[place] for place in places], [TRUTH[place] for place in places]
        return score(*kept, [text])[text].value

    every = list(range(4))
    left = [value([place for place in every if place != out], ONE) for out in every]
    assert one.without_each() == pytest.approx(left)
    differences = []
    for swap in itertools.product((False, True), repeat=4):
        swapped = [
            (OTHER[place], ONE[place]) if swap[place] else (ONE[place], OTHER[place])
            for place in every
        ]
        mine, theirs = (list(side) for side in zip(*swapped, strict=True))
        differences.append(abs(value(every, mine) - value(every, theirs)))
    found = compare({text: one}, {text: two})[text]
    assert found.value == pytest.approx(value(every, ONE) - value(every, OTHER))
    assert found.p_value == pytest.approx(np.mean(np.array(differences) >= found.value - 1e-9))
    assert found.interval[0] < found.value < found.interval[1]


def test_intervals_of_a_combination_have_the_truth() -> None:
    generator, population, draws = np.random.default_rng(4), 20_000, 1000
    text = "sqrt(bleu*chrf)"
    combination = read_combination(text, ["bleu", "chrf"])
    ease = generator.random(population)
    systems = []
    for _ in range(2):  # no difference but by chance
        rows = generator.beta(0.5 + ease, 1.5 - ease)
        shared = generator.binomial(12, rows)
        systems.append((rows, np.stack([shared, np.full(population, 24)], axis=1).astype(float)))

    def measured(system: int, places: NDArray[np.int64]) -> Combined:
        rows, table = (values[places] for values in systems[system])
        parts = {"bleu": RowScores("", rows), "chrf": SumScores("", table, f1_of_sums)}
        return combine(text, combination, parts)

    truth, held = measured(0, np.arange(population)).value(), np.zeros(2)
    for _ in range(draws):
        places = generator.integers(0, population, 30)
        one, two = (measured(system, places) for system in (0, 1))
        ends = (one.interval()[0], one.difference_interval(two)[0])
        held += [low <= value <= high for (low, high), value in zip(ends, (truth, 0), strict=True)]
    assert all(93 <= 100 * share <= 97.5 for share in held / draws)


@pytest.mark.parametrize(
    ("text", "low", "high", "better"),
    [
        ("sqrt(bleu*chrf++)", 0, 100, "higher"),
        ("100-ter", -math.inf, 100, "higher"),
        ("bleu/ter", 0, math.inf, "higher"),
        ("2*ter", 0, math.inf, "lower"),
        ("-bleu/2", -50, 0, "lower"),
        ("bleu/(1+ter)", 0, 100, "higher"),
        ("bleu*-1+ter", -100, math.inf, "lower"),
        ("bleu+ter", 0, math.inf, "neither"),
        ("bleu-chrf", -100, 100, "neither"),
        ("bleu/(chrf-50)", -math.inf, math.inf, "neither"),
        ("(bleu-50)*chrf", -5000, 5000, "neither"),
    ],
)
def test_bounds_and_direction_follow(text: str, low: float, high: float, better: Better) -> None:
    found = score(ONE, TRUTH, [text])[text]
    assert (found.scale.low, found.scale.high, found.scale.better) == (low, high, better)
    assert low <= found.interval[0] <= found.value <= found.interval[1] <= high
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("sqrt(blue*chrf)", "unknown metric 'blue' (did you mean 'bleu'?)"),
        ("rougel", "unknown metric 'rougel' (did you mean 'rougeL'?)"),
        ("bleu**2", "'bleu ** 2' is not a metric"),
        ("bleu//2", "is not a metric"),
        ("+bleu", "'+bleu' is not a metric"),
        ("sqrt(bleu", "cannot be read"),
        ("sqrt()", "'sqrt()' is not a metric"),
        ("sqrt(*bleu)", "'*bleu' is not a metric"),
        ("exp(bleu)", "'exp(bleu)' is not a metric"),
        ("bleu.real", "'bleu.real' is not a metric"),
        ("bleu+1e10", "above 1,000,000,000"),
        ("bleu+1e999", "above 1,000,000,000"),
        ("1+2", "names no metric"),
        ("2j*bleu", "'2j' is not a metric"),
        ("__import__('os')", "unknown metric"),
        ("auto*bleu", "unknown metric 'auto'"),
        ("bleu\n", "unknown metric"),
        ("(" * 199, "cannot be read"),
        ("-" * 190 + "bleu/", "cannot be read"),
        ("bleu+" * 100 + "bleu", "unknown metric"),
    ],
)
def test_nothing_but_the_grammar_is_read(text: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        score(ONE, TRUTH, [text])
    assert part in caught.value.message
    assert "combinations such as sqrt(bleu*chrf++), or module:function" in str(caught.value.hint)


def test_a_value_that_is_no_number_is_named_and_its_interval_is_open() -> None:
    perfect = measure([texts[0] for texts in TRUTH], TRUTH, ["bleu/ter", "bleu"])
    worse = measure(ONE, TRUTH, ["bleu/ter", "bleu"])
    assert without_value(worse) == []
    assert without_value(worse, perfect) == ["bleu/ter"]
    nearly = [TRUTH[0][0], *(texts[0] for texts in TRUTH[1:3]), "x y"]
    found = score(nearly, TRUTH, ["bleu/ter"])["bleu/ter"]  # without the last, ter is 0
    assert math.isfinite(found.value)
    assert found.interval == (0.0, math.inf)


OWN = """
def letters(answer, references): return len(answer)
letters.lower_is_better = True
def copied(answer, references, source): return answer == source
def some(answer, references): return None if 'dog' in references[0] else 4
def nan(answer, references): return float('nan')
def fails(answer, references): return references[7]
def text(answer, references): return 'high'
def nothing(answer, references): return None
number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_metrics_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_function_of_ones_own_is_averaged_in_its_own_unit(own: str) -> None:
    names = [f"{own}:letters", f"{own}:copied", f"{own}:some"]
    found = score(ONE, TRUTH, names, ["x", "a dog ran home", "y", "z"])
    letters, copied, some = found.values()
    assert letters.value == np.mean([len(text) for text in ONE])
    assert letters.lower_is_better
    assert letters.interval[0] < letters.value < letters.interval[1]
    assert f"|own:{own}:letters|" in letters.signature
    assert (copied.value, copied.lower_is_better) == (0.25, False)
    assert (some.value, some.n) == (4.0, 3)


@pytest.mark.parametrize(
    ("function", "part"),
    [
        ("nan", "returned nan; expected a finite number or None"),
        ("fails", "failed: IndexError"),
        ("text", "failed: ValueError"),
        ("nothing", "returned None for every source"),
        ("missing", "cannot be imported"),
        ("number", "is not a function"),
    ],
)
def test_a_function_that_fails_is_named(own: str, function: str, part: str) -> None:
    with pytest.raises((UsageError, DataError)) as caught:
        score(ONE, TRUTH, [f"{own}:{function}"])
    assert f"{own}:{function}" in caught.value.message
    assert part in caught.value.message
