"""Full fine-tuning: gradients and steps are transformers' and torch's, the folder is a whole model,
a resumed run ends with the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_parts import Invoke, here, invoke, tiny_model, write_csv
from parity import assert_equal, batch_of, gradients, worst
from tiny_families import TINY, VOCABULARY, write
from training_parts import section
from transformers import AutoModelForSeq2SeqLM

import lora_s2s
from lora_s2s.errors import UsageError
from lora_s2s.fast_t5 import head
from lora_s2s.fast_t5.attention import GroupedAttention
from lora_s2s.fast_t5.choose import kinds_of_attention
from lora_s2s.lora.full import train_weights
from lora_s2s.models.loading import enable_gradient_checkpointing, load_base
from lora_s2s.pipeline.adapters import decoding_of
from lora_s2s.reports.card import Published
from lora_s2s.reports.model_card import render_model_card
from lora_s2s.training.loss import sequence_loss
from lora_s2s.training.optimizer import build_optimizer

__all__ = ["here", "invoke", "tiny_model"]

FAST = ("T5 v1.0", "T5 v1.1, LM-adapted, Flan-T5", "mT5", "UMT5", "ByT5")
FULL = ("--set", "lora.method=full", "--set", "training.batch_size=4")


def whole(folder: Path, row: str, freeze: tuple[str, ...] = ()) -> Any:
    base = load_base(str(write(TINY[row], folder)), device="cpu")
    base.family.set_dropout(base.model, 0.0)
    return train_weights(base, freeze)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("row", FAST)
def test_every_gradient_is_that_of_transformers(
    tmp_path: Path, row: str, checkpointed: bool
) -> None:
    model, batch = whole(tmp_path, row), batch_of()
    _, expected = gradients(model, batch, fast=False)
    if checkpointed:
        enable_gradient_checkpointing(model)
        model.train()
    _, found = gradients(model, batch, fast=True)
    assert expected.keys() == {name for name, _ in model.named_parameters()}
    assert worst(found, expected) <= 1e-5


def test_long_rows_smoothing_and_frozen_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = batch_of(((700, 300), (5, 2)))
    monkeypatch.setitem(head.LOGITS_AT_ONCE, "cpu", 40 * VOCABULARY)  # several chunks
    assert_equal(whole(tmp_path / "a", FAST[1]), long, label_smoothing=0.1, z_loss=1e-3)
    for parts in (("embeddings", "head"), ("encoder",), ("layer_norm",), ("DenseReluDense", "q")):
        assert_equal(whole(tmp_path / parts[0], FAST[0], parts), batch_of())


def test_trained_tables_of_positions_need_grouped_attention(tmp_path: Path) -> None:
    assert kinds_of_attention(whole(tmp_path / "a", FAST[0]), "cuda") == [GroupedAttention]
    frozen = whole(tmp_path / "b", FAST[0], ("relative_attention_bias",))
    assert len(kinds_of_attention(frozen, "cuda")) == 2


@pytest.mark.parametrize("row", [*FAST[:2], "BART", "M2M100, NLLB"])
def test_an_adamw_step_is_that_of_torch_and_transformers(tmp_path: Path, row: str) -> None:
    folder = write(TINY[row], tmp_path)
    base = load_base(str(folder), device="cpu")
    base.family.set_dropout(base.model, 0.0)
    ours, batch = train_weights(base), batch_of()
    settings = section(learning_rate=1e-3, weight_decay=0.0)
    optimizer = build_optimizer(ours, settings)
    loss, tokens = sequence_loss(ours, batch)
    (loss / tokens).backward()
    optimizer.step()

    theirs = AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager").eval()
    plain = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.0)
    inputs = {"input_ids": batch.input_ids_BS, "attention_mask": batch.attention_mask_BS}
    theirs(**inputs, labels=batch.labels_BT).loss.backward()
    plain.step()
    expected = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        # AdamW's first step is lr · g / (|g| + eps), so the sign of a gradient near 0 decides.
        clear = expected[name].grad.abs() > 1e-5
        assert torch.allclose(weight[clear], expected[name][clear], atol=1e-6), name


def test_parts_are_frozen_by_name(tmp_path: Path) -> None:
    frozen = whole(tmp_path, FAST[1], ("embeddings", "encoder"))
    names = {name for name, weight in frozen.named_parameters() if not weight.requires_grad}
    assert "shared.weight" in names
    assert all(name == "shared.weight" or name.startswith("encoder.") for name in names)
    with pytest.raises(UsageError, match="has no 'encodr' \\(did you mean 'encoder'"):
        train_weights(load_base("demo", device="cpu"), ["encodr"])
    with pytest.raises(UsageError, match="leaves nothing"):
        train_weights(load_base("demo", device="cpu"), ["embeddings", "head", "encoder", "decoder"])


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_whole_model_is_trained_resumed_scored_and_used(
    invoke: Invoke, here: Path, tiny_model: Path, optimizer: str
) -> None:
    write_csv(here / "my.csv")
    base = ("--data", "my.csv", "--model", str(tiny_model), *FULL, "--set")
    base = (*base, f"training.optimizer={optimizer}", "--set", "training.max_steps=4")
    made = invoke("train", *base, "--json")
    done = json.loads(made.stdout)
    assert done["trainable_parameters"] == done["total_parameters"]
    assert f"a base of {done['total_parameters'] / 1e6:.1f} M parameters" in made.stderr

    again = lora_s2s.load_recipe("adapters/my/recipe.yaml", {"output.name": "again"})
    lora_s2s.train(again, stop_after=1e-9, progress=False)
    resumed = lora_s2s.train(again, resume=True, progress=False)
    assert resumed.resumed_from == 1
    first, second = (here / "adapters" / name / "model.safetensors" for name in ("my", "again"))
    assert first.read_bytes() == second.read_bytes()

    words = ("eval", "my", "--baseline", "--limit", "3", "--set", "evaluation.num_beams=2")
    scores = json.loads(invoke(*words, "--json").stdout)
    assert scores["baseline"]
    assert " my " in invoke("adapters").stderr
    assert "whole model" in invoke("merge", "my", "--out", "m", code=3).stderr
    answer = invoke("predict", "my", "a text", "--set", "evaluation.max_new_tokens=4").stdout
    assert answer.endswith("\n")
    folder = here / "adapters" / "my"
    assert AutoModelForSeq2SeqLM.from_pretrained(folder).generation_config.num_beams == 1
    assert decoding_of(folder)["num_beams"] == 2
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert "## Scores" in render_model_card("my", manifest, Published("me/my"))
    marks = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    assert not isinstance(marks.get("extra_special_tokens"), list)  # transformers 4 fails on it
    card = (folder / "README.md").read_text("utf-8")
    assert "library_name: transformers" in card
    assert "PeftModel" not in card
    # Its manifest may name another base: none is downloaded, none is taken for the one it was.
    for changes, problem in (
        ({"weights_sha256": "0" * 64}, "the model was trained on"),
        ({"name": "someone/else"}, "is not downloaded"),
    ):
        spoilt = {**manifest, "base": {**manifest["base"], **changes}}
        (folder / "manifest.json").write_text(json.dumps(spoilt), "utf-8")
        assert problem in invoke("eval", "my", "--baseline", code=3).stderr


@pytest.mark.parametrize(
    ("sets", "problem"),
    [
        (["lora.method=full", "model.quantization=nf4"], "nf4 cannot hold"),
        (["lora.method=full", "model.dtype=bfloat16"], "needs float32 weights"),
        (["training.freeze=[encoder]"], "training.freeze needs lora.method=full"),
        (["training.sharding=full", "model.quantization=nf4"], "not nf4"),
        (["training.sharding=full", "training.best_metric=bleu"], "answers need whole weights"),
        (
            ["training.sharding=full", "lora.method=full", "training.optimizer=adafactor"],
            "not that of adafactor",
        ),
    ],
)
def test_what_excludes_full_fine_tuning_or_sharding_is_named(
    invoke: Invoke, sets: list[str], problem: str
) -> None:
    words = [word for one in sets for word in ("--set", one)]
    assert f"--set: {sets[0].partition('.')[0]}" in (
        message := invoke("train", "demo", *words, code=2).stderr
    )
    assert problem in message
