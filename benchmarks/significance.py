"""What p-values and intervals hold: rejections without a real difference, and how often an interval
has the truth.

python benchmarks/significance.py          about 5 minutes on one core; writes
benchmarks/results/significance.json

Sources are drawn again and again from populations whose truth is known. Without a real difference,
two systems are exchangeable on every source; p < 0.05 should then come in 5 % of draws (3 to 7 %
from 30 sources on, at most 7 % below), by approximate randomisation and by the paired bootstrap. A
95 % interval should hold the population's score in 93 to
97 % of draws from 20 sources on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF
from train_and_score import RESULTS

from lora_s2s.evaluation import significance
from lora_s2s.evaluation.measured import (
    LabelScores,
    Measured,
    RowScores,
    SumScores,
)
from lora_s2s.evaluation.metrics import compare, scores_of
from lora_s2s.evaluation.sums import bleu_of_sums, chrf_of_sums

NULL_SOURCES = (2, 3, 5, 10, 30, 100, 300)
COVERAGE_SOURCES = (10, 20, 30, 100, 300)
POPULATION = 20_000
WORDS = 3_000
LABELS = 6
SEED = 20_261

Array = NDArray[Any]
Generator = np.random.Generator


@dataclass(frozen=True)
class Population:
    """Systems on the same sources: two without a real difference between them, and one that is
    better.

    ``build`` measures one system on some of the sources.
    """

    kind: str
    one: Array
    other: Array
    better: Array
    build: Callable[[Array, Array], Measured]

    def measured(self, system: Array, sources: Array) -> Measured:
        return self.build(system[sources], sources)


def rows(kind: str, draw: Callable[[Generator, Array], Array], generator: Generator) -> Population:
    """A population of scores per source: ``draw`` gives scores for the difficulty of every
    source.
    """
    ease = generator.random(POPULATION)
    one, other, better = (
        draw(generator, chances) for chances in (ease, ease, np.minimum(1.0, ease + 0.15))
    )
    return Population(kind, one, other, better, lambda values, _: RowScores("", values))


def beta(
    first: float, second: float, zeros: float = 0.0, ones: float = 0.0
) -> Callable[[Generator, Array], Array]:
    """Draws scores around the source's ease, a share of them 0 and a share 1."""

    def draw(generator: Generator, ease: Array) -> Array:
        values = generator.beta(first * (0.5 + ease), second * (1.5 - ease))
        extreme = generator.random(len(ease))
        return np.where(
            extreme < zeros * (1.5 - ease),
            0.0,
            np.where(extreme > 1 - ones * (0.5 + ease), 1.0, values),
        )

    return draw


def right(power: float, spread: float) -> Callable[[Generator, Array], Array]:
    """Draws right or wrong: with ``spread`` 0 all sources are equally easy, with 1 some are always
    right.
    """

    def draw(generator: Generator, ease: Array) -> Array:
        chance = (spread * ease + (1 - spread) * ease.mean()) ** power
        return (generator.random(len(ease)) < chance).astype(np.float64)

    return draw


def corpora(generator: Generator) -> list[Population]:
    """BLEU and chrF of made-up sentences: references of Zipf's words, answers with words changed,
    dropped or added.
    """
    alphabet = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(
        ["".join(generator.choice(alphabet, generator.integers(2, 9))) for _ in range(WORDS)]
    )
    chances = 1 / np.arange(1, WORDS + 1)
    chances /= chances.sum()

    def answer(reference: Array, rate: float) -> str:
        fate, others = (
            generator.random(len(reference)),
            generator.choice(words, len(reference), p=chances),
        )
        kept = np.where(fate < 0.6 * rate, others, reference)
        parts = [
            ""
            if 0.6 * rate <= luck < 0.8 * rate
            else f"{word} {other}"
            if 0.8 * rate <= luck < rate
            else word
            for word, other, luck in zip(kept, others, fate, strict=True)
        ]
        return " ".join(filter(None, parts))

    references, systems = [], ([], [], [])
    for _ in range(POPULATION):
        length = int(np.clip(generator.lognormal(2.3, 0.6), 2, 60))
        reference, rate = generator.choice(words, length, p=chances), generator.beta(2, 3)
        references.append(" ".join(reference))
        for system, factor in zip(systems, (1.0, 1.0, 0.8), strict=True):
            system.append(answer(reference, factor * rate))
    populations = []
    for kind, scorer, total in (("BLEU", BLEU(), bleu_of_sums), ("chrF", CHRF(), chrf_of_sums)):
        tables = [
            np.array(scorer._extract_corpus_statistics(texts, [references]), dtype=float)
            for texts in systems
        ]
        populations.append(
            Population(kind, *tables, lambda table, _, total=total: SumScores("", table, total))
        )
    return populations


