"""Our own decoding gives what transformers' generate gives, token for token, and says where it is
not used.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import adapted
from tiny_families import TINY, VOCABULARY, write

from lora_s2s.errors import DataError, ResourceError
from lora_s2s.fast_t5 import decoder as fast
from lora_s2s.fast_t5.choose import VARIABLE
from lora_s2s.inference import continuous, fast_decoding
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.torch_engine import TorchEngine

FLAN = "T5 v1.1, LM-adapted, Flan-T5"
FAMILIES = ["T5 v1.0", FLAN, "mT5", "UMT5", "ByT5", "CodeT5, CodeT5+"]


def sources(count: int = 40) -> list[list[int]]:
    """Random ids, most sources short and some long, </s> at the end."""
    chosen = random.Random(0)
    lengths = [chosen.choice((1, 3, 5, 9, 40)) for _ in range(count)]
    return [[*(chosen.randrange(3, VOCABULARY) for _ in range(n)), 1] for n in lengths]


@pytest.fixture
def engine_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., TorchEngine]:
    """``engine_of(row, **adapter)``: a tiny model whose answers end after various lengths."""

    def build(row: str = FLAN, *, model: Any = None, **lora: Any) -> TorchEngine:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        predictor = load_predictor(str(write(TINY[row], folder)), device="cpu")
        network = adapted(folder / "adapted", row, model=model, **lora)
        engine = replace(predictor.torch, model=network, has_adapter=True)
        # A random model hardly ever gives </s>: another token ends answers here.
        with monkeypatch.context() as patched:
            patched.setenv(VARIABLE, "reference")
            answers = engine.answers(sources(), DecodingSettings(4))
        seen = Counter(token for answer in answers for token in answer[1:])
        tokenizer = copy.deepcopy(predictor.tokenizer)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(seen.most_common(1)[0][0])
        return replace(engine, tokenizer=tokenizer)

    return build


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[int]]]:
    """``generated(engine, settings)``: what transformers' generate answers."""

    def answers(engine: TorchEngine, settings: DecodingSettings) -> list[list[int]]:
        with monkeypatch.context() as patched:
            patched.setenv(VARIABLE, "reference")
            return engine.answers(sources(), settings)

    return answers


SETTINGS = [
    DecodingSettings(40),
    DecodingSettings(1),
    DecodingSettings(9, batch_tokens=90),
    DecodingSettings(1, num_beams=3),
    DecodingSettings(40, num_beams=4, batch_tokens=300),
    DecodingSettings(12, num_beams=3, early_stopping=True),
    DecodingSettings(12, num_beams=2, length_penalty=-1.0),
    DecodingSettings(12, num_beams=5, length_penalty=2.0, n_best=3, batch_tokens=120),
    DecodingSettings(9, temperature=1.0, top_p=0.9),
    DecodingSettings(40, temperature=1.5, n_best=3, batch_tokens=240),
]


def assert_generates(
    engine: TorchEngine, generated: Callable[..., list[list[int]]], settings: DecodingSettings
) -> None:
    assert engine.queued_answers(sources(), settings) is not None
    assert engine.answers(sources(), settings) == generated(engine, settings)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings(engine_of: Any, generated: Any, settings: DecodingSettings) -> None:
    engine = engine_of()
    assert_generates(engine, generated, settings)
    if settings.max_new_tokens == 40:
        assert len({len(answer) for answer in generated(engine, settings)}) > 2


@pytest.mark.parametrize(
    ("settings", "sources_read"),
    [
        (DecodingSettings(8, num_beams=4, batch_tokens=90), 2),  # each has 41 tokens, once
        (DecodingSettings(8, num_beams=50, batch_tokens=900), 2),  # 128 rows at most
    ],
    ids=["tokens", "rows"],
)
def test_a_batch_is_bounded_by_tokens_and_rows(
    engine_of: Any, monkeypatch: pytest.MonkeyPatch, settings: DecodingSettings, sources_read: int
) -> None:
    counts, read = [], fast.Decoder.read

    def counted(self: fast.Decoder, chosen: list[list[int]]) -> fast.State:
        counts.append(len(chosen))
        return read(self, chosen)

    monkeypatch.setattr(fast.Decoder, "read", counted)
    engine_of().answers([[*[5] * 40, 1]] * 4, settings)
    assert max(counts) == sources_read


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("row", FAMILIES)
def test_families(engine_of: Any, generated: Any, row: str, num_beams: int) -> None:
    settings = DecodingSettings(16, num_beams=num_beams, batch_tokens=400)
    assert_generates(engine_of(row, target_modules="all-linear"), generated, settings)


@pytest.mark.parametrize(
    "adapter",
    [
        {"method": "dora", "target_modules": "all-linear"},
        {"method": "ia3", "r": 1, "target_modules": "all-linear"},
        {"model": {"quantization": "nf4"}, "target_modules": "all-linear"},
        {"train_tokens": [5, 7]},
    ],
    ids=str,
)
def test_adapters(engine_of: Any, generated: Any, adapter: dict[str, Any]) -> None:
    engine = engine_of(**adapter)
    for settings in (DecodingSettings(16), DecodingSettings(16, num_beams=3)):
        assert_generates(engine, generated, settings)


