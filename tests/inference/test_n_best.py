"""Several answers with scores: those of generate, and their exact log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lora_s2s.errors import UsageError
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor

Build = Callable[..., Predictor]
TEXTS = ["w1 w2 w3", "w7", "w9 w9 w30 w4 w5 w8", "w2"]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beams_and_their_scores_are_those_of_generate(
    tiny_predictor: Build, penalty: float
) -> None:
    predictor = tiny_predictor()
    settings = DecodingSettings(8, num_beams=4, n_best=3, length_penalty=penalty)
    for text, answer in zip(TEXTS, decode(predictor, TEXTS, settings), strict=True):
        output = predictor.torch.model.generate(  # type: ignore[operator]
            input_ids=torch.tensor([predictor.encode(text)]),
            max_new_tokens=8,
            num_beams=4,
            num_return_sequences=3,
            length_penalty=penalty,
            do_sample=False,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
            output_scores=True,
            return_dict_in_generate=True,
        )
        texts = predictor.tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
        assert [one["text"] for one in answer.n_best] == texts
        assert answer.text == texts[0]
        ended = (output.sequences[:, 1:] == 1).cumsum(dim=-1) > 0
        lengths = (~ended).sum(dim=-1) + ended.any(dim=-1)
        expected = (output.sequences_scores * lengths**penalty).tolist()
        assert [one["score"] for one in answer.n_best] == pytest.approx(expected, abs=1e-4)


def test_the_score_of_a_greedy_answer(tiny_predictor: Build) -> None:
    predictor = tiny_predictor()
    greedy = decode(predictor, TEXTS, DecodingSettings(3))
    scored = decode(predictor, TEXTS, DecodingSettings(3, n_best=1))
    assert [replace(answer, n_best=()) for answer in scored] == greedy
    assert any(not answer.stopped for answer in scored)
    for text, answer in zip(TEXTS, scored, strict=True):
        source = torch.tensor([predictor.encode(text)])
        ids = predictor.engine.answers([source[0].tolist()], DecodingSettings(3))[0]
        inputs = torch.tensor([[0, *ids[:-1]]])
        with torch.no_grad():
            logits = predictor.torch.model(input_ids=source, decoder_input_ids=inputs).logits[0]
        expected = logits.log_softmax(dim=-1)[range(len(ids)), ids].sum().item()
        assert answer.n_best[0]["score"] == pytest.approx(expected, abs=1e-4)


def test_samples_do_not_depend_on_their_number_or_the_batch(tiny_predictor: Build) -> None:
    predictor = tiny_predictor()
    settings = DecodingSettings(8, temperature=1.5, n_best=6)
    several = decode(predictor, TEXTS, settings)
    texts = [[one["text"] for one in answer.n_best] for answer in several]
    assert all(len(set(one)) > 1 for one in texts)
    alone = decode(predictor, TEXTS, replace(settings, n_best=0))
    assert [one[0] for one in texts] == [answer.text for answer in alone]
    few = decode(predictor, TEXTS[::-1], replace(settings, n_best=3, batch_tokens=16))[::-1]
    assert [answer.n_best for answer in few] == [
        tuple(pytest.approx(one) for one in answer.n_best[:3]) for answer in several
    ]


def test_a_search_that_finds_fewer_answers_than_beams(tiny_predictor: Build) -> None:
    predictor, labels = tiny_predictor(), ("w3", "w4 w5")
    settings = DecodingSettings(8, num_beams=5, n_best=5, constraint=labels)
    for answer in decode(predictor, TEXTS, settings):
        assert sorted(one["text"] for one in answer.n_best) == [*labels]


def test_more_answers_than_beams_are_refused() -> None:
    with pytest.raises(UsageError, match=r"n_best is 5, and evaluation.num_beams 4 finds as many"):
        DecodingSettings(num_beams=4, n_best=5)
    with pytest.raises(UsageError, match="n_best is 2, and greedy search finds 1") as caught:
        DecodingSettings(n_best=2)
    assert "num_beams=2" in str(caught.value.hint)
