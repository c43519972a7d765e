"""Minimum Bayes risk: the answer that agrees most with the others, by any metric."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import sacrebleu
from cli_parts import Invoke

from lora_s2s.errors import UsageError
from lora_s2s.evaluation import mbr, metrics
from lora_s2s.inference.decode import candidates
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor

WORDS = "the cat sat on a mat near the old blue door".split()


def samples(count: int = 12) -> list[list[str]]:
    chosen = random.Random(3)
    return [
        [" ".join(chosen.choices(WORDS, k=chosen.randrange(1, 7))) for _ in range(count)]
        + ["the cat"] * chosen.randrange(3)
        for _ in range(20)
    ]


SENTENCE = {
    "chrf": lambda text, other: sacrebleu.sentence_chrf(text, [other]).score,
    "bleu": lambda text, other: sacrebleu.sentence_bleu(text, [other]).score,
    "ter": lambda text, other: -sacrebleu.sentence_ter(text, [other]).score,
    "exact_match": lambda text, other: 100.0 * (text == other),
}
SENTENCE["sqrt(bleu*chrf)"] = lambda *pair: (
    (SENTENCE["bleu"](*pair) * SENTENCE["chrf"](*pair)) ** 0.5
)


@pytest.mark.parametrize("metric", SENTENCE)
def test_the_answer_with_the_highest_mean_utility(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mbr, "_PAIRS_AT_ONCE", 300)
    several, utility = samples(), SENTENCE[metric]
    for answers, place in zip(several, mbr.choose(several, metric), strict=True):
        expected = [sum(utility(one, other) for other in answers) for one in answers]
        assert expected[place] == pytest.approx(max(expected), abs=1e-6)
        assert answers.index(answers[place]) == place


def test_utilities_are_sentence_scores() -> None:
    pairs = [*itertools.product([*WORDS, *samples()[0]], samples()[1])]
    for metric in ("bleu", "chrf", "ter"):
        found = metrics.utilities(*zip(*pairs, strict=True), metric)
        assert found == pytest.approx([SENTENCE[metric](*pair) for pair in pairs], abs=1e-6)


def test_each_distinct_pair_is_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[tuple[str, str]] = []

    def counted(one: list[str], other: list[str], *_: object) -> list[float]:
        pairs.extend(zip(one, other, strict=True))
        return utilities(one, other, "chrf")

    utilities = metrics.utilities
    monkeypatch.setattr(mbr, "utilities", counted)
    assert mbr.choose([["b", "a", "b", "b"], ["a", "a"], []], "chrf") == [0, 0, 0]
    assert sorted(pairs) == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]


@pytest.mark.parametrize("metric", ["json_f1", "number_accuracy", "token_f1", "macro_f1", "rougeL"])
def test_metrics_that_no_answer_suits(metric: str) -> None:
    assert mbr.choose([["", "x", "y z"], ["?", "!"]], metric) is not None


def test_decoding_by_it(tiny_predictor: Callable[..., Predictor]) -> None:
    predictor, texts = tiny_predictor(), ["w1 w2 w3", "w7", "w9 w30 w4"]
    for asked in ({"temperature": 1.0, "mbr_candidates": 5}, {"num_beams": 4}):
        settings = DecodingSettings(8, mbr="chrf", **asked)
        several = candidates(predictor, texts, settings)
        assert {len(answers) for answers in several} == {settings.returned}
        places = mbr.choose([[one.text for one in answers] for answers in several], "chrf")
        assert any(places)
        assert mbr.decode(predictor, texts, settings) == [
            answers[place] for answers, place in zip(several, places, strict=True)
        ]


def test_what_cannot_be_chosen_by() -> None:
    for metric in ("copy_rate", "length_ratio*chrf"):
        with pytest.raises(UsageError, match="describes answers"):
            mbr.check_utility(metric)
    with pytest.raises(UsageError, match="greedy search finds 1"):
        DecodingSettings(mbr="chrf")
    with pytest.raises(UsageError, match="exclude each other"):
        DecodingSettings(mbr="chrf", num_beams=4, n_best=2)


def test_from_the_command_line(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    command = (
        "predict",
        str(tiny_model),
        "what is",
        "house",
        "--set",
        "evaluation.max_new_tokens=3",
    )
    done = invoke(*command, "--mbr", "chrf", "--set", "evaluation.mbr_candidates=4")
    assert "sampling, temperature 0.5, at most 3 tokens, the one of 4 samples" in done.stderr
    assert len(done.stdout.splitlines()) == 2
    chat = ("predict", str(tiny_model), "--interactive", "--mbr", "chrf", *command[4:])
    assert (
        "mbr chrf is for eval and predict: not used here" in invoke(*chat, input="house\n").stderr
    )
    refused = invoke(*command, "--mbr", "copy_rate", code=2)
    assert "expected a metric that answers can be chosen by" in refused.stderr
