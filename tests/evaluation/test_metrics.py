"""Values compared with sacrebleu and rouge-score called directly, with SQuAD's published examples,
and with sums done by hand.
"""

from __future__ import annotations

import math
import random
import re
import string
import time
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation.metrics import METRICS, MODEL_METRICS, compare, measure, score, scores_of
from lora_s2s.evaluation.overlap import edit_distance, squad_tokens
from lora_s2s.evaluation.structured import numbers
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
# Metrics that are 100 (errors: 0) for an answer that equals its reference, whatever it is.
JUDGING = sorted(
    set(METRICS)
    - MODEL_METRICS
    - {"json_valid", "json_f1", "number_accuracy", "copy_rate", "repetition_rate", "length_ratio"}
)


def sacrebleus(name: str, predictions: list[str], streams: list[Any]) -> float:
    found = CORPUS[name]().corpus_score(predictions, streams)
    return 100 * found.ratio if name == "length_ratio" else found.score


@pytest.mark.parametrize("name", CORPUS)
def test_corpus_scores_are_sacrebleus(name: str) -> None:
    direct = CORPUS[name]()
    found = score(PREDICTIONS, REFERENCES, [name])[name]
    assert found.value == pytest.approx(sacrebleus(name, PREDICTIONS, STREAMS), abs=1e-9)
    direct.corpus_score(PREDICTIONS, STREAMS)
    assert found.signature == f"{direct.get_signature()}|ci:jackknife-skew-t"
    assert found.signature.startswith("nrefs:var|")
    assert ("|nw:2|" in found.signature) is (name == "chrf++")


SPOILT = [
    ["the cat sat on the mat today", "a dog runs"],
    ["the cat sat on a mat", "a dog ran home"],
    ["x", "y"],
    ["", ""],
    ["the cat", "a"],
    ["the cat the cat the cat", "dog a dog a dog a dog"],
    ["on mat the sat cat", "home dog"],
]


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("predictions", SPOILT)
def test_scores_without_matches_or_long_n_grams_are_sacrebleus(
    name: str, predictions: list[str]
) -> None:
    references = ["the cat sat on the mat today", "a dog ran home"]
    expected = sacrebleus(name, predictions, [references])
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
    # These need more words than one.
    names = [name for name in JUDGING if name not in ("bleu", "rouge2")]
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


