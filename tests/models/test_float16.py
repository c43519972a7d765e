"""float16: rescaling changes nothing but the size of the residual stream, and a model that overflows trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_inputs import MASK, SOURCE
from torch import Tensor
from training_parts import PAD, VOCABULARY

from lora_s2s.lora.inject import inject_lora
from lora_s2s.models import float16
from lora_s2s.models.loading import load_base

SIZES = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "dropout_rate": 0.0, "decoder_start_token_id": PAD, "pad_token_id": PAD, "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5, own head": ("T5", {}),
    "t5, tied head": ("T5", {"feed_forward_proj": "relu", "tie_word_embeddings": True}),
    "mt5": ("MT5", {}),
    "umt5": ("UMT5", {}),
    "longt5, local": ("LongT5", {"local_radius": 3}),
    "longt5, global": (
        "LongT5",
        {"local_radius": 3, "global_block_size": 2, "encoder_attention_type": "transient-global"},
    ),
}


def write(folder: Path, kind: str = "t5, own head", *, loud: float = 1.0) -> str:
    """Writes a tiny random model; ``loud`` multiplies all that goes into its residual stream, channel 5 most.

    As in trained ones, the norms weigh that channel less.
    """
    stem, changes = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{stem}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{stem}ForConditionalGeneration")(config)
    with torch.no_grad():
        if not changes.get("tie_word_embeddings"):
            model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 32) * 32**-0.5)
        for name, parameter in model.named_parameters() if loud > 1 else ():
            if name.endswith((".o.weight", ".wo.weight", "shared.weight")):
                parameter *= loud
            if name.endswith(".wo.weight"):
                parameter[5] *= 8
            if name.endswith("norm.weight"):
                parameter[5] /= 8
    model.save_pretrained(folder)
    return str(folder)


def adapted(name: str, *, shift: int = 0, targets: Any = ("q", "v", "o", "wo"), **settings: Any) -> Any:
    """A base with an adapter on what reads the stream and what writes it, B not zero; its residual stream at 2^-k."""
    base = load_base(name, device="cpu", **settings)
    if shift:
        float16.reinstall(base.model, base.family, shift)
        object.__setattr__(base, "residual_shift", shift)
    model = inject_lora(base, r=8, alpha=16, dropout=0.0, target_modules=targets, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def answers(model: Any) -> Tensor:
    return model.generate(input_ids=SOURCE, attention_mask=MASK, max_new_tokens=16, do_sample=False)
