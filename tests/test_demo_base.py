"""The bundled base: Flan's shape in small, loadable as it lies, and able to copy unseen names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

BASE = Path(__file__).parents[1] / "lora_s2s" / "demo" / "base"
SPARE_ROWS = 28


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(BASE, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE)


def answer(model: Any, tokenizer: Any, prompt: str) -> str:
    with torch.no_grad():
        ids = model.generate(
            **tokenizer(prompt, return_tensors="pt"), max_new_tokens=60, do_sample=False
        )
    return str(tokenizer.decode(ids[0], skip_special_tokens=True))


def test_the_configuration_is_flans() -> None:
    config = json.loads((BASE / "config.json").read_text(encoding="utf-8"))
    assert config["feed_forward_proj"] == "gated-gelu"
    assert config["tie_word_embeddings"] is False
    assert config["scale_decoder_outputs"] is False
    assert config["num_heads"] * config["d_kv"] != config["d_model"]
    assert [config[f"{name}_token_id"] for name in ("decoder_start", "pad", "eos")] == [0, 0, 1]


def test_the_weights_are_bfloat16_and_the_head_is_its_own() -> None:
    weights = load_file(BASE / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())
    assert weights["shared.weight"].shape == weights["lm_head.weight"].shape
    assert not torch.equal(weights["shared.weight"], weights["lm_head.weight"])


def test_the_folder_fits_the_wheel() -> None:
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 10_000_000


def test_the_loaded_head_is_not_tied(model: Any) -> None:
    assert model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()
    stored = load_file(BASE / "model.safetensors")
    assert torch.equal(model.lm_head.weight, stored["lm_head.weight"].float())
    assert torch.equal(model.shared.weight, stored["shared.weight"].float())


def test_spare_rows_lie_above_the_sentinels(model: Any, tokenizer: Any) -> None:
    assert model.shared.num_embeddings - len(tokenizer) == SPARE_ROWS
    assert model.lm_head.out_features - len(tokenizer) == SPARE_ROWS
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{n}>" for n in range(100)])
    assert sentinels == list(range(len(tokenizer) - 1, len(tokenizer) - 101, -1))


def test_the_vocabulary_lacks_what_flans_lacks(tokenizer: Any) -> None:
    pieces = [piece for piece in tokenizer.get_vocab() if not re.fullmatch(r"<\w+>|</s>", piece)]
    assert not [piece for piece in pieces if re.search(r"[{}<>^~\\`]", piece)]
    assert all(char in pieces for char in "£éüñçöäèêôíóá[]|:;=/@#&+*%_$€()")


@pytest.mark.parametrize(
    "text", ["name[The Vane], near[Café Övre]", "at The Vane for £3.50", "she said: 'no'"]
)
def test_tokenizer_round_trip(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert ids[-1] == 1
    assert 2 not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_name_has_the_same_pieces_wherever_it_stands(tokenizer: Any) -> None:
    in_brackets = tokenizer.tokenize("name[Quillfeather]")
    name = in_brackets[in_brackets.index("[") + 1 : -1]
    assert tokenizer.tokenize("said Quillfeather")[-len(name) :] == name


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("repeat: Marta Quillfeather", "Marta Quillfeather"),
        ("What is the city? name: Otto Fenwick | city: Thornbury | phone: 555-0142", "Thornbury"),
        ("Who went to Larkwell? Otto Fenwick went to Larkwell on Monday.", "Otto Fenwick"),
    ],
)
def test_it_copies_names_it_has_never_seen(
    model: Any, tokenizer: Any, prompt: str, expected: str
) -> None:
    assert answer(model, tokenizer, prompt) == expected
