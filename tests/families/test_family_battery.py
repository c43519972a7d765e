"""The battery: what every family must do, each on a tiny model built in code. ``docs/SUPPORT.md``
is made of this.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from adapting import adapt
from packaging.version import Version
from support import record
from tiny_families import TINY, build, write
from torch import nn
from transformers import AutoModelForSeq2SeqLM

from lora_s2s.data.collate import Batch, collate
from lora_s2s.errors import DataError, UsageError
from lora_s2s.files import write_json
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_predictor
from lora_s2s.lora.adapter import load_adapter, save_adapter
from lora_s2s.lora.inject import trainable_parameters
from lora_s2s.lora.merge import merge_adapter
from lora_s2s.lora.targets import resolve_targets
from lora_s2s.models.common import begin_answers
from lora_s2s.models.family import FAMILIES, REFUSED, check_lengths, family_of
from lora_s2s.models.loading import LoadedBase, enable_gradient_checkpointing, load_base
from lora_s2s.models.t5 import loading_note
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.loading import load_tokenizer
from lora_s2s.tokens.special_tokens import first_ids, special_token_templates
from lora_s2s.tokens.tokenise import Features, LengthRules, features_of
from lora_s2s.training.loss import sequence_loss

GROUPS = ("attention-qv", "attention", "cross-attention", "encoder", "decoder", "all-linear")
PAIRS = {"w40 w41 w42 w43 w44 w45 w46": "w60 w61", "w50 w51 w52": "w62 w63 w64 w65"}
RULES = LengthRules(32, 32, truncate_source="right", long_targets="drop")
# The others run with the slow tests.
ALWAYS = (
    "T5 v1.0",
    "T5 v1.1, LM-adapted, Flan-T5",
    "ByT5",
    "mT5",
    "BART",
    "M2M100, NLLB",
    "T5Gemma",
)
ROWS = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in TINY],
)


@dataclass(frozen=True)
class Trained:
    """An adapter trained on two pairs until it knows them, in a folder."""

    adapter: Path
    losses: tuple[float, float]
    logits: torch.Tensor
    batch: Batch


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@cache
def folder_of(name: str, place: Path) -> Path:
    return write(TINY[name], place / TINY[name].family / str(list(TINY).index(name)))


def batch_of(folder: Path) -> Batch:
    tokenizer = load_tokenizer(str(folder))
    templates, rows = special_token_templates(tokenizer), []
    for source, target in PAIRS.items():
        row = features_of(*encode_texts([source, target], tokenizer), templates, RULES)
        assert isinstance(row, Features)
        rows.append(row)
    return collate(rows, tokenizer.pad_token_id)


def logits_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    # Every position, padded ones too.
    labels = batch.labels_BT.clamp(min=0)
    with torch.no_grad():
        return model(
            input_ids=batch.input_ids_BS,
            attention_mask=batch.attention_mask_BS,
            decoder_input_ids=labels,
        ).logits


def fit(base: LoadedBase, batch: Batch, steps: int) -> tuple[Any, tuple[float, float]]:
    """Trains LoRA on everything; returns the model and the first and last loss."""
    model = adapt(base, r=8, alpha=16, dropout=0.0, target_modules="all-linear", seed=1)
    base.family.set_dropout(model, 0.0)
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=5e-3
    )
    losses = []
    model.train()
    for _ in range(steps):
        loss, _count = sequence_loss(model, batch)
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), (losses[0], losses[-1])


@cache
def trained_on(name: str, place: Path, steps: int = 40) -> Trained:
    folder = folder_of(name, place)
    batch, base = batch_of(folder), load_base(str(folder), device="cpu")
    begin_answers(base.model, **first_ids(load_tokenizer(str(folder))))
    model, losses = fit(base, batch, steps)
    out = place / f"{folder.parent.name}-{folder.name}-adapter"
    out.mkdir()
    save_adapter(model, out)
    origin = {
        "name": base.name,
        "revision": None,
        "weights_sha256": base.weights_sha256,
        "dtype": "float32",
    }
    write_json(
        out / "manifest.json", {"format": 1, "base": origin, "input": {"max_source_tokens": 32}}
    )
    return Trained(out, losses, logits_of(model, batch), batch)


@pytest.fixture
def trained(name: str, place: Path) -> Trained:
    return trained_on(name, place)


@ROWS
def test_it_computes_what_transformers_computes(name: str, place: Path) -> None:
    folder, batch = folder_of(name, place), batch_of(folder_of(name, place))
    base = load_base(str(folder), device="cpu")
    theirs = AutoModelForSeq2SeqLM.from_pretrained(
        folder, attn_implementation=base.model.config._attn_implementation
    )
    assert torch.equal(logits_of(base.model, batch), logits_of(theirs, batch))
    assert torch.allclose(
        logits_of(base.model, batch), logits_of(build(TINY[name]), batch), atol=1e-5
    )
    # The labels shifted by the model itself give our loss: the same start, the same padding.
    loss, count = sequence_loss(base.model, batch)
    mean = theirs(
        input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, labels=batch.labels_BT
    ).loss
    assert count == batch.target_tokens
    assert loss.item() == pytest.approx(mean.item() * count, rel=1e-5)
    record("family", name, "same as transformers")


@ROWS
def test_groups_resolve(name: str, place: Path) -> None:
    base = load_base(str(folder_of(name, place)), device="cpu")
    found = {group: set(resolve_targets(base, group).shapes) for group in GROUPS}
    assert all(found.values())
    assert found["encoder"] | found["decoder"] == found["all-linear"]
    assert not found["encoder"] & found["decoder"]
    assert found["cross-attention"] < found["decoder"]
    assert found["attention-qv"] < found["attention"] < found["all-linear"]
    assert found["cross-attention"] < found["attention"]
    linear = {full for full, module in base.model.named_modules() if isinstance(module, nn.Linear)}
    assert {full for full in linear if "lm_head" not in full} == found["all-linear"]
    with pytest.raises(UsageError, match="groups: attention-qv"):
        resolve_targets(base, "nowhere")
    record("family", name, "targets")


@ROWS
def test_lora_trains(name: str, trained: Trained) -> None:
    first, last = trained.losses
    assert last < 0.2 * first
    record("family", name, "LoRA")


@ROWS
def test_nf4_trains(name: str, place: Path) -> None:
    base = load_base(str(folder_of(name, place)), device="cpu", quantization="nf4")
    model, (first, last) = fit(base, batch_of(folder_of(name, place)), steps=12)
    assert trainable_parameters(model) > 0
    assert last < 0.7 * first
    record("family", name, "nf4")


@ROWS
def test_checkpointing_changes_no_gradient(name: str, place: Path) -> None:
    base, batch = (
        load_base(str(folder_of(name, place)), device="cpu"),
        batch_of(folder_of(name, place)),
    )
    model = adapt(base, r=2, alpha=4, dropout=0.0, target_modules="attention-qv", seed=1).train()
    base.family.set_dropout(model, 0.0)
    found = []
    for again in (False, True):
        if again:
            enable_gradient_checkpointing(model)
        sequence_loss(model, batch)[0].backward()
        grads = {
            key: weight.grad.clone()
            for key, weight in model.named_parameters()
            if weight.requires_grad
        }
        model.zero_grad()
        found.append({key: grad for key, grad in grads.items() if "lora_B" in key})
    for key, grad in found[0].items():
        assert grad.abs().sum() > 0, key
        assert torch.allclose(grad, found[1][key], rtol=1e-4, atol=1e-6), key
    record("family", name, "checkpointing")


@ROWS
def test_save_load_merge_agree(name: str, trained: Trained, tmp_path: Path) -> None:
    loaded = load_adapter(trained.adapter, device="cpu")
    assert torch.equal(logits_of(loaded.model, trained.batch), trained.logits)
    merge_adapter(trained.adapter, tmp_path / "merged", probe_texts=list(PAIRS))
    merged = load_base(str(tmp_path / "merged"), device="cpu")
    difference = (logits_of(merged.model, trained.batch) - trained.logits).abs().max()
    assert difference < 1e-4 * trained.logits.abs().max()
    plain = AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path / "merged", attn_implementation=merged.model.config._attn_implementation
    )
    assert torch.equal(logits_of(plain, trained.batch), logits_of(merged.model, trained.batch))
    assert (
        plain.generation_config.decoder_start_token_id == merged.model.config.decoder_start_token_id
    )
    record("family", name, "save, load, merge")


@ROWS
def test_it_answers_and_stops(name: str, trained: Trained) -> None:
    predictor = load_predictor(str(trained.adapter), device="cpu")
    for beams in (1, 2):
        answers = decode(
            predictor, list(PAIRS), DecodingSettings(max_new_tokens=12, num_beams=beams)
        )
        assert [answer.text for answer in answers] == list(PAIRS.values())
        assert all(answer.stopped for answer in answers)
    before = decode(predictor.baseline(), list(PAIRS), DecodingSettings(max_new_tokens=12))
    assert [answer.text for answer in before] != list(PAIRS.values())
    record("family", name, "answers")


def test_every_family_has_a_row() -> None:
    assert {tiny.family for tiny in TINY.values()} == set(FAMILIES)
    assert all(
        family.model_class.config_class is family.config_class for family in FAMILIES.values()
    )


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_is_refused_says_why(model_type: str) -> None:
    with pytest.raises(UsageError) as caught:
        family_of({"model_type": model_type, "is_encoder_decoder": True})
    reason = REFUSED[model_type]
    assert reason in str(caught.value)
    record("family", model_type, "refused", note=reason)


@ROWS
def test_sizes_are_checked_before_anything_is_allocated(
    name: str, place: Path, tmp_path: Path
) -> None:
    settings = json.loads((folder_of(name, place) / "config.json").read_text())
    for wrong in (10**12, 0, "7", 1.5, None, True):
        for part in (
            settings,
            *(settings[stack] for stack in ("encoder", "decoder") if stack in settings),
        ):
            for size in ("vocab_size", "d_model", "hidden_size"):
                if size not in part or (part is settings and "encoder" in settings):
                    continue
                kept, part[size] = part[size], wrong
                with pytest.raises(DataError, match=size):
                    family_of(settings).check_settings(settings, where="config.json")
                part[size] = kept
    family_of(settings).check_settings(settings, where="config.json")


@ROWS
def test_dropout_is_what_the_recipe_says_everywhere(name: str, place: Path) -> None:
    base, batch = (
        load_base(str(folder_of(name, place)), device="cpu"),
        batch_of(folder_of(name, place)),
    )
    base.family.set_dropout(base.model, 0.0)
    expected = sequence_loss(base.model.eval(), batch)[0]
    assert torch.allclose(sequence_loss(base.model.train(), batch)[0], expected, rtol=1e-6)
    base.family.set_dropout(base.model, 0.5)
    assert not torch.allclose(sequence_loss(base.model.train(), batch)[0], expected, rtol=1e-4)


@pytest.mark.parametrize(("name", "most"), [("BART", 40), ("T5Gemma", 64), ("T5 v1.0", None)])
def test_positions_bound_sources_and_answers(name: str, most: int | None, place: Path) -> None:
    predictor = load_predictor(str(folder_of(name, place)), device="cpu")
    assert predictor.max_positions == most
    base = load_base(str(folder_of(name, place)), device="cpu")
    check_lengths(base.family, base.model.config, name=name, max_source_tokens=40)
    if most is not None:
        with pytest.raises(
            UsageError, match=f"data.max_source_tokens is 65; {name} has {most} positions"
        ):
            check_lengths(base.family, base.model.config, name=name, max_source_tokens=65)
        source = " ".join(["w40"] * 100)
        assert len(predictor.encode(source)) == most
        (answer,) = decode(predictor, [source], DecodingSettings(max_new_tokens=100))
        assert answer.tokens < most


def test_a_checkpoints_own_decoding_settings_change_nothing(trained_bart: Path) -> None:
    predictor = load_predictor(str(trained_bart), device="cpu")
    expected = decode(predictor, list(PAIRS), DecodingSettings(max_new_tokens=2))
    assert not any(answer.stopped for answer in expected)
    own = predictor.torch.model.get_base_model().generation_config
    own.update(
        min_length=9, no_repeat_ngram_size=1, forced_eos_token_id=2, num_beams=4, length_penalty=3.0
    )
    assert decode(predictor, list(PAIRS), DecodingSettings(max_new_tokens=2)) == expected
    assert predictor.torch.model.get_base_model().generation_config is own


@pytest.fixture
def trained_bart(place: Path) -> Path:
    return trained_on("BART", place).adapter


def test_an_untied_umt5_is_not_scaled(place: Path, tmp_path: Path) -> None:
    tiny = TINY["UMT5"]
    folder = write(tiny, tmp_path / "umt5")
    model = build(tiny)
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.config.tie_word_embeddings = model.config.scale_decoder_outputs = False
    model.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**settings, "tie_word_embeddings": False})
    batch = batch_of(folder)
    ours = logits_of(load_base(str(folder), device="cpu").model, batch)
    assert torch.equal(ours, logits_of(model, batch))
    theirs = logits_of(
        AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="sdpa"), batch
    )
    # Until 5.24 transformers 5 forced a flag, and divided the logits of a head of its own by the
    # root of d_model.
    fixed = Version(transformers.__version__) >= Version("5.24")
    assert torch.allclose(theirs if fixed else theirs * 64**0.5, ours, rtol=1e-4, atol=1e-4)
    assert "5.24 or newer" in str(loading_note(load_base(str(folder), device="cpu").model.config))
    assert (
        loading_note(load_base(str(write(tiny, tmp_path / "tied")), device="cpu").model.config)
        is None
    )