def labels(generator: Generator) -> Population:
    """Macro-F1 of six classes, the rarest a tenth of the commonest."""
    chances = np.linspace(1.0, 0.1, LABELS)
    truth = generator.choice(LABELS, POPULATION, p=chances / chances.sum())
    ease = generator.beta(2, 1, POPULATION)

    def answered(ease: Array) -> Array:
        guess = generator.integers(0, LABELS + 1, POPULATION)  # the last is no class
        return np.where(generator.random(POPULATION) < ease, truth, guess)

    return Population(
        "macro-F1, 6 classes",
        answered(ease),
        answered(ease),
        answered(np.minimum(1.0, ease + 0.1)),
        lambda answers, sources: LabelScores("", truth[sources], answers, LABELS),
    )


def populations(generator: Generator) -> list[Population]:
    """Every population that is simulated."""
    return [
        rows("scores of rows, continuous", beta(2, 2), generator),
        rows("scores of rows, skewed", beta(0.5, 2), generator),
        rows("scores of rows, half of them zero", beta(2, 2, zeros=0.5), generator),
        rows("scores of rows, 60 % of them 100", beta(2, 2, ones=0.6), generator),
        rows("right or wrong, 50 %, sources alike", right(1, 0), generator),
        rows("right or wrong, 50 %, easy and hard sources", right(1, 1), generator),
        rows("right or wrong, 80 %, sources alike", right(0.32, 0), generator),
        rows("right or wrong, 25 %, sources alike", right(2, 0), generator),
        *corpora(generator),
        labels(generator),
    ]


def rejections(
    population: Population, count: int, draws: int, generator: Generator
) -> dict[str, Any]:
    """Tests pairs of exchangeable systems on ``count`` sources, again and again."""
    values, by_bootstrap = np.empty(draws), np.empty(draws)
    theirs = np.empty(draws)
    for index in range(draws):
        sources = generator.integers(0, POPULATION, count)
        pair = (
            population.measured(system, sources) for system in (population.one, population.other)
        )
        first, second = ({"m": measured} for measured in pair)
        found = compare(first, second)["m"]
        values[index], by_bootstrap[index] = found.p_value, found.bootstrap_p_value
        theirs[index] = sacrebleu_p(first["m"], second["m"], count)
    percent = [round(100 * float((p < 0.05).mean()), 2) for p in (values, by_bootstrap, theirs)]
    return {
        "population": population.kind,
        "sources": count,
        "rejected_percent": percent[0],
        "bootstrap_rejected_percent": percent[1],
        "sacrebleu_bootstrap_rejected_percent": percent[2],
        "smallest_p": float(values.min()),
    }


def sacrebleu_p(first: Measured, second: Measured, count: int) -> float:
    """The p-value that sacrebleu's paired bootstrap makes of the same resamples."""
    sizes = np.abs(
        np.concatenate(
            [
                first.resampled(counts) - second.resampled(counts)
                for counts in significance._resamples(count)
            ]
        )
    )
    beyond = (sizes - sizes.mean() > abs(first.value() - second.value())).sum()
    return float((1 + beyond) / (1 + len(sizes)))


