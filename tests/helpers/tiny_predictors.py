"""A predictor small enough for any test: a random T5 and a vocabulary of single words, both built
in code.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.torch_engine import TorchEngine
from lora_s2s.records import InputSettings

WORDS = [",", *(f"w{index}" for index in range(1, 240))]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture
def tiny_predictor(tiny_t5: Callable[..., torch.nn.Module]) -> Callable[..., Predictor]:
    """``tiny_predictor(seed=0, **InputSettings)``: the seeded model stops after various lengths."""

    def build(*, seed: int = 0, **settings: object) -> Predictor:
        model = tiny_t5(seed=seed)
        with torch.no_grad():
            # Some answers end, some run on: both must be told apart.
            model.lm_head.weight[1] *= 4
        tokenizer = tiny_tokenizer()
        engine = TorchEngine("tiny", model, tokenizer)
        return Predictor("tiny", engine, tokenizer, InputSettings.model_construct(**settings))

    return build