def squads_f1(prediction: str, truth: str) -> float:
    """SQuAD's F1 as published: lower case, no punctuation, no articles, shared words."""
    both = []
    for text in (prediction, truth):
        kept = "".join(char for char in text.lower() if char not in set(string.punctuation))
        both.append(" ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split()).split())
    shared = sum((Counter(both[0]) & Counter(both[1])).values())
    if not all(both):
        return float(both[0] == both[1])
    precision, recall = shared / len(both[0]), shared / len(both[1])
    return 2 * precision * recall / (precision + recall) if shared else 0.0


def test_token_f1_is_squads() -> None:
    # The metric card of SQuAD's script: two of three answers are right.
    truth = [["1976"], ["Beyoncé and Bruno Mars"], ["climate change"]]
    found = score(["1976", "Beyonce", "climate change"], truth, ["token_f1"])["token_f1"]
    assert found.value == pytest.approx(66.66666666666667, abs=1e-12)
    assert squad_tokens("The, Quick  Fox!") == ["quick", "fox"]
    assert squad_tokens("a.n ox – a–the cow’s") == ["ox", "–", "–", "cow’s"]
    generator = random.Random(1)
    parts = ["the", "The", "a", "an", "cat", "dog", "U.S.", "it's", "–", "end.", "”the", ""]
    for _ in range(100):
        one, other = (" ".join(generator.choices(parts, k=4)) for _ in range(2))
        found = score([one], [[other]], ["token_f1"])["token_f1"]
        assert found.value == 100 * squads_f1(one, other), (one, other)


def distance_by_table(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for char in one:
        above, row = row, [row[0] + 1]
        for place, opposite in enumerate(other):
            row.append(min(above[place] + (char != opposite), above[place + 1] + 1, row[-1] + 1))
    return row[-1]


def test_edit_similarity_counts_characters() -> None:
    generator = random.Random(2)
    for _ in range(300):
        one, other = (
            "".join(generator.choices("abß😀 ", k=generator.randrange(0, 70))) for _ in range(2)
        )
        assert edit_distance(one, other) == distance_by_table(one, other), (one, other)
    # kitten | sitting: 3 of 7; the better of two references; two empty texts are equal
    answers, references = ["kitten", "abc", " "], [["sitting"], ["xyz", "abd"], [""]]
    found = score(answers, references, ["edit_similarity"])["edit_similarity"]
    assert found.value == pytest.approx(100 * (4 / 7 + 2 / 3 + 1) / 3)


@pytest.mark.parametrize(
    ("answer", "references", "valid"),
    [
        ('{"a": [1, -2.5e3, null]}', ['{"b": 1}'], True),
        (" [] ", ["\n[1]"], True),
        ("[1]", ['{"b": 1}', "[2]"], True),
        ("[1]", ['{"b": 1}'], False),
        ("{}", ["[1]"], False),
        (' "text" ', ["[1]"], False),
        ("16", ['{"b": 1}', "16"], False),
        ("text", ["[1]", "text"], False),
        ("{'a': 1}", ["{}"], False),
        ('{"a": 1} and more', ["{}"], False),
        ('{"a": NaN}', ["{}"], False),
        ("", ["[1]"], False),
        ("[" * 100_000, ["[1]"], False),
        ("[" * 5_000 + "]" * 5_000, ["[1]"], False),
        ("[1e99999999999999999999]", ["[1]"], False),
        (f"[{'9' * 10_000}]", ["[1]"], True),
    ],
)
def test_json_valid_is_strict_bounded_and_of_the_references_kind(
    answer: str, references: list[str], valid: bool
) -> None:
    found = score([answer, "text"], [references, ["no JSON"]], ["json_valid"])["json_valid"]
    assert (found.value, found.n) == (100.0 * valid, 1)
    assert found.to_json()["n"] == 1


@pytest.mark.parametrize(
    ("answer", "references", "f1"),
    [
        ('{"a": "x", "b": "y"}', ['{"b": "y", "a": "x"}'], 1.0),
        ('{"a": "x", "b": "z"}', ['{"a": "x", "b": "y"}'], 0.5),
        ('{"a": "x"}', ['{"a": "x", "b": "y", "c": "z"}'], 2 / 4),
        ('{"i": [{"n": "p"}, {"n": "q"}]}', ['{"i": [{"n": "q"}, {"n": "r"}]}'], 0.5),
        ('{"i": ["x", "x"]}', ['{"i": ["x"]}'], 2 / 3),
        ('{"a": {"b": 1.0}}', ['{"a": {"b": 1}}'], 1.0),
        ('{"a": true}', ['{"a": 1}'], 0.0),
        ('{"a.b": 1}', ['{"a": {"b": 1}}'], 0.0),
        ("no JSON", ['{"a": 1}'], 0.0),
        ('{"a": 1}', ['{"a": 2}', "not JSON", '{"a": 1}'], 1.0),
        ("{}", ["{}"], 1.0),
    ],
)
def test_json_f1_compares_paths_and_values(answer: str, references: list[str], f1: float) -> None:
    found = score([answer, "x"], [references, ["no JSON"]], ["json_f1"])["json_f1"]
    assert found.value == pytest.approx(100 * f1)


def test_json_f1_sums_fields_over_sources() -> None:
    answers, truth = (
        ['{"a": 1, "b": 2, "c": 3}', '{"a": 9}'],
        ['{"a": 1, "b": 2, "c": 3}', '{"a": 1}'],
    )
    found = score(answers, [[text] for text in truth], ["json_f1"])["json_f1"]
    assert found.value == pytest.approx(100 * 2 * 3 / 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-1,000.50 on 2024-01-02", ["-1000.5", "2024", "1", "2"]),
        ("at 7.30pm for 007, B-52 and (−3)", ["7.3", "7", "52", "-3"]),
        ("01.02.2024 and 1,5 or 1,2,3", ["1", "2", "2024", "1", "5", "1", "2", "3"]),
        ("٣ and ３ and 0.0 -0", ["3", "3", "0", "0"]),
        ("none", []),
    ],
)
def test_numbers_have_one_form(text: str, expected: list[str]) -> None:
    assert numbers(text) == Counter(expected)


def test_number_accuracy_counts_sources_with_numbers() -> None:
    answers = ["2 of 1,000", "1 2", "3", "words", "7"]
    references = [["1000 by 2.0"], ["1 2 2"], ["none", "3"], ["5"], ["no number"]]
    found = score(answers, references, ["number_accuracy"])["number_accuracy"]
    assert (found.value, found.n) == (50.0, 4)
    better = measure(["2 of 1,000", "1 2 2", "3", "5", ""], references, ["number_accuracy"])
    worse = measure(answers, references, ["number_accuracy"])
    assert compare(better, worse)["number_accuracy"].value == 50.0
    # two differ of four that count
    assert compare(better, worse)["number_accuracy"].p_value == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["json_valid", "json_f1", "number_accuracy"])
