"""Values held against sacrebleu and rouge-score called directly, and against sums done by hand."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation.metrics import METRICS, SEED, compare, measure, score

PREDICTIONS = [
    "The Vaults is a family friendly pub near Café Adriatic.",
    "Runs the cat, quickly!",
    "",
    "A very long answer that says the same the same the same thing again and again.",
]
REFERENCES = [
    ["The Vaults pub near Café Adriatic is family friendly.", "Near Café Adriatic, The Vaults welcomes families."],
    ["The cat runs quickly."],
    ["Nothing was said.", "No answer.", "Silence"],
    ["It says the same thing again.", "An answer that goes on and on."],
]
# sacrebleu wants one stream per reference position; None where a source has fewer.
STREAMS = [[texts[n] if n < len(texts) else None for texts in REFERENCES] for n in range(3)]


@pytest.mark.parametrize(("name", "scorer"), [("bleu", BLEU), ("chrf", CHRF)])
def test_corpus_scores_are_sacrebleus(name: str, scorer: type) -> None:
    direct = scorer()
    expected = direct.corpus_score(PREDICTIONS, STREAMS)
    found = score(PREDICTIONS, REFERENCES, [name])[name]
    assert found.value == pytest.approx(expected.score, abs=1e-9)
    assert found.signature.replace(f"|bs:1000|seed:{SEED}", "") == str(direct.get_signature())
    assert found.signature.startswith("nrefs:var|")


def test_interval_is_sacrebleus(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its own chrF resampling stops with a TypeError on Python 3.11, so BLEU stands for both.
    monkeypatch.setenv("SACREBLEU_SEED", str(SEED))
    direct = BLEU()
    expected = direct.corpus_score(PREDICTIONS, STREAMS, n_bootstrap=1000)
    found = score(PREDICTIONS, REFERENCES, ["bleu"])["bleu"]
    assert found.signature == str(direct.get_signature())
    half = (found.interval[1] - found.interval[0]) / 2
    assert f"± {half:.3f}" in expected.format(width=3)


@pytest.mark.parametrize("count", [1, 2])
def test_bleu_signature_counts_references(count: int) -> None:
    references = [["a b c d e"] * count, ["f g h i"] * count]
    assert f"nrefs:{count}|" in score(["a b c d e", "f g h x"], references, ["bleu"])["bleu"].signature


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_is_rouge_scores_best_reference(kind: str) -> None:
    predictions = [*PREDICTIONS, "First line here.\nSecond line there."]
    references = [*REFERENCES, ["Second line.\nFirst line was here.", "other"]]
    direct = RougeScorer([kind], use_stemmer=True)
    pairs = zip(predictions, references, strict=True)
    best = [max(direct.score(other, text)[kind].fmeasure for other in texts) for text, texts in pairs]
    found = score(predictions, references, [kind])[kind]
    assert found.value == pytest.approx(100 * sum(best) / len(best), abs=1e-9)
    assert "stemmer:porter" in found.signature


def test_values_by_hand() -> None:
    predictions = ["the cat", " Yes. ", "no", "red Fish"]
    references = [["a cat sat"], ["No", "Yes."], ["No"], ["one red fish", "blue"]]
    found = score(predictions, references, ["exact_match", "token_f1", "rouge1"])
    assert found["exact_match"].value == 25.0
    # cat | cat sat: 2·1/(1+2); yes | yes: 1; no | no: 1; red fish | one red fish: 2·2/(2+3)
    assert found["token_f1"].value == pytest.approx(100 * (2 / 3 + 1 + 1 + 0.8) / 4)
    # the cat | a cat sat: 2·1/(2+3)
    assert found["rouge1"].value == pytest.approx(100 * (0.4 + 1 + 1 + 0.8) / 4)


def test_bleu_by_hand() -> None:
    # 1-grams 4/5, 2-grams 3/4, 3-grams 2/3, 4-grams 1/2, lengths equal.
    found = score(["a b c d x"], [["a b c d e"]], ["bleu"])["bleu"]
    assert found.value == pytest.approx(100 * math.exp(sum(map(math.log, (4 / 5, 3 / 4, 2 / 3, 1 / 2))) / 4))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_bounds_and_order_of_references(name: str) -> None:
    texts = [f"the {word} dog saw seven other {word} dogs" for word in ("red", "blue", "green")]
    assert score(texts, [[text] for text in texts], [name])[name].value == pytest.approx(100.0)
    worst = score(["zzz qqq"] * 3, [[text] for text in texts], [name])[name]
    assert worst.value == pytest.approx(0.0, abs=1e-9)
    # Without the empty answer: where no reference scores, sacrebleu's chrF counts the length of the first.
    answers, references = zip(*[pair for pair in zip(PREDICTIONS, REFERENCES, strict=True) if pair[0]], strict=True)
    forwards = score(answers, references, [name])[name]
    backwards = score(answers, [texts[::-1] for texts in references], [name])[name]
    assert forwards == backwards
    assert forwards.interval[0] <= forwards.value <= forwards.interval[1]


def test_interval_covers_the_spread_of_a_known_mean() -> None:
    hits = ["yes"] * 300 + ["no"] * 100
    found = score(hits, [["yes"]] * 400, ["exact_match"])["exact_match"]
    error = 100 * math.sqrt(0.75 * 0.25 / 400)
    low, high = found.interval
    assert (low, high) == pytest.approx((75 - 1.96 * error, 75 + 1.96 * error), abs=0.5)
    assert found == score(hits, [["yes"]] * 400, ["exact_match"])["exact_match"]


def test_raw_text_counts_not_what_a_tokenizer_keeps() -> None:
    assert score(["ls  $1"], [["ls {} $1"]], ["exact_match"])["exact_match"].value == 0.0


def test_unknown_metric_names_the_nearest_and_all() -> None:
    with pytest.raises(UsageError) as caught:
        score(["a"], [["a"]], ["rougel"])
    assert "'rougeL'" in caught.value.message
    assert "exact_match" in str(caught.value.hint)


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], []), (["a"], [[]])])
def test_nothing_to_score_is_a_data_error(predictions: list[str], references: list[list[str]]) -> None:
    with pytest.raises(DataError):
        score(predictions, references, ["bleu"])


def test_a_system_does_not_differ_from_itself() -> None:
    measured = measure(PREDICTIONS, REFERENCES, list(METRICS))
    for name, found in compare(measured, measured).items():
        assert (found.value, found.interval, found.p_value) == (0.0, (0.0, 0.0), 1.0), name


def test_paired_difference_value_interval_and_p() -> None:
    truth = [[f"word{index}"] for index in range(200)]
    weak = [texts[0] if index % 4 == 0 else "no" for index, texts in enumerate(truth)]
    strong = [texts[0] if index % 4 in (0, 1) else "no" for index, texts in enumerate(truth)]
    names = ["exact_match", "bleu", "chrf"]
    better, worse = measure(strong, truth, names), measure(weak, truth, names)
    found = compare(better, worse)["exact_match"]
    assert found.value == 25.0
    # Only a quarter of the rows differ, all one way: sd of the mean difference is sqrt(.25·.75/200).
    error = 100 * math.sqrt(0.25 * 0.75 / 200)
    assert found.interval == pytest.approx((25 - 1.96 * error, 25 + 1.96 * error), abs=0.8)
    assert found.p_value == pytest.approx(1 / 1001)
    assert "paired-bootstrap" in found.signature
    swapped = compare(worse, better)["chrf"]
    straight = compare(better, worse)["chrf"]
    assert swapped.value == -straight.value
    assert swapped.p_value == straight.p_value


def test_p_value_is_uniformish_without_a_difference() -> None:
    generator = np.random.default_rng(0)
    values = []
    for _ in range(40):
        first, second = (["yes" if hit else "no" for hit in generator.random(60) < 0.5] for _ in range(2))
        names = ["exact_match"]
        both = [measure(texts, [["yes"]] * 60, names) for texts in (first, second)]
        values.append(compare(*both)["exact_match"].p_value)
    assert 0.25 < float(np.mean(values)) < 0.75
    assert sum(value < 0.05 for value in values) <= 6


def test_a_thousand_resamples_of_many_rows_are_quick() -> None:
    predictions = [f"the number {index} is near the number {index % 7} today" for index in range(600)]
    references = [[text.replace("near", "next to"), text.replace("today", "now")] for text in predictions]
    started = time.perf_counter()
    score(predictions, references, ["bleu", "chrf", "exact_match"])
    assert time.perf_counter() - started < 10
