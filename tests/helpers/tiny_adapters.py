"""Helpers of this room's tests: a word tokenizer that transformers 4 and 5 both load, and stirred
adapters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

# Shapes whose every row is whole blocks of 64, as nf4 wants them.
WHOLE_BLOCKS = {"d_model": 64, "d_kv": 64, "d_ff": 192}
WORDS = ["red", "green", "blue", "seven", "otters", "swim", "under", "the", "old", "bridge"]


def write_tokenizer(folder: Path) -> None:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **marks}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def stir(model: Any, seed: int = 1, only: str = "lora_B") -> None:
    """Gives B, or all that trains (``only=""``), other weights, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only in name if only else parameter.requires_grad:
                new = torch.randn(parameter.shape, generator=generator) * 0.2
                parameter.copy_(new if only else parameter + new)
