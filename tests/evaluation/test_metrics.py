"""Values held against sacrebleu and rouge-score called directly, and against sums done by hand."""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation.metrics import METRICS, compare, measure, score, scores_of
from lora_s2s.evaluation.ter import time_note
from lora_s2s.recipe.fields import ERROR_RATES

PREDICTIONS = [
    "The Vaults is a family friendly pub near Café Adriatic.",
    "Runs the cat, quickly!",
    "",
    "A very long answer that says the same the same the same thing again and again.",
]
REFERENCES = [
    [
        "The Vaults pub near Café Adriatic is family friendly.",
        "Near Café Adriatic, The Vaults welcomes families.",
    ],
    ["The cat runs quickly."],
    ["Nothing was said.", "No answer.", "Silence"],
    ["It says the same thing again.", "An answer that goes on and on."],
]
# sacrebleu wants one stream per reference position; None where a source has fewer.
STREAMS = [[texts[n] if n < len(texts) else None for texts in REFERENCES] for n in range(3)]
# Metrics that sum sacrebleu's statistics, with its class.
CORPUS = {
    name: measure.args[0]
    for name, measure in METRICS.items()
    if isinstance(measure, partial) and callable(measure.args[0])
}


@pytest.mark.parametrize(("name", "scorer"), CORPUS.items())
def test_corpus_scores_are_sacrebleus(name: str, scorer: type) -> None:
    direct = scorer()
    expected = direct.corpus_score(PREDICTIONS, STREAMS)
    found = score(PREDICTIONS, REFERENCES, [name])[name]
    assert found.value == pytest.approx(expected.score, abs=1e-9)
    assert found.signature == f"{direct.get_signature()}|ci:jackknife-skew-t"
    assert found.signature.startswith("nrefs:var|")


SPOILT = [
    ["the cat sat on the mat today", "a dog runs"],
    ["the cat sat on a mat", "a dog ran home"],
    ["x", "y"],
    ["", ""],
    ["the cat", "a"],
    ["the cat the cat the cat", "dog a dog a dog a dog"],
    ["on mat the sat cat", "home dog"],
]


@pytest.mark.parametrize(("name", "scorer"), CORPUS.items())
@pytest.mark.parametrize("predictions", SPOILT)
def test_scores_without_matches_or_long_n_grams_are_sacrebleus(
    name: str, scorer: type, predictions: list[str]
) -> None:
    references = ["the cat sat on the mat today", "a dog ran home"]
    expected = scorer().corpus_score(predictions, [references]).score
    assert score(predictions, [[text] for text in references], [name])[name].value == pytest.approx(
        expected, abs=1e-9
    )


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),  # vowel signs are marks, no letters
        ("你好世界", "你好世界"),
        ("สวัสดีชาวโลก", "สวัสดีชาวโลก"),
        ("Größe é ß", "Größe é ß"),
        ("e\u0301te\u0301", "été"),  # typed in two ways
        ("مرحبا بالعالم", "مرحبا بالعالم"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("Привет, мир!", "Привет, мир!"),
    ],
)
def test_an_answer_that_equals_its_reference_is_right_in_every_script(
    answer: str, reference: str
) -> None:
    names = [
        name for name in METRICS if name not in ("bleu", "rouge2")
    ]  # these need more words than one
    for name, found in score([answer], [[reference]], names).items():
        if name not in CORPUS or answer == reference:  # sacrebleu composes no characters
            assert found.value == pytest.approx(0.0 if name in ERROR_RATES else 100.0), name
    assert "tok:unicode-words" in score([answer], [[reference]], ["rougeL"])["rougeL"].signature


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("你好朋友", "你好世界", 50.0),  # two of four characters
        ("नमस्ते भारत", "नमस्ते दुनिया", 50.0),  # one of two words
        ("दिन", "दुन", 0.0),  # another vowel sign is another word
        ("Straße", "Strasse", 0.0),
        ("ไทย", "ไทร", 200 / 3),
        ("größer", "grö", 0.0),  # ASCII tokens would be gr, er and gr
    ],
)
def test_rouge_compares_words_or_characters_of_a_script(
    answer: str, reference: str, expected: float
) -> None:
    # The second reference row keeps the first one's script beyond ASCII, whatever the first holds.
    found = score([answer, "ø"], [[reference], ["ø"]], ["rouge1", "token_f1"])
    for name in ("rouge1", "token_f1"):
        assert found[name].value == pytest.approx((expected + 100) / 2), name