def test_an_adapter_off_and_on_again(engine_of: Any, generated: Any) -> None:
    engine, settings = engine_of(), DecodingSettings(12)
    base = engine.without_adapter()
    found = [one.answers(sources(), settings) for one in (engine, base, engine)]
    assert found == [generated(one, settings) for one in (engine, base, engine)]
    assert found[0] != found[1]


def test_changed_weights_are_noticed(engine_of: Any, generated: Any) -> None:
    engine, settings = engine_of(), DecodingSettings(12)
    before = engine.answers(sources(), settings)
    factors = [weight for name, weight in engine.model.named_parameters() if "lora_B" in name]
    with torch.no_grad():
        for factor in factors:
            factor.mul_(-3)
    after = engine.answers(sources(), settings)
    assert after == generated(engine, settings)
    assert after != before


def test_long_answers_and_a_vocabulary_of_blocks(
    engine_of: Any, generated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous, "_BLOCK", 7)
    engine = engine_of()
    tokenizer = copy.deepcopy(engine.tokenizer)
    tokenizer.eos_token = "</s>"
    endless = replace(engine, tokenizer=tokenizer)
    for settings in (DecodingSettings(150), DecodingSettings(70, num_beams=2)):
        expected = generated(endless, settings)
        assert endless.answers(sources(), settings) == expected
        assert max(map(len, expected)) == settings.max_new_tokens


@pytest.mark.parametrize(
    "settings",
    [
        DecodingSettings(8, repetition_penalty=1.5),
        DecodingSettings(8, no_repeat_ngram_size=2),
    ],
    ids=str,
)
def test_other_settings_are_left_to_generate(
    engine_of: Any, generated: Any, settings: DecodingSettings
) -> None:
    engine = engine_of()
    assert engine.queued_answers(sources(), settings) is None
    assert engine.answers(sources(), settings) == generated(engine, settings)


def test_a_decoder_that_differs_is_not_used(
    engine_of: Any, generated: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(fast, "head_scale", lambda _: 1.1)
    engine, settings = engine_of(), DecodingSettings(8)
    found = engine.answers(sources(), settings)
    assert found == engine.answers(sources(), settings) == generated(engine, settings)
    said = capsys.readouterr().err
    assert said.count("decoding: by transformers' generate") == 1
    assert "log-probabilities" in said


def test_answers_come_as_they_end_and_can_be_ended(engine_of: Any, generated: Any) -> None:
    engine, settings = engine_of(), DecodingSettings(30)
    whole, seen = generated(engine, settings), []

    def watch(place: int, ids: list[int]) -> bool:
        seen.append((place, ids))
        return place == 2 and len(ids) == 1

    ended = engine.watched_answers(sources(), settings, watch)
    assert ended == [answer[:1] if place == 2 else answer for place, answer in enumerate(whole)]
    for place, answer in enumerate(ended):
        steps = [ids for which, ids in seen if which == place]
        assert steps == [answer[: step + 1] for step in range(len(answer))]
    queued = list(engine.queued_answers(sources(), settings))
    assert [place for place, _ in queued] != sorted(place for place, _ in queued)
    assert dict(queued) == dict(enumerate(whole))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_logits_that_are_not_finite(engine_of: Any, num_beams: int) -> None:
    engine = engine_of()
    with torch.no_grad():
        engine.model.get_output_embeddings().weight[7] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        engine.answers(sources(), DecodingSettings(8, num_beams=num_beams))


def test_out_of_memory_names_the_batch(engine_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, settings = engine_of(), DecodingSettings(8, num_beams=2, batch_tokens=200)
    engine.answers(sources(), settings)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("boom")

    monkeypatch.setattr(fast.Decoder, "read", full)
    with pytest.raises(ResourceError, match="2 sources of up to 41 tokens with 2 beam") as caught:
        engine.answers(sources(), settings)
    assert caught.value.hint == "--set evaluation.batch_tokens=100"


@pytest.mark.parametrize("vocabulary", [5, 64, 1029, 4096])
@pytest.mark.parametrize("count", [1, 8])
def test_the_largest_logits(vocabulary: int, count: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(40, vocabulary, generator=generator)
    values, ids = continuous.largest(logits, count)
    expected = logits.topk(min(count, vocabulary), dim=-1)
    assert torch.equal(values, expected.values)
    assert torch.equal(ids, expected.indices)


def test_samples_can_be_followed(engine_of: Any) -> None:
    engine, settings, seen = engine_of(), DecodingSettings(8, temperature=1.0), []
    watched = engine.watched_answers(sources(), settings, lambda place, _: seen.append(place))
    assert watched == engine.answers(sources(), settings)
    assert len(seen) == sum(map(len, watched))


def test_few_rows_are_moved_when_some_have_ended() -> None:
    assert fast.close_ranks([0, 2, 3, 6]) == [0, 6, 2, 3]
    assert fast.close_ranks([4]) == [4]
    assert fast.close_ranks([0, 1]) == [0, 1]


def test_large_weights_are_not_copied(
    engine_of: Any, generated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "_MOST_COPIED_BYTES", 0)
    assert_generates(engine_of(), generated, DecodingSettings(12, num_beams=2))


def test_a_model_that_goes_takes_its_decoder_with_it(engine_of: Any) -> None:
    engine = engine_of()
    engine.answers(sources(), DecodingSettings(2))
    before = len(fast_decoding._CHOSEN)
    del engine
    import gc

    gc.collect()
    assert len(fast_decoding._CHOSEN) < before
