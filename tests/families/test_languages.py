"""Languages on the whole way: recipe → training → adapter → predict and merge, each unasked; the
start as HF trains.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_families import BART_SIZES
from tiny_tokenizers import write_tokenizer
from transformers import AutoModelForSeq2SeqLM

from lora_s2s.data.collate import collate
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.score import score
from lora_s2s.models.common import begin_answers
from lora_s2s.models.loading import load_base
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.loading import load_tokenizer
from lora_s2s.tokens.special_tokens import first_ids, special_token_templates
from lora_s2s.tokens.tokenise import Features, LengthRules, features_of
from lora_s2s.training.loss import sequence_loss

Invoke = Callable[..., Any]
# tokenizer → model, its config's start, languages; the first two ids that the decoder sees.
KINDS = {
    "nllb": ("M2M100", 2, ("eng_Latn", "fra_Latn"), ("</s>", "fra_Latn")),
    "m2m_100": ("M2M100", 2, ("en", "fr"), ("</s>", "__fr__")),
    "mbart50": ("MBart", 2, ("en_XX", "ro_RO"), ("</s>", "ro_RO")),
    "mbart": ("MBart", None, ("en_XX", "ro_RO"), ("ro_RO", None)),
    "bart": ("Bart", 2, (), ("</s>", "<s>")),
}
TRAINING = (
    "--set",
    "training.max_steps=60",
    "--set",
    "training.learning_rate=1e-2",
    "--set",
    "lora.target_modules=all-linear",
    "--set",
    "data.max_source_tokens=40",
    "--set",
    "data.max_target_tokens=40",
    "--set",
    "data.validation_fraction=0",
    "--set",
    "training.warmup=0",
    "--set",
    "training.save_every=1000",
)


def write_base(kind: str, folder: Path) -> Path:
    """Writes a tiny model with a tokenizer that has its kind's languages."""
    write_tokenizer(kind, folder)
    stem, start, _, _ = KINDS[kind]
    torch.manual_seed(0)
    settings = {**BART_SIZES, "vocab_size": 300, "decoder_start_token_id": start}
    model = getattr(transformers, f"{stem}ForConditionalGeneration")(
        getattr(transformers, f"{stem}Config")(**settings)
    )
    model.save_pretrained(folder)
    return folder


def spoken(kind: str) -> dict[str, str]:
    return dict(zip(("source_language", "target_language"), KINDS[kind][2], strict=False))


