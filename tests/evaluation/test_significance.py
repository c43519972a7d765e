"""Intervals and tests: exact properties, values by hand, and rejections and coverage over a few
hundred draws.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from lora_s2s.evaluation import significance
from lora_s2s.evaluation.measured import LabelScores, Measured, RowScores, SumScores
from lora_s2s.evaluation.metrics import METRICS, MODEL_METRICS, compare, measure, score, scores_of
from lora_s2s.evaluation.significance import (
    Values,
    _resamples,
    detectable_difference,
    mean_interval,
    paired_proportions_interval,
    sign_flip_test,
    smallest_p,
    swap_test,
    t_quantile,
    wilson_interval,
)
from lora_s2s.evaluation.sums import chrf_of_sums
from lora_s2s.evaluation.tasks import Scored
from lora_s2s.recipe.fields import UNBOUNDED

KEPT = Path(__file__).parents[2] / "benchmarks" / "results" / "significance.json"
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()


def sentences(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, 6)) for _ in range(count)]


def suited(name: str, text: str) -> str:
    """The text in a form that the metric is for."""
    words = text.split()
    if name.startswith("json"):
        return json.dumps(dict(enumerate(words)))
    return " ".join(str(WORDS.index(word)) for word in words) if "number" in name else text


def brute_force_p(differences: Values) -> float:
    observed = abs(differences.sum())
    sums = [
        abs(np.dot(signs, differences))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return float(np.mean(np.array(sums) >= observed - 1e-12))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 14])
def test_all_signs_are_counted_and_no_p_is_below_what_they_can_give(count: int) -> None:
    differences = np.random.default_rng(count).normal(size=count)
    assert sign_flip_test(differences).p_value == pytest.approx(
        brute_force_p(differences) if count < 14 else sign_flip_test(-differences).p_value
    )
    one_way = np.linspace(0.1, 0.9, count)
    assert (
        sign_flip_test(one_way).p_value
        == pytest.approx(smallest_p(count))
        == pytest.approx(2 / 2**count)
    )


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("name", sorted(set(METRICS) - MODEL_METRICS))
def test_few_sources_prove_nothing_whatever_the_metric(name: str, count: int) -> None:
    truth = [suited(name, f"{text} {text}") for text in sentences(count, 3)]
    right, wrong = (
        measure(texts, [[text] for text in truth], [name], truth)
        for texts in (truth, ["zzz"] * count)
    )
    found = compare(right, wrong)[name]
    for p_value in (found.p_value, found.bootstrap_p_value):
        assert p_value >= 2 / 2**count - 1e-12
        assert p_value > 0.05
    most = found.scale.high
    assert most == (math.inf if name in UNBOUNDED else 100)
    assert -most <= found.interval[0] <= found.value <= found.interval[1] <= most
    json.dumps(found.to_json(), allow_nan=False)


# Those that are left out do not differ between texts of equal length.
@pytest.mark.parametrize(
    "name",
    sorted(set(METRICS) - MODEL_METRICS - {"json_valid", "length_ratio", "repetition_rate"}),
)
@pytest.mark.parametrize("count", [4, 40])
def test_swapping_the_systems_turns_the_sign_and_keeps_the_p_value(name: str, count: int) -> None:
    truth = [[suited(name, text)] for text in sentences(count, 0)]
    sources = [text[0] for text in truth]
    one, two = (
        measure(
            [
                suited(name, mine) if place % step else text[0]
                for place, (mine, text) in enumerate(
                    zip(sentences(count, seed), truth, strict=True)
                )
            ],
            truth,
            [name],
            sources,
        )
        for seed, step in ((1, 2), (2, 3))
    )
    there, back = compare(one, two)[name], compare(two, one)[name]
    assert there.value == pytest.approx(-back.value)
    assert there.p_value == pytest.approx(back.p_value, abs=0.02)
    assert there.bootstrap_p_value == pytest.approx(back.bootstrap_p_value)
    assert there.detectable == pytest.approx(back.detectable)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    same = compare(one, one)[name]
    assert (same.p_value, same.bootstrap_p_value, same.detectable) == (1.0, 1.0, None)
    assert compare(one, measure(sources, truth, [name], sources))[name].p_value < 1.0


def test_proportions_are_tested_by_the_binomial() -> None:
    # 8 of 10 differing sources go one way: 2 · (45 + 10 + 1) / 1024.
    few = np.array([1.0] * 8 + [-1.0] * 2 + [0.0] * 5)
    assert sign_flip_test(few).p_value == pytest.approx(2 * 56 / 1024)
    many = np.concatenate([few, np.zeros(20)])  # from 30 sources on the tie counts by half
    assert sign_flip_test(many).p_value == pytest.approx((2 * 56 - 45) / 1024)
    assert sign_flip_test(np.array([1.0, -1.0] * 20)).p_value == pytest.approx(1.0)
    assert 0 < sign_flip_test(np.ones(5000)).p_value < 1e-200


@pytest.mark.parametrize("count", [20, 30])
@pytest.mark.parametrize(("up", "down"), [(0.172, 0.107), (0.319, 0.181)])
def test_the_interval_of_paired_proportions_covers_95_percent(
    count: int, up: float, down: float
) -> None:
    covered = 0.0
    for better in range(count + 1):
        for worse in range(count + 1 - better):
            (low, high), _ = paired_proportions_interval(better, worse, count)
            if low <= up - down <= high:
                ways = math.comb(count, better) * math.comb(count - better, worse)
                same = (1 - up - down) ** (count - better - worse)
                covered += ways * up**better * down**worse * same
    assert 0.93 < covered < 0.97


def test_drawn_signs_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(1).normal(0.4, 1, size=13)
    exact = sign_flip_test(differences)
    monkeypatch.setattr(significance, "_MOST_ENUMERATED", 2)
    drawn = sign_flip_test(differences)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.015)
    assert drawn.p_value != exact.p_value
    assert (exact.name, drawn.name) == ("sign-flip[exact]", "sign-flip[10000]|seed:12345")


def test_a_mean_by_swaps_is_the_sign_flip_test() -> None:
    generator = np.random.default_rng(5)
    for count in (6, 60):
        one, two = (RowScores("", generator.random(count) ** power) for power in (1, 1.8))
        by_swaps = swap_test(one.value() - two.value(), *one.swapping(two))
        assert by_swaps.p_value == pytest.approx(one.test(two).p_value, abs=0.02)


def macro(count: int, seed: int) -> LabelScores:
    generator = np.random.default_rng(seed)
    truth = np.random.default_rng(9).integers(0, 4, count)
    return LabelScores(
        "",
        truth,
        np.where(generator.random(count) < 0.6, truth, generator.integers(0, 5, count)),
        4,
    )


def chrf(count: int, seed: int) -> SumScores:
    generator = np.random.default_rng(seed)
    length = np.random.default_rng(9).integers(4, 30, (count, 6)).astype(float)
    table = np.stack([length, length, np.floor(length * generator.random((count, 1)))], axis=-1)
    return SumScores("", table.reshape(count, 18), chrf_of_sums)


def kept(measured: Measured, rows: np.ndarray) -> Measured:
    """A system's scores on some of its sources, each as often as it is named."""
    if isinstance(measured, LabelScores):
        return LabelScores("", measured.truth[rows], measured.answers[rows], 4)
    assert isinstance(measured, SumScores)
    return SumScores("", measured.table[rows], measured.total)


