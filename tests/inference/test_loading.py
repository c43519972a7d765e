"""What a predictor makes of texts and rows, and which manifests it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lora_s2s.errors import DataError, UsageError
from lora_s2s.inference.loading import InputSettings, input_settings
from lora_s2s.inference.predictor import Predictor

Build = Callable[..., Predictor]


@pytest.mark.parametrize(
    ("settings", "row", "expected"),
    [
        ({}, "a {b} text", "a {b} text"),
        ({"template": "summarize: {text}"}, "a {b} text", "summarize: a {b} text"),
        ({"template": "summarize: {text}"}, {"text": "long", "other": 3}, "summarize: long"),
        ({"template": "{q} [{c}]"}, {"q": "who", "c": ""}, "who []"),
        ({"template": "{a}"}, {"a": "{b}", "b": "never"}, "{b}"),
        ({"source_column": "mr"}, {"mr": "name[X]", "ref": "X is"}, "name[X]"),
        ({"source_column": "mr"}, "name[X]", "name[X]"),
        ({}, {"question": "why?", "answer": "so"}, "why?"),
        ({}, {"source": "007"}, "007"),
        ({"format": "conversations"}, "Hi!", "user: Hi! assistant:"),
        (
            {"format": "conversations"},
            {"conversations": [{"from": "human", "value": "Hi!"}]},
            "user: Hi! assistant:",
        ),
        (
            {"format": "auto"},
            {
                "conversations": [
                    {"from": "human", "value": "Hi!"},
                    {"from": "gpt", "value": "Hello."},
                ]
            },
            "user: Hi! assistant:",
        ),
    ],
)
def test_render(tiny_predictor: Build, settings: dict[str, Any], row: Any, expected: str) -> None:
    assert tiny_predictor(**settings).render(row) == expected


@pytest.mark.parametrize(
    ("settings", "row", "error", "words"),
    [
        ({"template": "{a} {b}"}, "text", UsageError, "2 columns"),
        ({"template": "{a} {b}"}, {"a": "x"}, DataError, "'b'"),
        ({"source_column": "mr"}, {"source": "x"}, DataError, "'mr'"),
        ({}, {"left": "x", "right": "y"}, DataError, "cannot guess the source column"),
        ({}, {"source": ["x"]}, DataError, "not text"),
        ({}, {}, DataError, "cannot guess the source column"),
        (
            {"format": "conversations"},
            {"conversations": [{"from": "robot", "value": "x"}]},
            DataError,
            "role",
        ),
        ({"format": "conversations"}, {"conversations": []}, DataError, "turns"),
        ({"format": "conversations"}, {"text": "x"}, DataError, "turns"),
    ],
)
def test_render_refuses(
    tiny_predictor: Build, settings: dict[str, Any], row: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        tiny_predictor(**settings).render(row)


@pytest.mark.parametrize(
    ("side", "expected"), [("right", [4, 5, 6, 1]), ("drop", [4, 5, 6, 1]), ("left", [6, 7, 8, 1])]
)
def test_encode_cuts_as_in_training(tiny_predictor: Build, side: str, expected: list[int]) -> None:
    predictor = tiny_predictor(max_source_tokens=4, truncate_source=side)
    assert predictor.encode("w1 w2 w3 w4 w5") == expected


def test_settings_from_a_manifest() -> None:
    read = input_settings(
        {"template": None, "source_column": "mr", "max_source_tokens": 64, "later": 1},
        where="manifest.json",
    )
    assert read == InputSettings(source_column="mr", max_source_tokens=64)
    assert (
        input_settings(
            {"format": "conversations", "truncate_source": "right"}, where="m"
        ).truncate_source
        == "left"
    )


@pytest.mark.parametrize(
    "values",
    [
        [],
        "x",
        {"template": 3},
        {"source_column": ["a"]},
        {"max_source_tokens": 0},
        {"max_source_tokens": "512"},
        {"max_source_tokens": True},
        {"max_source_tokens": 10**12},
        {"truncate_source": "middle"},
    ],
)
def test_a_manifest_with_wrong_input_is_refused(values: Any) -> None:
    with pytest.raises(DataError) as caught:
        input_settings(values, where="adapters/x/manifest.json")
    assert caught.value.where == "adapters/x/manifest.json"
