"""``model.score``: labels with probabilities, candidates in order, and what is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

import lora_s2s
from lora_s2s.pipeline.model import Model
from lora_s2s.pipeline.ranking import Ranking

LABELS = ["billing", "a refund", "delivery"]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return lora_s2s.load(tiny_model, progress=False)


def test_probabilities_are_normalised_log_probabilities(model: Model) -> None:
    one = model.score("where is my parcel", LABELS)
    assert one.candidates == tuple(LABELS)
    odds = [math.exp(value - max(one.log_probs)) for value in one.log_probs]
    assert one.probabilities == pytest.approx([value / sum(odds) for value in odds])
    assert one.ranked[0] == (one.best, max(one.probabilities))
    fields = one.to_dict()
    assert fields["prediction"] == one.best
    assert fields["log_prob"] == max(one.log_probs) < 0
    assert fields["scores"] == dict(zip(LABELS, one.probabilities, strict=True))
    warm = model.score("where is my parcel", LABELS, temperature=10.0)
    assert warm.log_probs == one.log_probs
    assert max(warm.probabilities) < max(one.probabilities)


def test_the_order_of_candidates_changes_nothing(model: Model) -> None:
    one, other = (
        dict(zip(ranking.candidates, ranking.log_probs, strict=True))
        for ranking in (model.score("hello", LABELS), model.score("hello", LABELS[::-1]))
    )
    assert one == pytest.approx(other, rel=1e-5)


def test_a_ranking_shows_itself_in_a_notebook() -> None:
    page = Ranking(("<b>", "c"), (-2.0, -1.0), (0.25, 0.75))._repr_html_()
    assert re.search(
        r"<td[^>]*>c</td><td[^>]*>75.0%.*&lt;b&gt;</td><td[^>]*>25.0%", page, re.DOTALL
    )


def test_candidates_of_each_source_are_ranked(model: Model) -> None:
    lists = [["a house", "the street of houses"], ["a", "the number of house 3", "it is"]]
    first, second = model.score([{"source": "one"}, {"source": "two"}], lists)
    assert (first.candidates, second.candidates) == (tuple(lists[0]), tuple(lists[1]))
    per_token = model.score("two", lists[1], length_normalized=True)
    assert per_token.log_probs == pytest.approx(second.log_probs, rel=1e-5)
    # The longest candidate loses by its sum, and not by its mean.
    assert second.best == "a"
    assert per_token.probabilities[1] > second.probabilities[1]
    assert [one.best for one in model.score(["one", "two"], ["x", "y"])]
    assert model.score([], LABELS) == []


@pytest.mark.parametrize(
    ("inputs", "candidates", "options", "problem"),
    [
        ("a", "yes", {}, "candidates: expected a list of texts, got str"),
        ("a", ["yes", 1], {}, "a list of texts, or such a list for each source"),
        ("a", [["yes", "no"]], {}, "candidates: 1 lists for 1 source"),
        ("a", ["yes", "no ☃"], {}, "cannot write '☃' of the candidate 'no ☃'"),
        (["a", "b"], [["yes", "no"]], {}, "candidates: 1 lists for 2 sources"),
        ("a", None, {}, "has no recipe that names training data"),
        ("a", ["yes"], {}, "one candidate, 'yes': expected at least two"),
        ("a", ["yes", "no"], {"temperature": 0.0}, "temperature is 0; expected more than 0"),
        ("a", ["yes " * 9, "no"], {"max_new_tokens": 5}, "tokens, expected at most 5"),
        ({"text": "a"}, ["yes", "no"], {"num_beams": 2}, "num_beams"),
    ],
)
def test_what_cannot_be_ranked_is_refused(
    model: Model, inputs: Any, candidates: Any, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises((lora_s2s.Error, TypeError), match=problem):
        model.score(inputs, candidates, **options)
