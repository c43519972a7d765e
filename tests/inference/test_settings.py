"""Decoding settings: the same answers as transformers' generate with them; sampling that depends on
the source and the seed alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from lora_s2s.errors import UsageError
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.recipe.evaluation import EvaluationSection
from lora_s2s.records import Decoding

Build = Callable[..., Predictor]


def sources(count: int = 12) -> list[str]:
    chosen = random.Random(5)
    return [
        " ".join(f"w{chosen.randrange(1, 240)}" for _ in range(chosen.randrange(1, 16)))
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2, "num_beams": 3},
        {"length_penalty": -3.0, "num_beams": 4},
        {"early_stopping": True, "num_beams": 4},
    ],
)
def test_answers_are_those_of_generate(tiny_predictor: Build, asked: dict[str, Any]) -> None:
    predictor = tiny_predictor()
    settings = DecodingSettings(max_new_tokens=12, **asked)
    found = decode(predictor, sources(), settings)
    plain = decode(predictor, sources(), DecodingSettings(12, num_beams=settings.num_beams))
    assert found != plain or settings.early_stopping
    for text, answer in zip(sources(), found, strict=True):
        output = predictor.torch.model.generate(  # type: ignore[operator]
            input_ids=torch.tensor([predictor.encode(text)]),
            max_new_tokens=12,
            **{"num_beams": 1, **asked},
            do_sample=False,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
        assert answer.text == predictor.tokenizer.decode(output[0], skip_special_tokens=True)


def test_samples_depend_on_source_and_seed_alone(tiny_predictor: Build) -> None:
    predictor, texts = tiny_predictor(), sources()
    settings = DecodingSettings(max_new_tokens=8, temperature=2.0)
    found = decode(predictor, texts, settings)
    assert found != decode(predictor, texts, DecodingSettings(max_new_tokens=8))
    assert decode(predictor, texts, settings) == found
    assert decode(predictor, texts[::-1], replace(settings, batch_tokens=16)) == found[::-1]
    assert decode(predictor, texts[4:5], settings) == found[4:5]
    other = decode(predictor, texts, replace(settings, seed=7))
    assert sum(a != b for a, b in zip(found, other, strict=True)) >= len(texts) - 1


# The first has both settings, which act one after the other; the others show which one is wrong.
@pytest.mark.parametrize(
    ("temperature", "top_p"),
    [
        pytest.param(0.5, 0.6, marks=pytest.mark.slow),
        pytest.param(1.0, 1.0, marks=pytest.mark.long),
        pytest.param(0.5, 1.0, marks=pytest.mark.long),
        pytest.param(1.0, 0.6, marks=pytest.mark.long),
    ],
)
def test_samples_have_the_models_probabilities(
    tiny_predictor: Build, temperature: float, top_p: float
) -> None:
    predictor, text, draws = tiny_predictor(), "w1 w2", 1000
    source = torch.tensor([predictor.encode(text)])
    with torch.no_grad():
        start = torch.zeros(1, 1, dtype=torch.long)
        logits = predictor.torch.model(input_ids=source, decoder_input_ids=start).logits[0, 0]
    probs = (logits.double() / temperature).softmax(0)
    order = probs.argsort(descending=True)
    before = probs[order].cumsum(0) - probs[order]
    probs[order[before >= top_p]] = 0
    probs /= probs.sum()
    settings = DecodingSettings(1, temperature=temperature, top_p=top_p)
    counts = Counter(
        predictor.engine.answers([predictor.encode(text)], replace(settings, seed=seed))[0][0]
        for seed in range(draws)
    )
    assert all(probs[token] > 0 for token in counts)
    for token in order[:5].tolist():
        expected = draws * probs[token].item()
        assert abs(counts[token] - expected) < 4 * max(expected, 1) ** 0.5 + 1


def test_a_low_temperature_is_greedy(tiny_predictor: Build) -> None:
    predictor = tiny_predictor()
    cold = decode(predictor, sources(), DecodingSettings(8, temperature=1e-4))
    assert cold == decode(predictor, sources(), DecodingSettings(8))


def test_sampling_and_beams_exclude_each_other() -> None:
    with pytest.raises(UsageError, match=r"evaluation.temperature 0.5 samples, and evaluation.num"):
        DecodingSettings(temperature=0.5, num_beams=2)


def test_defaults_agree_wherever_they_stand() -> None:
    settings = DecodingSettings()
    for section in (EvaluationSection(), Decoding(max_new_tokens=128, num_beams=1)):
        for name, value in section:
            if name in vars(settings) and name != "max_new_tokens":
                assert getattr(settings, name) == value, name