def coverage(
    population: Population, count: int, draws: int, generator: Generator
) -> dict[str, Any]:
    """Counts how often the interval of a score, and of a real difference, has the population's."""
    everything = np.arange(POPULATION)
    whole, whole_better = (
        population.measured(one, everything).value() for one in (population.one, population.better)
    )
    held = np.zeros((draws, 2), dtype=bool)
    for index in range(draws):
        sources = generator.integers(0, POPULATION, count)
        first, second = (
            {"m": population.measured(one, sources)} for one in (population.better, population.one)
        )
        intervals = (scores_of(first)["m"].interval, _difference_interval(first["m"], second["m"]))
        truths = (whole_better, whole_better - whole)
        held[index] = [
            low <= truth <= high for (low, high), truth in zip(intervals, truths, strict=True)
        ]
    score, difference = 100 * held.mean(axis=0)
    return {
        "population": population.kind,
        "sources": count,
        "score_percent": round(float(score), 2),
        "difference_percent": round(float(difference), 2),
    }


def _difference_interval(first: Measured, second: Measured) -> tuple[float, float]:
    """The interval alone: the test beside it takes most of the time."""
    return first.difference_interval(second)[0] or (-100.0, 100.0)


def main() -> None:
    """Simulates and writes the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--draws", type=int, default=2000, help="draws for each population and number of sources"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--randomisations", type=int, default=1000, help="random signs or swaps of a test"
    )
    asked = parser.parse_args()
    # The package takes 10,000: the level of a randomisation test does not depend on how many there
    # are.
    significance.DRAWS = asked.randomisations
    started, generator = time.perf_counter(), np.random.default_rng(SEED)
    null, held = [], []
    for population in populations(generator):
        for count in NULL_SOURCES:
            null.append(rejections(population, count, asked.draws, generator))
            print(null[-1], file=sys.stderr)
        for count in COVERAGE_SOURCES:
            held.append(coverage(population, count, asked.draws, generator))
            print(held[-1], file=sys.stderr)
    result = {
        "command": " ".join(["python", "benchmarks/significance.py", *sys.argv[1:]]),
        "versions": {name: version(name) for name in ("numpy", "sacrebleu")},
        "seed": SEED,
        "draws": asked.draws,
        "randomisations": asked.randomisations,
        "standard_error_percent": round(100 * (0.05 * 0.95 / asked.draws) ** 0.5, 2),
        "no_difference": null,
        "coverage": held,
        "outside": outside(null, held),
        "remarks": REMARKS,
        "seconds": round(time.perf_counter() - started),
    }
    print(json.dumps(result, indent=2))
    (asked.out / "significance.json").write_text(
        json.dumps(result, indent=2) + "\n", encoding="utf-8"
    )


def outside(null: list[dict[str, Any]], held: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures outside of what is asked for."""
    found = [
        row
        for row in null
        if row["rejected_percent"] > 7
        or (
            row["sources"] >= 30
            and not all(
                3 <= row[test] <= 7 for test in ("rejected_percent", "bootstrap_rejected_percent")
            )
        )
    ]
    sides = ("score_percent", "difference_percent")
    return found + [
        row
        for row in held
        if row["sources"] >= 20 and not all(93 <= row[side] <= 97 for side in sides)
    ]


REMARKS = [
    "Macro-F1: a class that a draw refers to once or never moves the score by jumps. Two classes, "
    "one of them 9 % of the sources, have a coverage of 76 % at 20 sources and 88 % at 30; eval "
    "names classes with few references.",
    "Right or wrong: the exact sign-flip test counts ties with the observed outcome in full and "
    "rejects too seldom; from 30 sources on it counts them by half (mid-p). Where few sources "
    "differ, as with systems that are nearly always right, either rejects in less than 3 %.",
    "sacrebleu's paired bootstrap compares |difference| - mean(|difference|) with |observed|: "
    "where systems differ, a one-sided test under a two-sided name. The bootstrap here takes the "
    "same resamples and compares |difference - mean(difference)|; below 30 sources it may reject "
    "more often than 7 % (macro-F1).",
    "Right or wrong: coverage jumps with the number of sources and the truth, since few outcomes "
    "exist; Wilson's interval has 95 % on average.",
    "Scores of which nearly all are the same (85 % of them 100, the rest close by) have a coverage "
    "near 88 % at 20 sources with any interval that is computed from the sample: in many samples "
    "the rest is missing.",
]


if __name__ == "__main__":
    main()
