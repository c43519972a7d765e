"""Scores of candidates: equal to the training loss on every family, whatever is shared and cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_families import TINY, write
from transformers import AutoModelForSeq2SeqLM

from lora_s2s.data.collate import collate
from lora_s2s.errors import DataError, ResourceError
from lora_s2s.inference import score as scoring
from lora_s2s.inference import torch_scores
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.score import reference_losses, score
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.special_tokens import special_token_templates
from lora_s2s.tokens.tokenise import Features
from lora_s2s.training.loss import sequence_loss

FAMILIES = ("T5 v1.1, LM-adapted, Flan-T5", "BART", "Marian", "T5Gemma", "LongT5 (local)")
# Shared beginnings, one that is a beginning of others, and one of a single word.
LABELS = ["w9 w8 w7 w20", "w9 w8 w30", "w9 w8", "w9 w50 w51 w52 w53 w54", "w40"]
SOURCES = ["w10 w11 w12", "w13", "w14 w15 w16 w17 w18 w19"]


def targets(predictor: Predictor, texts: list[str]) -> list[list[int]]:
    frame = special_token_templates(predictor.tokenizer).target
    return [
        frame.around(ids) for ids in encode_texts(texts, predictor.tokenizer, side="text_target")
    ]


def minus_loss(predictor: Predictor, source: str, target: list[int]) -> float:
    row = Features(predictor.encode(source), target)
    with torch.no_grad():
        loss, _ = sequence_loss(
            predictor.torch.model.eval(), collate([row], predictor.tokenizer.pad_token_id)
        )
    return -float(loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_minus_the_training_loss(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = load_predictor(str(write(TINY[family], tmp_path)))
    ids = targets(predictor, LABELS)
    expected = [[minus_loss(predictor, source, one) for one in ids] for source in SOURCES]
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    start = predictor.torch.model.config.decoder_start_token_id
    with torch.no_grad():
        inputs = predictor.torch.inputs([predictor.encode(SOURCES[0])])
        decoder_ids = torch.tensor([[start, *ids[0][:-1]]])
        logits = plain(**inputs, decoder_input_ids=decoder_ids).logits[0].log_softmax(-1)
    theirs = logits.gather(1, torch.tensor(ids[0])[:, None]).sum()
    assert float(theirs) == pytest.approx(expected[0][0], rel=1e-5)
    # Only levels, only tails, and as chosen; all sources at once, and one at a time in parts.
    for pass_costs in (0, 16, 10**6):
        monkeypatch.setattr(torch_scores, "PASS_COSTS", {"cpu": pass_costs})
        for at_once, batch_tokens in ((512, 8192), (2, 16)):
            monkeypatch.setattr(scoring, "MOST_CANDIDATES", at_once)
            settings = DecodingSettings(batch_tokens=batch_tokens)
            scores = score(predictor, SOURCES, [LABELS] * 3, settings)
            for one, wanted in zip(scores, expected, strict=True):
                assert one.log_probs == pytest.approx(wanted, rel=1e-5)
                assert one.tokens == tuple(map(len, ids))


def test_losses_of_references_are_the_training_loss(
    tiny_predictor: Callable[..., Predictor],
) -> None:
    predictor = tiny_predictor(max_source_tokens=64)
    references = [LABELS[:2], ["w40", "w40"], ["w1 w2"]]
    losses = reference_losses(predictor, SOURCES, references, DecodingSettings(batch_tokens=16))
    for (nats, tokens), source, texts in zip(losses, SOURCES, references, strict=True):
        ids = targets(predictor, list(dict.fromkeys(texts)))
        assert tokens == sum(map(len, ids))
        assert nats == pytest.approx(-sum(minus_loss(predictor, source, one) for one in ids), 1e-5)


def test_candidates_differ_by_source_and_equal_ones_are_scored_once(
    tiny_predictor: Callable[..., Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = tiny_predictor(max_source_tokens=64)
    rng = random.Random(0)
    sources = [" ".join(rng.choices(["w1", "w2", "w3"], k=rng.randint(1, 20))) for _ in range(12)]
    lists = [[f"w{n} w{n + k}" for k in range(2 + n % 4)] for n in range(1, 13)]
    alone = [
        score(predictor, [one], [several])[0] for one, several in zip(sources, lists, strict=True)
    ]
    encoded: list[int] = []
    inputs = type(predictor.torch).inputs

    def counted(engine: Any, rows: list[list[int]]) -> Any:
        encoded.append(len(rows))
        return inputs(engine, rows)

    monkeypatch.setattr(type(predictor.torch), "inputs", counted)
    done: list[tuple[int, int]] = []
    both = score(predictor, sources * 2, lists * 2, None, lambda *counts: done.append(counts))
    assert sum(encoded) == len(set(sources))
    assert done[-1] == (24, 24)
    for one, other in zip(both, alone * 2, strict=True):
        assert one.candidates == other.candidates
        assert one.log_probs == pytest.approx(other.log_probs, rel=1e-5)


@pytest.mark.parametrize(
    ("candidates", "problem"),
    [
        ([], "no candidates: expected at least two"),
        (["w1"], "one candidate, 'w1': expected at least two"),
        (["w1", ""], "candidate 2 of 2 is empty: ''"),
        (["  ", "w1"], "candidate 1 of 2 is empty: '  '"),
        (["w1", "w2", "w1"], "the candidates hold 'w1' twice"),
        (["w1 w2", "w1  w2"], "hold 'w1  w2' and 'w1 w2', the same to the tokenizer"),
        (["w1", "w2 ☃"], "the tokenizer cannot write '☃' of the candidate 'w2 ☃'"),
        (["w1", "w2 " * 20], "has 21 tokens, expected at most 12"),
    ],
)
def test_candidates_that_cannot_be_told_apart_or_written_are_refused(
    tiny_predictor: Callable[..., Predictor], candidates: list[str], problem: str
) -> None:
    with pytest.raises(DataError) as refused:
        score(tiny_predictor(), ["w3"], [candidates], DecodingSettings(max_new_tokens=12))
    assert problem in refused.value.message


def test_many_labels_are_read_in_bounded_parts(
    tiny_predictor: Callable[..., Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = tiny_predictor()
    labels = [f"w{n} w{m}" for n in range(1, 60) for m in range(1, 20)]
    sizes: list[int] = []
    forward = predictor.torch.model.forward

    def watched(*args: Any, **given: Any) -> Any:
        output = forward(*args, **given)
        sizes.append(output.logits.numel())
        return output

    monkeypatch.setattr(torch_scores, "LOGITS_AT_ONCE", 8000)
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 8000)
    whole = score(predictor, ["w3 w4"], [labels])
    monkeypatch.setattr(predictor.torch.model, "forward", watched)
    (few,) = score(predictor, ["w3 w4"], [labels])
    assert max(sizes) <= 8000
    # A row of logits for each beginning, not for each token of each label.
    assert sum(sizes) / predictor.torch.model.config.vocab_size < 1.3 * len(labels)
    assert few.log_probs == pytest.approx(whole[0].log_probs, rel=1e-5)

    def full(*args: Any, **given: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(predictor.torch.model, "forward", full)
    with pytest.raises(ResourceError, match="out of memory scoring 1 source") as ended:
        score(predictor, ["w3"], [["w1", "w2"]], DecodingSettings(batch_tokens=100))
    assert ended.value.hint == "--set evaluation.batch_tokens=50"
