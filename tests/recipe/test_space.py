"""What a sweep varies is checked by the schema, all of it at once, before anything is trained."""

from __future__ import annotations

import pytest

from lora_s2s.errors import UsageError
from lora_s2s.recipe.load import recipe_from_settings
from lora_s2s.recipe.space import combinations, read_space

RECIPE = recipe_from_settings("it", ["model.name=demo", "data.train=x", "lora.r=4"])


def test_ranges_and_values_are_read() -> None:
    words = ["training.learning_rate=1e-4:3e-3:log", "lora.r=8,16, 32", "lora.alpha=4:64"]
    rate, rank, alpha = read_space(RECIPE, words)
    assert (rate.low, rate.high, rate.log, rate.whole) == (1e-4, 3e-3, True, False)
    assert rank.choices == ("8", "16", "32")
    assert (alpha.tried, alpha.log) == ((4.0, 64.0), False)
    assert rate.fitted(0.000123456) == 0.000123
    assert rate.fitted(0.0029999) == 3e-3
    (whole,) = read_space(RECIPE, {"lora.r": "2:9"})
    assert (whole.whole, whole.fitted(3.0)) == (True, 3)
    assert str(rate) == "0.0001 to 0.003 on a logarithmic scale"


def test_lists_have_combinations_and_ranges_none() -> None:
    space = read_space(RECIPE, {"lora.r": [8, 16], "training.packing": [True, False]})
    assert combinations(space) == [
        {"lora.r": rank, "training.packing": packing}
        for rank in ("8", "16")
        for packing in ("true", "false")
    ]
    assert combinations(read_space(RECIPE, ["lora.r=1:2"])) is None


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("training.lr=1:2", "unknown key 'training.lr' (did you mean 'training.learning_rate'?)"),
        ("lora.r=0:8", "lora.r: should be greater than or equal to 1; got 0"),
        ("lora.r=8,x", "lora.r: expected a whole number, got 'x'"),
        ("lora.r=1.5:3", "expected whole numbers, got 1.5:3"),
        ("lora.r=8:2", "the range begins at 8, which is not below 2"),
        ("lora.r=8", "expected two or more values, or a range; got '8'"),
        ("lora.dropout=0:0.1:log", "a logarithmic range begins above 0, not at 0"),
        ("training.learning_rate=1e-3:99", "at most 10; got 99.0"),
        ("lora.method=1:2", "not a number, so it has no range"),
        ("data.max_source_tokens=64,128", "the data is prepared once for all trials"),
        ("training.seed=1,2", "all trials have the same seed"),
        ("evaluation.num_beams=1,4", "it changes how answers are scored or kept"),
        ("rank=1,2", "expected section.key=value"),
    ],
)
def test_what_cannot_be_varied_is_refused(word: str, problem: str) -> None:
    good = "training.warmup=0.01:0.1"
    with pytest.raises(UsageError) as refused:
        read_space(RECIPE, [good, word, "training.nosuch=1,2"])
    assert problem in refused.value.message
    assert "training.nosuch" in refused.value.message


def test_values_that_exclude_each_other_are_refused_together() -> None:
    words = ["training.packing=false,true", "training.batch_size=4,8"]
    with pytest.raises(UsageError, match=r"packing=true with training\.batch_size=4"):
        read_space(RECIPE, words)
    with pytest.raises(UsageError, match="nothing to vary"):
        read_space(RECIPE, [])