def test_rouge_of_ascii_references_is_rouge_scores_whatever_the_answers_hold() -> None:
    found = score(["naïve café 你好 answers"], [["naive cafe answers"]], ["rouge1"])["rouge1"]
    direct = RougeScorer(["rouge1"], use_stemmer=True).score(
        "naive cafe answers", "naïve café 你好 answers"
    )
    assert found.value == pytest.approx(100 * direct["rouge1"].fmeasure)
    assert "tok:a-z0-9" in found.signature


def test_english_words_are_stemmed_beside_other_scripts() -> None:
    assert score(["running 你"], [["run 你"]], ["rouge1"])["rouge1"].value == pytest.approx(100.0)


def test_macro_f1_by_hand() -> None:
    truth = ["a", "a", "a", "b", "b", "c"]
    answers = ["a", "a", "b", "b", "x", "a"]
    found = score(answers, [[label] for label in truth], ["macro_f1"])["macro_f1"]
    # a: 2 right of 3 answers and 3 references; b: 1 of 2 and 2; c: never answered.
    assert found.value == pytest.approx(100 * (2 * 2 / 6 + 2 * 1 / 4 + 0) / 3)
    several = score(["one", "b"], [["1", "one"], ["b"]], ["macro_f1"])["macro_f1"]
    assert several.value == pytest.approx(100.0)


@pytest.mark.parametrize("count", [1, 2])
def test_bleu_signature_counts_references(count: int) -> None:
    references = [["a b c d e"] * count, ["f g h i"] * count]
    assert (
        f"nrefs:{count}|" in score(["a b c d e", "f g h x"], references, ["bleu"])["bleu"].signature
    )


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_is_rouge_scores_best_reference(kind: str) -> None:
    predictions = [*PREDICTIONS, "First line here.\nSecond line there."]
    references = [*REFERENCES, ["Second line.\nFirst line was here.", "other"]]
    direct = RougeScorer([kind], use_stemmer=True)
    pairs = zip(predictions, references, strict=True)
    best = [
        max(direct.score(other, text)[kind].fmeasure for other in texts) for text, texts in pairs
    ]
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
    assert found.value == pytest.approx(
        100 * math.exp(sum(map(math.log, (4 / 5, 3 / 4, 2 / 3, 1 / 2))) / 4)
    )


@pytest.mark.parametrize("name", sorted(METRICS))
def test_bounds_and_order_of_references(name: str) -> None:
    texts = [f"the {word} dog saw seven other {word} dogs" for word in ("red", "blue", "green")]
    right, wrong = (0.0, 100.0) if name in ERROR_RATES else (100.0, 0.0)
    assert score(texts, [[text] for text in texts], [name])[name].value == pytest.approx(right)
    worst = score(["zzz qqq"] * 3, [[text] for text in texts], [name])[name]
    assert worst.value == pytest.approx(wrong, abs=1e-9)
    # Without the empty answer: where no reference scores, sacrebleu's chrF counts the length of the
    # first.
    answers, references = zip(
        *[pair for pair in zip(PREDICTIONS, REFERENCES, strict=True) if pair[0]], strict=True
    )
    forwards = score(answers, references, [name])[name]
    backwards = score(answers, [texts[::-1] for texts in references], [name])[name]
    assert forwards == backwards
    assert forwards.interval[0] <= forwards.value <= forwards.interval[1]