def test_a_metric_that_does_not_fit_the_references_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"no reference (is a JSON object|has a number)"):
        score(["1", '{"a": 1}'], [["text"], ["other"]], [name])


def test_losses_by_hand() -> None:
    losses, names = [(3.0, 4), (1.0, 1)], ["loss", "bits_per_byte"]
    measured = measure(["x", "y"], [["abé", "abé"], ["d", "ef"]], names, losses=losses)
    loss, bits = scores_of(measured).values()
    assert loss.value == pytest.approx(4 / 5)
    assert bits.value == pytest.approx(4 / math.log(2) / (4 + 3))
    for found in (loss, bits):
        assert found.lower_is_better
        assert 0 <= found.interval[0] < found.value < found.interval[1]
    with pytest.raises(UsageError, match="need the model"):
        score(["x"], [["y"]], ["loss"])


def test_descriptive_metrics_by_hand() -> None:
    answers = ["a b c d a b c d e", "x y", ""]
    sources = ["A b, c!", "nothing", "text"]
    names = ["copy_rate", "repetition_rate", "length_ratio"]
    found = score(answers, [["a b c"], ["x"], ["y"]], names, sources)
    assert found["copy_rate"].value == pytest.approx(100 * (6 / 9 + 0 + 0) / 3)
    # six 4-grams, of which a b c d comes twice
    assert found["repetition_rate"].value == pytest.approx(100 * (1 / 6) / 3)
    assert found["length_ratio"].value == pytest.approx(100 * 11 / 5)
    assert all(entry.to_json()["descriptive"] is True for entry in found.values())
    with pytest.raises(UsageError, match="copy_rate needs the sources"):
        score(["a"], [["a"]], ["copy_rate"])


def test_bleu_by_hand() -> None:
    # 1-grams 4/5, 2-grams 3/4, 3-grams 2/3, 4-grams 1/2, lengths equal.
    found = score(["a b c d x"], [["a b c d e"]], ["bleu"])["bleu"]
    assert found.value == pytest.approx(
        100 * math.exp(sum(map(math.log, (4 / 5, 3 / 4, 2 / 3, 1 / 2))) / 4)
    )


@pytest.mark.parametrize("name", JUDGING)
def test_bounds_and_order_of_references(name: str) -> None:
    texts = [f"the {word} dog saw seven other {word} dogs" for word in ("red", "blue", "green")]
    right, wrong = (0.0, 100.0) if name in ERROR_RATES else (100.0, 0.0)
    assert score(texts, [[text] for text in texts], [name])[name].value == pytest.approx(right)
    worst = score(["ZZZ.QQQ"] * 3, [[text] for text in texts], [name])[name]
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
    measured = measure(PREDICTIONS, REFERENCES, JUDGING)
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
    started = time.process_time()
    names = ["bleu", "chrf", "exact_match"]
    compare(*(measure(texts, references, names) for texts in (predictions, predictions[::-1])))
    assert time.process_time() - started < 10