@pytest.mark.parametrize("system", [macro, chrf])
def test_what_is_left_without_a_source_and_after_swaps(system: type) -> None:
    one, two = system(12, 1), system(12, 2)

    left = [kept(one, np.arange(12) != place).value() for place in range(12)]
    assert one.without_each() == pytest.approx(left)
    differing, swapped = one.swapping(two)
    nothing, everything = np.zeros((1, differing), dtype=bool), np.ones((1, differing), dtype=bool)
    assert swapped(nothing)[0] == pytest.approx(one.value() - two.value())
    assert swapped(everything)[0] == pytest.approx(two.value() - one.value())


@pytest.mark.parametrize("system", [macro, chrf])
def test_a_resample_is_scored_as_its_sources_would_be(system: type) -> None:
    measured = system(12, 1)
    counts = np.random.default_rng(4).integers(0, 3, (5, 12))
    drawn = [np.repeat(np.arange(12), row) for row in counts]
    scores = [kept(measured, rows).value() for rows in drawn]
    assert measured.resampled(counts.astype(float)) == pytest.approx(scores)


@pytest.mark.parametrize("test_type", ["bs", "ar"])
def test_resamples_and_swaps_are_those_of_sacrebleu(test_type: str) -> None:
    truth = sentences(60, 0)
    answers = [
        [
            mine if place % step else text
            for place, (mine, text) in enumerate(zip(other, truth, strict=True))
        ]
        for other, step in ((sentences(60, 1), 4), (sentences(60, 2), 5))
    ]
    theirs = PairedTest(
        [("one", answers[0]), ("two", answers[1])],
        {"BLEU": BLEU(references=[truth]), "chrF": CHRF(references=[truth])},
        references=None,
        test_type=test_type,
    )
    expected = dict(theirs()[1])
    systems = [measure(texts, [[text] for text in truth], ["bleu", "chrf"]) for texts in answers]
    for name in ("bleu", "chrf"):
        one, two = (system[name] for system in systems)
        their_p = expected[{"bleu": "BLEU", "chrf": "chrF2"}[name]][1].p_value
        if test_type == "ar":
            assert one.test(two).p_value == pytest.approx(their_p, abs=0.02)
            continue
        differences = np.concatenate(
            [one.resampled(counts) - two.resampled(counts) for counts in _resamples(60)]
        )
        sizes = np.abs(differences)
        beyond = (sizes - sizes.mean() > abs(one.value() - two.value())).sum()
        assert their_p == (1 + beyond) / (1 + significance.RESAMPLES)


