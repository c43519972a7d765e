"""A tiny model of every family, built in code, each in a folder with a word tokenizer of its
family's special ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

VOCABULARY = 96
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 32,
    "d_ff": 192,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
BART_SIZES = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 192,
    "decoder_ffn_dim": 192,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 40,
    "init_std": 0.2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "scale_embedding": True,
}
_GEMMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "head_dim": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "sliding_window": 4,
    "query_pre_attn_scalar": 32,
    "initializer_range": 0.2,
}
_GATED = {"feed_forward_proj": "gated-gelu"}
_START_AT_PAD = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}


@dataclass(frozen=True)
class Tiny:
    """One row of the battery: a family's class, the changes to its sizes, and whether its head is
    its own.
    """

    family: str
    model: str
    settings: dict[str, Any]
    own_head: bool = False
    frame: str = "$A </s>"
    marks: dict[str, int] = field(default_factory=lambda: {"<pad>": 0, "</s>": 1, "<unk>": 2})


_BART_MARKS = {"marks": {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}}
TINY: dict[str, Tiny] = {
    "T5 v1.0": Tiny("t5", "T5ForConditionalGeneration", _T5),
    "T5 v1.1, LM-adapted, Flan-T5": Tiny(
        "t5", "T5ForConditionalGeneration", {**_T5, **_GATED}, own_head=True
    ),
    "ByT5": Tiny(
        "t5",
        "T5ForConditionalGeneration",
        {**_T5, **_GATED, "num_decoder_layers": 1},
        own_head=True,
    ),
    "CodeT5, CodeT5+": Tiny(
        "t5",
        "T5ForConditionalGeneration",
        {**_T5, "bos_token_id": 1, "eos_token_id": 2},
        frame="<s> $A </s>",
        marks={"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3},
    ),
    "mT5": Tiny("mt5", "MT5ForConditionalGeneration", {**_T5, **_GATED}, own_head=True),
    "UMT5": Tiny("umt5", "UMT5ForConditionalGeneration", _T5),
    "LongT5 (local)": Tiny(
        "longt5",
        "LongT5ForConditionalGeneration",
        {**_T5, **_GATED, "local_radius": 3},
        own_head=True,
    ),
    "LongT5 (transient-global)": Tiny(
        "longt5",
        "LongT5ForConditionalGeneration",
        {
            **_T5,
            "local_radius": 3,
            "global_block_size": 4,
            "encoder_attention_type": "transient-global",
        },
    ),
    "BART": Tiny(
        "bart", "BartForConditionalGeneration", BART_SIZES, frame="<s> $A </s>", **_BART_MARKS
    ),
    "mBART": Tiny(
        "mbart",
        "MBartForConditionalGeneration",
        {**BART_SIZES, "decoder_start_token_id": None},
        **_BART_MARKS,
    ),
    "M2M100, NLLB": Tiny("m2m_100", "M2M100ForConditionalGeneration", BART_SIZES, **_BART_MARKS),
    "Marian": Tiny(
        "marian",
        "MarianMTModel",
        {
            **BART_SIZES,
            "pad_token_id": 3,
            "eos_token_id": 0,
            "bos_token_id": None,
            "decoder_start_token_id": 3,
        },
        marks={"</s>": 0, "<unk>": 1, "<s>": 2, "<pad>": 3},
    ),
    "Marian (two vocabularies)": Tiny(
        "marian",
        "MarianMTModel",
        {
            **BART_SIZES,
            **_START_AT_PAD,
            "share_encoder_decoder_embeddings": False,
            "vocab_size": VOCABULARY + 8,
            "decoder_vocab_size": VOCABULARY,
        },
    ),
    "Pegasus": Tiny("pegasus", "PegasusForConditionalGeneration", {**BART_SIZES, **_START_AT_PAD}),
    "Blenderbot": Tiny(
        "blenderbot",
        "BlenderbotForConditionalGeneration",
        {**BART_SIZES, "pad_token_id": 0, "bos_token_id": 1, "decoder_start_token_id": 1},
        marks={"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3},
    ),
    "T5Gemma": Tiny(
        "t5gemma",
        "T5GemmaForConditionalGeneration",
        {
            "encoder": _GEMMA,
            "decoder": {**_GEMMA, "num_hidden_layers": 1},
            "vocab_size": VOCABULARY,
        },
        frame="<bos> $A",
        marks={"<pad>": 0, "</s>": 1, "<bos>": 2, "<unk>": 3},
    ),
}


def build(tiny: Tiny, seed: int = 0) -> Any:
    """Returns a row's model with seeded random weights, in evaluation mode."""
    torch.manual_seed(seed)
    made: Callable[[Any], Any] = getattr(transformers, tiny.model)
    tied = {"tie_word_embeddings": False} if tiny.own_head else {}
    model = made(made.config_class(**tiny.settings, **tied))  # type: ignore[attr-defined]
    if tiny.own_head:
        # transformers 5 ties whatever the config says.
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 64**-0.5)
    for name, tensor in model.named_buffers():
        if name == "final_logits_bias":
            tensor.normal_(std=0.5)
    return model.eval()


def write(tiny: Tiny, folder: Path, seed: int = 0) -> Path:
    """Writes a row's model and tokenizer as a hub's folder would hold them."""
    build(tiny, seed).save_pretrained(folder)
    taken = set(tiny.marks.values())
    words = {f"w{number}": number for number in range(VOCABULARY) if number not in taken}
    vocabulary = {**tiny.marks, **words}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=tiny.frame, special_tokens=[*tiny.marks.items()]
    )
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    first = tiny.frame.split()[0]
    begins = {} if first == "$A" else {"bos_token": first}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **marks, **begins
    ).save_pretrained(folder)
    return folder
