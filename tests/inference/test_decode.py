"""Decoding: order, batches and padding change nothing; limits, stops and special tokens are as
said.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import GenerationConfig

from lora_s2s.errors import ResourceError, UsageError
from lora_s2s.inference.decode import decode, length_batches
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor

Build = Callable[..., Predictor]


def sources(count: int = 16) -> list[str]:
    rng = random.Random(3)
    return [
        " ".join(f"w{rng.randrange(1, 240)}" for _ in range(rng.randrange(1, 20)))
        for _ in range(count)
    ]


class Scripted(nn.Module):
    """Answers with given rows of ids and keeps what it was asked."""

    def __init__(self, *answers: list[int], error: Exception | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(decoder_start_token_id=0, model_type="bart")
        self.generation_config = GenerationConfig()
        self.answers, self.error, self.asked = answers, error, []

    def generate(self, **asked: Any) -> torch.Tensor:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        return torch.tensor([self.answers[index] for index in range(len(asked["input_ids"]))])


def with_model(predictor: Predictor, model: Any, **engine: bool) -> Predictor:
    return replace(predictor, engine=replace(predictor.torch, model=model, **engine))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_batch_and_order_change_nothing(tiny_predictor: Build, num_beams: int) -> None:
    predictor, texts = tiny_predictor(), sources()
    wide = DecodingSettings(max_new_tokens=10, num_beams=num_beams)
    expected = decode(predictor, texts, wide)
    assert len({answer.text for answer in expected}) > 5
    assert {answer.stopped for answer in expected} == {True, False}
    assert decode(predictor, texts, wide) == expected
    assert decode(predictor, texts, replace(wide, batch_tokens=1)) == expected
    assert decode(predictor, texts, replace(wide, batch_tokens=50)) == expected
    assert decode(predictor, texts[::-1], wide) == expected[::-1]
    assert [decode(predictor, [text], wide)[0] for text in texts[:5]] == expected[:5]


def test_greedy_is_the_argmax_of_the_plain_forward(tiny_predictor: Build) -> None:
    predictor, texts = tiny_predictor(), sources(8)
    found = decode(predictor, texts, DecodingSettings(max_new_tokens=6))
    for text, answer in zip(texts, found, strict=True):
        input_ids = torch.tensor([predictor.encode(text)])
        ids = [0]
        while len(ids) < 7 and 1 not in ids:
            with torch.no_grad():
                logits = predictor.torch.model(
                    input_ids=input_ids, decoder_input_ids=torch.tensor([ids])
                ).logits
            ids.append(int(logits[0, -1].argmax()))
        assert answer.text == predictor.tokenizer.decode(ids, skip_special_tokens=True)
        assert (answer.tokens, answer.stopped) == (len(ids) - 1, 1 in ids)


def test_train_mode_and_gradients_do_not_leak_in(tiny_predictor: Build) -> None:
    predictor = tiny_predictor()
    expected = decode(predictor, sources(), DecodingSettings(max_new_tokens=8))
    predictor.torch.model.train()
    assert decode(predictor, sources(), DecodingSettings(max_new_tokens=8)) == expected
    assert not predictor.torch.model.training


def test_baseline_is_the_base_without_its_adapter(tiny_predictor: Build) -> None:
    plain = tiny_predictor()
    settings = DecodingSettings(max_new_tokens=8)
    expected = decode(plain, sources(), settings)
    torch.manual_seed(1)
    config = peft.LoraConfig(target_modules=["q", "v"], r=4, lora_alpha=64, init_lora_weights=False)
    adapted = peft.get_peft_model(tiny_predictor().torch.model, config)
    predictor = with_model(plain, adapted, has_adapter=True)
    changed = decode(predictor, sources(), settings)
    assert changed != expected
    assert decode(predictor.baseline(), sources(), settings) == expected
    assert decode(predictor, sources(), settings) == changed


def test_a_whole_model_has_no_baseline(tiny_predictor: Build) -> None:
    with pytest.raises(UsageError, match="whole model"):
        tiny_predictor().baseline()


def test_answers_are_cut_at_the_end_token_and_kept_verbatim(tiny_predictor: Build) -> None:
    model = Scripted([0, 4, 3, 5, 1, 0, 0], [0, 4, 2, 3, 6, 7, 8], [0, 1, 9, 9, 9, 9, 9])
    predictor = with_model(tiny_predictor(), model)
    ended, unended, empty = decode(
        predictor, ["w1 w2 w3", "w1 w2", "w1"], DecodingSettings(max_new_tokens=6)
    )
    # A clean-up would write "w1, w2"; the unknown token is special and goes.
    assert (ended.text, ended.tokens, ended.stopped) == ("w1 , w2", 4, True)
    assert (unended.text, unended.tokens, unended.stopped) == ("w1 , w3 w4 w5", 6, False)
    assert (empty.text, empty.tokens, empty.stopped) == ("", 1, True)


def test_limits_are_always_given_and_padding_is_masked(tiny_predictor: Build) -> None:
    model = Scripted([0, 1], [0, 1])
    decode(
        with_model(tiny_predictor(), model),
        ["w1", "w1 w2 w3"],
        DecodingSettings(max_new_tokens=77, num_beams=2),
    )
    (asked,) = model.asked
    assert asked["generation_config"].max_new_tokens == 77
    assert asked["generation_config"].num_beams == 2
    assert asked["input_ids"].tolist() == [[4, 5, 6, 1], [4, 1, 0, 0]]
    assert asked["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_equal_sources_are_decoded_once_and_progress_counts_all(tiny_predictor: Build) -> None:
    model, seen = Scripted([0, 4, 1], [0, 5, 1]), []
    predictor = with_model(tiny_predictor(), model)
    texts = ["w1", "w2 w3", "w1", "w1"]
    found = decode(
        predictor, texts, DecodingSettings(), lambda done, total: seen.append((done, total))
    )
    assert [answer.text for answer in found] == ["w2", "w1", "w2", "w2"]
    assert sum(len(asked["input_ids"]) for asked in model.asked) == 2
    assert seen[-1] == (4, 4)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_batches_keep_to_the_budget(num_beams: int) -> None:
    rng = random.Random(0)
    rows = [tuple(range(rng.randrange(1, 120))) for _ in range(400)]
    settings = DecodingSettings(num_beams=num_beams, batch_tokens=300)
    batches = length_batches(rows, settings)
    assert sorted(row for batch in batches for row in batch) == sorted(rows)
    for batch in batches:
        slots = len(batch) * max(map(len, batch)) * num_beams
        assert slots <= 300 or len(batch) == 1
    lengths = [len(row) for batch in batches for row in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_nothing_in_nothing_out(tiny_predictor: Build) -> None:
    assert decode(tiny_predictor(), []) == []


def test_out_of_memory_says_what_to_do(tiny_predictor: Build) -> None:
    predictor = with_model(tiny_predictor(), Scripted(error=torch.OutOfMemoryError("boom")))
    with pytest.raises(ResourceError) as caught:
        decode(predictor, ["w1"], DecodingSettings(batch_tokens=100))
    assert caught.value.hint == "--set evaluation.batch_tokens=50"


@pytest.mark.parametrize("name", ["max_new_tokens", "num_beams", "batch_tokens"])
def test_settings_below_one_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        DecodingSettings(**{name: 0})


def test_decoding_says_nothing(tiny_predictor: Build, capfd: pytest.CaptureFixture[str]) -> None:
    predictor = tiny_predictor()
    # What published checkpoints carry: a length limit of their own, which must neither win nor
    # warn.
    predictor.torch.model.generation_config.max_length = 3
    found = decode(predictor, sources(), DecodingSettings(max_new_tokens=9))
    assert max(answer.tokens for answer in found) == 9
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