def test_an_error_rate_may_exceed_100_and_its_interval_and_difference_follow() -> None:
    references = [["the cat"], ["a"], ["x y"], ["one two"]]
    long = measure(["the cat", "a b c d e f g", "x", "three four"], references, ["ter"])
    short = measure(["the cat", "a b", "x y", "one two"], references, ["ter"])
    found, change = scores_of(long)["ter"], compare(short, long)["ter"]
    assert found.value == pytest.approx(100 * (0 + 6 + 1 + 2) / 7)
    assert found.interval[0] < found.value < found.interval[1]
    assert change.value == pytest.approx(100 * (1 - 9) / 7)  # fewer errors: below zero
    assert change.interval[0] < change.value < change.interval[1]
    assert change.p_value == compare(long, short)["ter"].p_value == 0.25  # 3 differ: 2 of 8 signs
    assert all(entry.to_json()["lower_is_better"] is True for entry in (found, change))
    assert "lower_is_better" not in score(["a"], [["a"]], ["bleu"])["bleu"].to_json()


def test_nothing_follows_from_one_source_also_for_an_error_rate() -> None:
    one, other = (measure([text], [["a"]], ["ter"]) for text in ("a b c d", "a"))
    alone, change = scores_of(one)["ter"], compare(one, other)["ter"]
    assert (alone.value, alone.interval) == (300.0, (0.0, math.inf))
    assert (change.value, change.interval) == (300.0, (-math.inf, math.inf))
    assert change.p_value == 1.0
    assert (alone.to_json()["interval"], change.to_json()["interval"]) == (
        (0.0, None),
        (None, None),
    )


def test_ter_says_beforehand_what_takes_minutes_and_refuses_what_takes_longer() -> None:
    assert time_note([["ten words " * 10] * 8] * 500, systems=1) is None
    note = time_note([["word " * 300, "word"]] * 40, systems=2)
    assert note is not None
    assert "up to about 8 minutes" in note
    assert "references have up to 300 words" in note
    with pytest.raises(UsageError, match=r"a reference has 1,001 words, expected at most 1,000"):
        time_note([["short"], ["short", "word " * 1001]], systems=1)


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
def test_nothing_to_score_is_a_data_error(
    predictions: list[str], references: list[list[str]]
) -> None:
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
    # Only a quarter of the rows differ, all one way: sd of the mean difference is
    # sqrt(.25·.75/200).
    error = 100 * math.sqrt(0.25 * 0.75 / 200)
    assert found.interval == pytest.approx((25 - 1.96 * error, 25 + 1.96 * error), abs=0.8)
    # Fifty differences of one size and one sign; ties count by half from 30 sources on.
    assert found.p_value == pytest.approx(0.5 * 2 * 0.5**50)
    assert "|ci:bonett-price|test:sign-flip[exact,mid-p]|sides:2" in found.signature
    assert (
        "|test:paired-randomisation[10000]|seed:12345|" in compare(better, worse)["chrf"].signature
    )
    swapped = compare(worse, better)["chrf"]
    straight = compare(better, worse)["chrf"]
    assert swapped.value == -straight.value
    assert swapped.p_value == straight.p_value


def test_p_value_is_uniformish_without_a_difference() -> None:
    generator = np.random.default_rng(0)
    values = []
    for _ in range(40):
        first, second = (
            ["yes" if hit else "no" for hit in generator.random(60) < 0.5] for _ in range(2)
        )
        names = ["exact_match"]
        both = [measure(texts, [["yes"]] * 60, names) for texts in (first, second)]
        values.append(compare(*both)["exact_match"].p_value)
    assert 0.25 < float(np.mean(values)) < 0.75
    assert sum(value < 0.05 for value in values) <= 6


def test_ten_thousand_swaps_of_many_rows_are_quick() -> None:
    predictions = [
        f"the number {index} is near the number {index % 7} today" for index in range(600)
    ]
    references = [
        [text.replace("near", "next to"), text.replace("today", "now")] for text in predictions
    ]
    started = time.perf_counter()
    names = ["bleu", "chrf", "exact_match"]
    compare(*(measure(texts, references, names) for texts in (predictions, predictions[::-1])))
    assert time.perf_counter() - started < 10
