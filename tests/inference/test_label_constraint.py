"""Answers from a closed set: exactly the labels, whatever the tokenizer, the search and beams."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_tokenizers import write_tokenizer

from lora_s2s.errors import UsageError
from lora_s2s.inference.constraint import Constraint, constraint_of
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.torch_engine import TorchEngine
from lora_s2s.models.common import begin_answers
from lora_s2s.tokens.loading import load_tokenizer
from lora_s2s.tokens.special_tokens import answer_prefix, first_ids

KINDS = ["t5", "byt5", "bart", "mbart", "nllb"]
LANGUAGES = {
    "mbart": {"source_language": "en_XX", "target_language": "ro_RO"},
    "nllb": {"source_language": "eng_Latn", "target_language": "fra_Latn"},
}


def tokenizer_of(kind: str, folder: Path) -> Any:
    return load_tokenizer(write_tokenizer(kind, folder), **LANGUAGES.get(kind, {}))


def label_sets(count: int) -> Iterator[tuple[str, ...]]:
    """Sets in which labels begin, and contain, each other."""
    chosen = random.Random(3)
    for _ in range(count):
        letters = chosen.sample(string.ascii_letters, 3)
        words = ["".join(chosen.choices(letters, k=chosen.randrange(1, 5))) for _ in range(12)]
        made = [" ".join(chosen.choices(words, k=chosen.randrange(1, 3))) for _ in range(8)]
        yield tuple(dict.fromkeys(made))


def settings(labels: tuple[str, ...], **changes: Any) -> DecodingSettings:
    return DecodingSettings(40, constraint=labels, **changes)


def paths(constraint: Constraint, end: int, width: int) -> Iterator[list[int]]:
    """Every answer that a constraint allows, id by id."""
    running: list[list[int]] = [[]]
    while running:
        ids = running.pop()
        allowed = np.zeros((1, width), np.bool_)
        constraint.allow([ids], allowed)
        for token in map(int, np.flatnonzero(allowed[0])):
            if token == end:
                yield [*ids, end]
            else:
                running.append([*ids, token])


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_labels_are_allowed(kind: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind, tmp_path / kind)
    for labels in label_sets(20):
        constraint = constraint_of(settings(labels), tokenizer)
        assert constraint is not None
        allowed = list(paths(constraint, tokenizer.eos_token_id, len(tokenizer)))
        texts = tokenizer.batch_decode(allowed, skip_special_tokens=True)
        assert sorted(texts) == sorted(labels)
        first = answer_prefix(tokenizer)
        assert {tuple(ids[: len(first)]) for ids in allowed} == {first}


@pytest.mark.parametrize("kind", ["t5", "byt5", "bart", "nllb"])
def test_answers_are_labels_by_any_search(
    kind: str, tmp_path: Path, tiny_t5: Callable[..., Any]
) -> None:
    tokenizer = tokenizer_of(kind, tmp_path / kind)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    # More logits than tokens, as T5 has.
    rows = len(tokenizer) + (28 if kind == "t5" else 0)
    model = tiny_t5(vocab_size=rows, decoder_start_token_id=0, **ids)
    begin_answers(model, **first_ids(tokenizer))
    predictor = Predictor("tiny", TorchEngine("tiny", model, tokenizer), tokenizer)
    sources = ["a", "b c", "some more words", "x y z 1 2 3"]
    seen = set()
    labels = ("yes", "yes sir", "no", "maybe", "noon")
    searches = [{}, {"num_beams": 4}, {"num_beams": 8}, {"temperature": 3.0, "n_best": 3}]
    for search in searches:
        for answer in decode(predictor, sources, settings(labels, **search)):
            assert answer.stopped
            assert answer.text in labels
            seen.add(answer.text)
    for seed in range(12):
        sampled = decode(predictor, sources, settings(labels, temperature=9.0, seed=seed))
        seen |= {answer.text for answer in sampled}
    assert seen == {*labels}
    free = decode(predictor, sources, DecodingSettings(40))
    assert not {answer.text for answer in free} & {*labels}


def test_beams_rank_labels_by_the_models_probability(
    tmp_path: Path, tiny_t5: Callable[..., Any]
) -> None:
    import torch

    tokenizer = tokenizer_of("t5", tmp_path / "t5")
    model = tiny_t5(vocab_size=len(tokenizer))
    engine = TorchEngine("tiny", model, tokenizer)
    predictor = Predictor("tiny", engine, tokenizer)
    labels = ("yes", "no", "perhaps", "never")
    asked = settings(labels, num_beams=4, length_penalty=0.0)
    for source in ("a", "b c", "w x y z"):
        inputs = torch.tensor([predictor.encode(source)])
        scores = []
        for label in labels:
            target = torch.tensor([tokenizer(label)["input_ids"]])
            with torch.no_grad():
                loss = model(input_ids=inputs, labels=target).loss
            scores.append(-float(loss) * target.shape[1])
        best = labels[int(np.argmax(scores))]
        assert decode(predictor, [source], asked)[0].text == best


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        (("yes", "a{b"), {}, r"cannot write the label 'a\{b': '\{' \(unknown\)"),
        (("a b", "a  b"), {}, "writes the labels 'a b' and 'a  b' alike"),
        (("yes", "much too long"), {"max_new_tokens": 5}, "the longest label takes 15 tokens"),
        (("yes", "no"), {"no_repeat_ngram_size": 2}, "exclude each other"),
        ("labels", {}, "was not read: labels"),
    ],
)
def test_labels_that_cannot_be_had(
    labels: Any, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tokenizer = tokenizer_of("t5", tmp_path / "t5")
    asked = DecodingSettings(**{"max_new_tokens": 40, "constraint": labels, **changes})
    with pytest.raises(UsageError, match=message):
        constraint_of(asked, tokenizer)


def test_bytes_write_every_label(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("byt5", tmp_path / "byt5")
    labels = ("{a}\n", "日本", " a", "a")
    constraint = constraint_of(settings(labels), tokenizer)
    assert constraint is not None
    allowed = list(paths(constraint, tokenizer.eos_token_id, len(tokenizer)))
    assert {*tokenizer.batch_decode(allowed, skip_special_tokens=True)} == {*labels}


@pytest.mark.parametrize("beams", [1, 4])
def test_our_own_decoding_is_that_of_generate(
    beams: int, tmp_path: Path, tiny_t5: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of("t5", tmp_path / "t5")
    predictors = []
    for forward in ("fast", "reference"):
        monkeypatch.setenv("LORA_S2S_FORWARD", forward)
        engine = TorchEngine("tiny", tiny_t5(vocab_size=len(tokenizer)), tokenizer)
        predictor = Predictor("tiny", engine, tokenizer)
        asked = [settings(labels, num_beams=beams) for labels in label_sets(4)]
        queued = engine.queued_answers([[5, 1]], asked[0])
        assert (queued is not None) == (forward == "fast")
        sources = [f"{word} {word}" for word in string.ascii_lowercase]
        predictors.append([decode(predictor, sources, one) for one in asked])
    assert predictors[0] == predictors[1]