def test_the_bootstrap_agrees_with_the_randomisation() -> None:
    generator = np.random.default_rng(6)
    one, two = (RowScores("", generator.random(200) ** power) for power in (1, 1.3))
    assert one.bootstrap(two).p_value == pytest.approx(one.test(two).p_value, abs=0.03)
    assert one.bootstrap(two).name == "paired-bootstrap[1000]|seed:12345"


def test_a_detectable_difference_is_found_in_four_of_five_experiments() -> None:
    values = np.array([1.0, -1.0] * 8) / 100  # sd of the mean: 1 / √15 points
    by_hand = (t_quantile(15) + 0.8416) / math.sqrt(15)
    assert RowScores("", values).detectable(RowScores("", values * 0)) == pytest.approx(
        by_hand, abs=1e-3
    )
    generator, found = np.random.default_rng(10), []
    for _ in range(DRAWS):
        noise = generator.normal(0, 0.1, 40)
        least = detectable_difference((noise.sum() - noise) / 39) or 0.0
        found.append(sign_flip_test(noise + least).p_value < 0.05)
    assert 75 <= 100 * np.mean(found) <= 85


def test_quantiles_and_intervals_by_hand() -> None:
    assert [round(t_quantile(df), 3) for df in (1, 4, 9, 10, 19, 120)] == [
        12.706,
        2.776,
        2.262,
        2.228,
        2.093,
        1.980,
    ]
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson_interval(7, 10) == pytest.approx((0.3968, 0.8922), abs=1e-4)
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5])  # not skewed: Student's t
    half = 2.776445 * math.sqrt(0.025 / 5)
    assert mean_interval(values) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-6)
    assert mean_interval(np.array([0.5])) is None
    assert mean_interval(np.full(7, 0.25)) == (0.25, 0.25)
    low, high = mean_interval(np.array([0.0] * 15 + [0.2, 0.3, 0.9, 1.0, 0.8])) or (0.0, 0.0)
    assert high - 0.16 > 0.16 - low  # longer on the side of the skewness