def read(tokenizer: Any, source: str, target: str) -> Features:
    """A pair as training reads it."""
    sides = (
        encode_texts([source], tokenizer)[0],
        encode_texts([target], tokenizer, side="text_target")[0],
    )
    rules = LengthRules(30, 30, truncate_source="right", long_targets="drop")
    row = features_of(*sides, special_token_templates(tokenizer), rules)
    assert isinstance(row, Features)
    return row


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_starts_as_transformers_trains(kind: str, tmp_path: Path) -> None:
    folder = write_base(kind, tmp_path)
    tokenizer, base = (
        load_tokenizer(str(folder), **spoken(kind)),
        load_base(str(folder), device="cpu"),
    )
    begin_answers(base.model, **first_ids(tokenizer))
    pairs = (("stu vw", "xyz"), ("st", "stuvwx"))
    batch = collate([read(tokenizer, *pair) for pair in pairs], tokenizer.pad_token_id)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="sdpa")
    labels = batch.labels_BT
    if kind.startswith(
        "mbart"
    ):  # its own shift takes the last label for the start, and knows padding, not -100
        labels = labels.masked_fill(labels == -100, tokenizer.pad_token_id)
        seen = theirs.prepare_decoder_input_ids_from_labels(labels)
        assert seen[:, 0].tolist() == [base.model.config.decoder_start_token_id] * 2
        given = {"decoder_input_ids": seen, "labels": batch.labels_BT}
    else:
        given = {"labels": labels}
    with torch.no_grad():
        loss, count = sequence_loss(base.model, batch)
        mean = theirs(
            input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, **given
        ).loss
    assert float(loss) == pytest.approx(float(mean) * count, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_score_as_their_targets_train(kind: str, tmp_path: Path) -> None:
    folder = write_base(kind, tmp_path)
    (folder / "manifest.json").write_text(json.dumps({"input": spoken(kind)}), encoding="utf-8")
    predictor = load_predictor(str(folder), device="cpu")
    tokenizer, candidates = predictor.tokenizer, ["xyz", "xy", "stuvwx"]
    (scores,) = score(predictor, ["stu vw"], [candidates])
    for candidate, log_prob in zip(candidates, scores.log_probs, strict=True):
        batch = collate([read(tokenizer, "stu vw", candidate)], tokenizer.pad_token_id)
        with torch.no_grad():
            loss, _ = sequence_loss(predictor.torch.model, batch)
        assert -float(loss) == pytest.approx(log_prob, rel=1e-5)


@pytest.mark.parametrize("kind", ["nllb", "mbart", "bart"])
def test_an_adapter_answers_in_its_language_unasked(kind: str, here: Path, invoke: Invoke) -> None:
    write_base(kind, here / "base")
    words = ["stu", "vwx", "yz", "tuv", "wxy", "zst"]
    rows = [{"source": word, "target": word[::-1]} for word in words]
    (here / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    languages = [
        word for key, code in spoken(kind).items() for word in ("--set", f"data.{key}={code}")
    ]
    (here / "recipe.yaml").write_text(
        "model: {name: base}\ndata: {train: pairs.jsonl}\noutput: {name: made}\n"
    )
    invoke("train", "recipe.yaml", *TRAINING, *languages)
    manifest = json.loads((here / "adapters/made/manifest.json").read_text())
    assert {key: manifest["input"][key] for key in spoken(kind)} == spoken(kind)
    shutil.rmtree(here / "prepared")
    answered = invoke("predict", "adapters/made", *words).stdout.splitlines()
    assert answered == [row["target"] for row in rows]
    merged = invoke("merge", "adapters/made", "--out", "merged", "--json")
    assert json.loads(merged.stdout)["max_logit_difference"] < 1e-3
    assert invoke("predict", "merged", *words).stdout.splitlines() == answered
    _check_plain(kind, here / "merged", words, answered)


def _check_plain(kind: str, merged: Path, words: list[str], answered: list[str]) -> None:
    # Anyone's transformers, from the folder alone.
    tokenizer, model = (
        transformers.AutoTokenizer.from_pretrained(merged),
        AutoModelForSeq2SeqLM.from_pretrained(merged),
    )
    start, first = (
        tokenizer.convert_tokens_to_ids(token) if token else None for token in KINDS[kind][3]
    )
    assert (
        model.generation_config.decoder_start_token_id
        == model.config.decoder_start_token_id
        == start
    )
    assert model.generation_config.forced_bos_token_id == first
    if spoken(kind):
        tokenizer.src_lang = spoken(kind)["source_language"]
    answers = model.generate(
        **tokenizer(words, return_tensors="pt", padding=True), max_new_tokens=20
    )
    assert tokenizer.batch_decode(answers, skip_special_tokens=True) == answered


def test_forced_first_ids_are_what_greedy_search_goes_on_from(tmp_path: Path) -> None:
    folder = write_base("m2m_100", tmp_path)
    (folder / "manifest.json").write_text(json.dumps({"input": spoken("m2m_100")}))
    predictor = load_predictor(str(folder), device="cpu")
    (answer,) = decode(predictor, ["stu vw"], DecodingSettings(max_new_tokens=6))
    tokenizer = predictor.tokenizer
    ids = [2, tokenizer.get_lang_id("fr")]
    while len(ids) < 7 and ids[-1] != 2:
        logits = predictor.torch.model(
            input_ids=torch.tensor([predictor.encode("stu vw")]),
            decoder_input_ids=torch.tensor([ids]),
        ).logits
        ids.append(int(logits[0, -1].argmax()))
    assert answer.text == tokenizer.decode(ids[2:], skip_special_tokens=True)
    assert "__fr__" not in answer.text
    assert answer.tokens == len(ids) - 1


def test_a_base_without_its_languages_is_refused(here: Path, invoke: Invoke) -> None:
    write_base("nllb", here / "base")
    (here / "pairs.jsonl").write_text('{"source": "stu", "target": "uts"}\n')
    (here / "recipe.yaml").write_text(
        "model: {name: base}\ndata: {train: pairs.jsonl}\noutput: {name: made}\n"
    )
    refused = invoke("train", "recipe.yaml", "--set", "data.source_language=fr", code=2)
    assert "data.source_language 'fr' is unknown; codes: fra_Latn" in refused.stderr
    assert "hint: --set data.source_language=fra_Latn" in refused.stderr
    long = ("--set", "data.source_language=eng_Latn", "--set", "data.target_language=fra_Latn")
    long = (*long, "--set", "data.max_source_tokens=512")
    refused = invoke("train", "recipe.yaml", *long, "--set", "data.validation_fraction=0", code=2)
    assert "data.max_source_tokens is 512; base has 40 positions" in refused.stderr
    assert not (here / "adapters").exists()
