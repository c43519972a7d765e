"""From sources and references to scores on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation.choice import choose_metrics
from lora_s2s.evaluation.evaluate import (
    Answered,
    Evaluation,
    assess,
    duration_note,
    group_references,
    record_scores,
    sample_places,
)
from lora_s2s.evaluation.metrics import Difference
from lora_s2s.evaluation.notes import enough_sources
from lora_s2s.inference.decode import Prediction
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.pipeline import html

SETTINGS = DecodingSettings(max_new_tokens=9)
SOURCES = ["a", "b", "c", "d"]
REFERENCES = [["A one"], ["B two", "B 2"], ["C three"], ["D four"]]


def evaluate(
    predictor: Any,
    sources: Sequence[str],
    references: list[list[str]],
    *,
    metrics: list[str],
    baseline: Any = None,
    limit: int | None = None,
) -> Evaluation:
    """Scores what models answer, as ``eval`` does; an answer that ends in … met the limit."""
    duration_note(metrics, references, limit=limit, systems=2)
    places = sample_places(len(sources), limit)

    def answers(model: Any) -> list[Prediction]:
        texts = [model.answers[sources[place]] for place in places]
        return [Prediction(text, tokens=2, stopped=not text.endswith("…")) for text in texts]

    losses = [
        None if one is None or "loss" not in metrics else [(float(len(one.answers["a"])), 1)] * 4
        for one in (predictor, baseline, None)
    ]
    base = None if baseline is None else answers(baseline)
    answered = Answered(answers(predictor), SETTINGS, base, losses=tuple(losses))
    return assess(sources, references, answered, places=places, metrics=metrics)


def model(*answers: str) -> Any:
    return SimpleNamespace(answers=dict(zip(SOURCES, answers, strict=True)))


def evaluated(**changes: Any) -> Evaluation:
    given = {
        "metrics": ["exact_match", "bleu"],
        "baseline": model("?", "B 2", "?", "?…"),
    }
    return evaluate(
        model("A one", "B 2", "C three", "no…"), SOURCES, REFERENCES, **{**given, **changes}
    )


def test_references_are_grouped_in_order_of_first_appearance() -> None:
    found = group_references(["b", "a", "b", "c", "a"], ["1", "2", "3", "4", "2"])
    assert found == (["b", "a", "c"], [["1", "3"], ["2", "2"], ["4"]])


def test_scores_baseline_and_difference() -> None:
    found = evaluated()
    assert found.n == 4
    assert found.references == 5
    assert (found.unstopped, found.baseline_unstopped) == (1, 1)
    assert "1 of 4 answers of the base was cut at the length limit" in "".join(found.notes)
    given, cut = [
        [Prediction("A one", tokens=2, stopped=place >= count) for place in range(4)]
        for count in (3, 2)
    ]
    both = Answered(given, SETTINGS, cut, other="the base", against=given)
    told = assess(SOURCES, REFERENCES, both, places=range(4), metrics=["bleu"]).notes
    assert "2 of 4 answers of the base were cut at the length limit" in "".join(told)
    assert "3 of 4 answers of the base were cut at its length limit" in told
    assert found.metrics["exact_match"].value == 75.0
    assert found.baseline is not None
    assert found.baseline["exact_match"].value == 25.0
    assert found.difference is not None
    assert found.difference["exact_match"].value == 50.0
    assert (
        found.difference["bleu"].value == found.metrics["bleu"].value - found.baseline["bleu"].value
    )


def test_json_is_the_contracts(tmp_path: Path) -> None:
    found = json.loads(
        json.dumps(evaluated().to_json(tmp_path / "predictions.jsonl"), allow_nan=False)
    )
    assert found["n"] == 4
    assert found["predictions"] == str(tmp_path / "predictions.jsonl")
    for part in ("metrics", "baseline"):
        assert set(found[part]) == {"exact_match", "bleu"}
        assert set(found[part]["bleu"]) == {"value", "interval", "signature"}
    assert set(found["difference"]["bleu"]) == {
        *("value", "interval", "p_value", "signature", "bootstrap_p_value", "detectable")
    }
    assert len(found["metrics"]["bleu"]["interval"]) == 2
    alone = evaluated(baseline=None).to_json()
    assert (alone["baseline"], alone["difference"], alone["predictions"]) == (None, None, None)
    assert (found["baseline_unstopped"], alone["baseline_unstopped"]) == (1, None)


def test_a_limit_takes_a_sample_in_order_and_always_the_same() -> None:
    places = sample_places(240, 60)
    assert places == sorted(set(places)) == sample_places(240, 60)
    assert len(places) == 60
    assert {place // 40 for place in places} == set(
        range(6)
    )  # six labels, sorted, forty sources each
    assert sample_places(3, 5) == sample_places(3, None) == [0, 1, 2]
    found = evaluated(limit=3)
    assert (found.n, found.sources) == (3, 4)
    rows = found.rows
    assert [row.source for row in rows] == sorted(row.source for row in rows)


LABELS = ["yes"] * 12 + ["no"] * 6 + ["maybe"] * 3


def notes(
    answers: Sequence[str], references: Sequence[str], *, base: Sequence[str] | None = None
) -> str:
    """The notes on answers to as many sources, one reference each; an answer that ends in … met the
    limit.
    """
    sources = [f"source {place}" for place in range(len(answers))]
    models = [
        SimpleNamespace(answers=dict(zip(sources, texts, strict=True)))
        for texts in (answers, base)
        if texts
    ]
    baseline: Any = models[1] if base else None
    found = evaluate(
        models[0],
        sources,
        [[text] for text in references],
        metrics=["exact_match", *(["macro_f1"] if references is LABELS else [])],
        baseline=baseline,
    )
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["notes"] == list(found.notes)
    return "\n".join(found.notes)


def test_notes_name_labels_that_are_never_answered_and_a_score_below_the_majority() -> None:
    told = notes(["no"] * 18 + ["perhaps", "maybe so", "no"], LABELS)
    assert "2 of 3 labels are never answered: 'yes' (12 sources), 'maybe' (3 sources)" in told
    assert "28.6 % of answers are correct, less than the 57.1 % of always answering 'yes'" in told
    assert "2 of 21 answers are not a label, such as 'perhaps'" in told
    assert "macro_f1 is imprecise: 1 of 3 labels have fewer than 5 sources" in told
    constant = notes(["yes"] * 21, LABELS)
    assert "no more than the 57.1 % of always answering 'yes'" in constant
    assert "all 21 answers are the same: 'yes'" in constant
    assert "never answered" not in notes(LABELS, LABELS)
    assert "labels" not in notes(["word"] * 21, [f"text {place}" for place in range(21)])


def test_notes_on_answers_scores_and_samples() -> None:
    truth = [f"text {place}" for place in range(30)]
    told = notes([*truth[:1], *[f"wrong {place}…" for place in range(29)]], truth)
    assert "exact_match is 3.33 of 100, near zero" in told
    assert "29 of 30 answers were cut at the length limit, evaluation.max_new_tokens=9" in told
    assert notes(truth, truth) == ""
    assert notes([*truth[:29], " "], truth) == "1 of 30 answers are empty"
    assert "adapter and base give the same answers to all 30 sources" in notes(
        truth, truth, base=truth
    )
    few = notes(truth[:4], truth[:4], base=["x"] * 4)
    assert (
        "4 sources, fewer than 20; no p-value below 0.12 is possible, so no difference can be "
        "significant" in few
    )
    assert "p-value" not in notes(truth[:4], truth[:4])
    assert "too few sources for reliable intervals: 1 source," in notes(["a"], ["a"], base=["b"])


@pytest.mark.parametrize(
    ("rare", "wrong", "others_wrong", "char"),
    [
        (["Voß"] * 12, 11, 2, "ß"),
        (["Köhn"] * 6 + ["ÖSER"] * 6, 11, 2, "ö"),  # in upper case too
        (["Voß"] * 12, 9, 2, None),  # a quarter of them is right
        (["Voß"] * 12, 11, 12, None),  # most wrong answers are others
        (["Voß"] * 4, 4, 0, None),  # too few
        (["Voß"] * 50, 50, 2, None),  # not rare
        (["Voß"] * 25, 20, 18, None),  # others are often wrong too
        (["Vera 7\tEser"] * 12, 12, 0, None),  # digits and spaces
        (["Žižek, Voß"] * 12, 12, 0, None),  # no single character
    ],
)
def test_a_rare_character_where_wrong_answers_concentrate_is_named(
    rare: list[str], wrong: int, others_wrong: int, char: str | None
) -> None:
    truth = [*rare, *("Vera Kohn-Eser" + " o" * place for place in range(88))]
    places = {*range(wrong), *range(len(rare), len(rare) + others_wrong)}
    told = notes(["?" if place in places else text for place, text in enumerate(truth)], truth)
    if char is None:
        assert "wrong answers have" not in told
    else:
        assert told.startswith(
            f"11 of the 13 wrong answers have '{char}' in the reference, of 12 references with it: "
            "see how many training targets have it; more such rows help, or data.lossless_text=on "
            "if the base's vocabulary lacks it"
        )
    assert "wrong answers have" not in notes(["?"] * len(truth), truth)
    labels = [*["Maße"] * 12, *["Masse"] * 88]
    assert "wrong answers have" not in notes(["?"] * 12 + labels[12:], labels)


@pytest.mark.parametrize(
    ("count", "value", "p_value", "told"),
    [
        (100, -4.0, 0.001, "of 4.00 points of bleu is unlikely to be chance: 100 sources reliably"),
        (100, 2.0, 0.03, "is unlikely to be chance, but other sources might not show it: 100"),
        (
            100,
            1.0,
            0.3,
            "difference of 1.00 points of bleu may be chance: 100 sources reliably",
        ),
        (100, 1.0, 0.3, "(level 5 %, power 80 %); about 900 sources would tell"),
        (100, 0.0, 1.0, "no difference of bleu: 100 sources reliably tell 3.00 points or more"),
        (5, 90.0, 0.06, None),  # nothing can be significant
    ],
)
def test_whether_the_sources_suffice(
    count: int, value: float, p_value: float, told: str | None
) -> None:
    found = Difference("bleu", value, (0.0, 0.0), "", p_value, p_value, 3.0)
    sentence = enough_sources(count, {"bleu": found})
    assert sentence is None if told is None else told in str(sentence)


@pytest.mark.parametrize("answer", ["other words entirely", "other words and many more of them"])
def test_notes_on_an_error_rate_near_or_above_100(answer: str) -> None:
    answers = dict.fromkeys(SOURCES, answer)
    for name, told in (("ter", True), ("chrf", False)):
        found = evaluate(
            SimpleNamespace(answers=answers),
            SOURCES,
            [[f"the text {source}"] for source in SOURCES],
            metrics=[name],
        )
        value = found.metrics[name].value
        assert (f"{name} is {value:.2f} (0 is best): compare" in "".join(found.notes)) is told
    right = evaluated(metrics=["ter"], baseline=None)
    assert right.metrics["ter"].value < 95
    assert "is best" not in "".join(right.notes)


def test_a_metric_that_fits_few_sources_gets_a_note_and_one_that_fits_none_is_refused() -> None:
    told = evaluated(metrics=["number_accuracy", "accuracy"], baseline=None).notes
    assert (
        "number_accuracy counts 1 of 4 sources: the references of the others do not suit it" in told
    )
    assert (
        "accuracy: meant for labels, and the references are 4 different texts in 4 sources" in told
    )
    with pytest.raises(UsageError, match="which json_valid and json_f1 need"):
        duration_note(["bleu", "json_f1"], REFERENCES, limit=None, systems=1)
    assert evaluated(metrics=["copy_rate"], baseline=None).metrics["copy_rate"].value < 100


def test_scores_over_tasks_are_means_of_the_tasks_scores() -> None:
    tasks = ["a"] * 60 + ["b"] * 20 + ["c"] * 2
    sources = [f"source {n}" for n in range(82)]
    references = [[f"text {n}"] for n in range(82)]
    metrics = ["exact_match", "chrf", "sqrt(exact_match*chrf)", "json_valid"]
    references[0], references[70] = ['{"x": 1}'], ['{"y": 1}']  # no task c for json_valid
    good = [several[0] if n % 4 else "no" for n, several in enumerate(references)]
    worse = [several[0] if n % 2 else "no" for n, several in enumerate(references)]
    answers, others = (
        [Prediction(text, tokens=1, stopped=stops) for text in texts]
        for texts, stops in ((good, True), (worse, False))
    )
    answered = Answered(answers, None, other="other", against=others)
    found = assess(sources, references, answered, places=range(82), metrics=metrics, tasks=tasks)
    assert list(found.tasks) == ["a", "b", "c"]
    assert [found.tasks[task]["n"] for task in "abc"] == [60, 20, 2]
    assert [found.tasks[task]["exact_match"] for task in "abc"] == [75, 75, 50]
    ends = found.task_intervals["a"]["exact_match"]  # Wilson's of 45 in 60
    assert ends == pytest.approx((62.77, 84.22), abs=0.005)
    assert found.task_intervals["b"].keys() == set(metrics)
    score = found.metrics["exact_match"]
    assert score.value == pytest.approx(200 / 3)
    assert score.interval[0] < 50 < 80 < score.interval[1]  # two sources are a third of it
    assert score.signature.endswith("mean:tasks[3]|ci:bootstrap-stratified")
    assert "json_valid" not in found.tasks["c"]
    assert found.metrics["json_valid"].n == 2
    assert found.against is not None
    for name, difference in found.against.difference.items():
        low, high = difference.interval
        assert low <= difference.value <= high, name
        other = found.against.metrics[name].value
        assert difference.value == pytest.approx(found.metrics[name].value - other)
    assert found.against.difference["chrf"].p_value < 0.01
    assert found.against.difference["chrf"].bootstrap_p_value < 0.01
    assert found.against.to_json()["unstopped"] == 82
    cut = "82 of 82 answers of other were cut at its length limit: JSON that is cut is not valid"
    assert cut in found.notes
    one = assess(
        sources[:60],
        references[:60],
        replace(answered, answers=answers[:60], against=None),
        places=range(60),
        metrics=["chrf"],
        tasks=tasks[:60],
    )
    plain = assess(
        sources[:60],
        references[:60],
        replace(answered, answers=answers[:60], against=None),
        places=range(60),
        metrics=["chrf"],
    )
    assert one.metrics["chrf"].value == pytest.approx(plain.metrics["chrf"].value)
    widths = [
        end.interval[1] - end.interval[0] for end in (one.metrics["chrf"], plain.metrics["chrf"])
    ]
    assert widths[0] == pytest.approx(widths[1], rel=0.15)


def test_losses_are_each_models_own() -> None:
    found = evaluated(metrics=["loss", "exact_match"], baseline=model("A", "B 2", "C three", "no…"))
    assert found.difference is not None
    assert found.metrics["loss"].value == 5.0
    assert found.difference["loss"].value == 4.0
    # Equal answers are not equal losses.
    answers, losses = [Prediction("A one", tokens=2, stopped=True)], ([(1.0, 1)], None, [(3.0, 1)])
    answered = Answered(answers, None, other="b", against=answers, losses=losses)
    same = assess(["a"], REFERENCES[:1], answered, places=[0], metrics=["loss"]).against
    assert same is not None
    assert (same.metrics["loss"].value, same.difference["loss"].value) == (3.0, -2.0)


def test_a_combination_without_a_value_is_omitted_with_a_note() -> None:
    found = evaluated(metrics=["exact_match", "chrf/(exact_match-75)"])
    assert list(found.metrics) == list(found.difference or ()) == ["exact_match"]
    assert "chrf/(exact_match-75) is omitted: not a number" in found.notes[-1]
    small = evaluated(metrics=["exact_match/1000"], baseline=None)  # its highest value is 0.1
    assert small.metrics["exact_match/1000"].value == 0.075
    assert "near zero" not in "".join(small.notes)


def test_the_same_answers_as_the_base_are_no_difference() -> None:
    same = evaluated(baseline=model("A one", "B 2", "C three", "no…")).difference
    assert same is not None
    for found in same.values():
        assert (found.value, found.interval, found.p_value) == (0.0, (0.0, 0.0), 1.0)
        assert "ci:identical" in found.signature


def test_labels_in_json_and_only_where_targets_are_labels() -> None:
    sources = [f"source {place}" for place in range(21)]
    answers = dict(zip(sources, ["no"] * 18 + ["perhaps"] * 3, strict=True))
    references = [[label] for label in LABELS]
    found = evaluate(SimpleNamespace(answers=answers), sources, references, metrics=["exact_match"])
    table = found.to_json()["labels"]
    assert table["never_answered"] == ["yes", "maybe"]
    assert table["other_answers"] == 3
    expected = {
        "label": "no",
        "references": 6,
        "answers": 18,
        "precision": 33.33,
        "recall": 100.0,
        "f1": 50.0,
    }
    assert table["table"][1] == expected
    assert table["table"][0]["precision"] is None
    assert evaluated().to_json()["labels"] is None
    page, without = (html.scored(one.to_json()) for one in (found, evaluated()))
    assert "<caption>Labels</caption>" in page
    assert "33.3" in page
    assert "Labels" not in without


@pytest.mark.parametrize(
    ("references", "translation", "expected"),
    [
        ([[label] for label in LABELS], False, ["exact_match", "macro_f1"]),
        ([[f"intent_{place % 77}"] for place in range(3080)], False, ["exact_match", "macro_f1"]),
        ([["a"]] * 8 + [["b"], ["c"]], False, ["exact_match", "macro_f1"]),
        (
            [["yes"]] * 40 + [[f"answer {place}"] for place in range(18)],
            False,
            ["exact_match", "token_f1"],
        ),
        ([[["neg", "pos"][place % 2]] for place in range(8)], True, ["exact_match", "macro_f1"]),
        ([[f"Satz {place}"] for place in range(50)], True, ["chrf", "bleu"]),
        ([[f"answer {place}"] for place in range(50)], False, ["exact_match", "token_f1", "chrf"]),
        ([[str(place // 2)] for place in range(50)], False, ["exact_match", "token_f1", "chrf"]),
        (
            [[f"a long text about {place} things that goes on"] for place in range(9)],
            False,
            ["rougeL"],
        ),
        ([[f"text {place}", f"other {place}"] for place in range(9)], False, ["rougeL"]),
        ([["yes"]], False, ["exact_match", "token_f1", "chrf"]),
        ([["दिन"], ["रात"]], False, ["exact_match", "token_f1", "chrf"]),
    ],
)
def test_metrics_are_chosen_by_the_targets(
    references: list[list[str]], translation: bool, expected: list[str]
) -> None:
    choice = choose_metrics(references, translation=translation)
    assert list(choice.metrics[: len(expected)]) == expected
    assert choice.reason


def test_an_unknown_metric_is_refused_before_decoding() -> None:
    with pytest.raises(UsageError):
        duration_note(["blue"], REFERENCES, limit=None, systems=1)


def test_no_rows_is_a_data_error() -> None:
    with pytest.raises(DataError):
        evaluated(limit=0)


def test_written_whole_and_replaced(tmp_path: Path) -> None:
    out = tmp_path / "evaluations" / "test"
    evaluated(baseline=None).write(out)
    path = evaluated().write(out)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows[1] == {
        "source": "b",
        "references": ["B two", "B 2"],
        "prediction": "B 2",
        "baseline": "B 2",
    }
    assert [row["source"] for row in rows] == SOURCES
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert scores["metrics"]["exact_match"]["value"] == 75.0
    assert str(tmp_path) not in (out / "scores.json").read_text(encoding="utf-8")
    assert sorted(item.name for item in out.parent.iterdir()) == ["test"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        evaluated().write(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


def test_scores_join_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(
        '{"format": 1, "scores": {"old": {"n": 1}}}', encoding="utf-8"
    )
    record_scores(tmp_path, "test", evaluated())
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format"] == 1
    assert manifest["scores"]["old"] == {"n": 1}
    assert manifest["scores"]["test"]["metrics"]["bleu"]["signature"].startswith("nrefs:var")


def test_a_manifest_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError):
        record_scores(tmp_path, "test", evaluated())