def test_one_source_leaves_every_score_possible() -> None:
    found = score(["a b c"], [["a b d"]], ["rougeL", "bleu", "macro_f1"])
    assert {entry.interval for entry in found.values()} == {(0.0, 100.0)}
    assert all("ci:none" in entry.signature for entry in found.values())
    low, high = score(["a"], [["a"]], ["exact_match"])["exact_match"].interval
    assert (low, high) == pytest.approx((20.65, 100), abs=0.01)


def test_sources_that_are_all_alike_leave_room_for_others() -> None:
    truth, names = [["a b c d"]] * 60, ["exact_match", "bleu", "ter"]
    right, wrong = (measure([text] * 60, truth, names) for text in ("a b c d", "w x y z"))
    scores, differences = scores_of(right), compare(right, wrong)
    unseen = 100 * wilson_interval(0, 60)[1]  # 6 %
    assert scores["exact_match"].interval == pytest.approx((100 - unseen, 100))
    assert scores["bleu"].interval == pytest.approx((100 - unseen, 100))
    assert scores["bleu"].signature.endswith("|ci:wilson-unseen")
    assert differences["bleu"].interval == pytest.approx((100 - 2 * unseen, 100))
    assert "|ci:wilson-unseen|" in differences["bleu"].signature
    assert scores["ter"].interval == (0, 0)  # no limit, no share of it
    # a task of right and one of wrong answers: no source has the mean
    answers = ["a b c d"] * 30 + ["w x y z"] * 30
    scored = Scored(truth, ["bleu"], None, ["a"] * 30 + ["b"] * 30)
    found = scores_of(scored.measured(answers, None))["bleu"]
    assert (found.value, found.interval) == (50, pytest.approx((50 - unseen / 2, 50 + unseen / 2)))


DRAWS = 400


def skewed(generator: np.random.Generator, count: int) -> Values:
    return generator.beta(0.5, 2, count)


def binary(generator: np.random.Generator, count: int) -> Values:
    return (generator.random(count) < 0.6).astype(float)


@pytest.mark.parametrize("draw", [skewed, binary])
@pytest.mark.parametrize(("count", "least", "most"), [(2, 0, 0), (5, 0, 0), (10, 0, 7), (30, 2, 8)])
def test_rejections_without_a_difference(draw: type, count: int, least: float, most: float) -> None:
    generator = np.random.default_rng(7)
    systems = [[RowScores("", draw(generator, count)) for _ in "ab"] for _ in range(DRAWS)]
    for values in (
        [one.test(two).p_value for one, two in systems],
        [one.bootstrap(two).p_value for one, two in systems],
    ):
        assert least <= 100 * np.mean(np.array(values) < 0.05) <= most


@pytest.mark.parametrize(("draw", "truth"), [(skewed, 20.0), (binary, 60.0)])
def test_intervals_have_the_truth(draw: type, truth: float) -> None:
    generator = np.random.default_rng(8)
    found = [
        scores_of({"m": RowScores("", draw(generator, 20))})["m"].interval for _ in range(DRAWS)
    ]
    assert 92 <= 100 * np.mean([low <= truth <= high for low, high in found]) <= 98


def test_the_kept_simulation_holds_what_is_promised() -> None:
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    assert kept["draws"] >= 2000
    assert all(row["rejected_percent"] <= 7 for row in kept["no_difference"])
    assert all(
        row["rejected_percent"] >= 3 for row in kept["no_difference"] if row["sources"] >= 30
    )
    for row in kept["coverage"]:
        sides = (row["score_percent"], row["difference_percent"])
        assert row["sources"] < 20 or all(93 <= side <= 97 for side in sides), row
    assert kept["outside"] == []
    assert {2, 3, 5, 10, 30, 100, 300} == {row["sources"] for row in kept["no_difference"]}
