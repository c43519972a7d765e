"""Writes the base as an ordinary model folder: tokenizer files, bfloat16 weights, configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from pretraining_text import PIECES, SENTINELS
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import Unigram
from transformers import T5ForConditionalGeneration
from transformers.convert_slow_tokenizer import import_protobuf

_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
)


def sentinel_id(number: int) -> int:
    """T5's order: ``<extra_id_0>`` has the highest id."""
    return PIECES + SENTINELS - 1 - number


def fast_tokenizer(spiece: Path) -> Tokenizer:
    """The ``tokenizers`` equal of the SentencePiece model, with sentinels and the end mark."""
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(spiece.read_bytes())
    vocab = [(piece.piece, piece.score) for piece in proto.pieces]
    vocab += [(f"<extra_id_{n}>", 0.0) for n in reversed(range(SENTINELS))]
    tokenizer = Tokenizer(Unigram(vocab, unk_id=2, byte_fallback=False))
    charsmap = proto.normalizer_spec.precompiled_charsmap
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(charsmap),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in ("<pad>", "</s>", "<unk>")]
        + [AddedToken(f"<extra_id_{n}>", normalized=False, special=True) for n in range(SENTINELS)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)]
    )
    return tokenizer


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(spiece: Path, folder: Path) -> None:
    """``tokenizer.json``, its configuration files and ``spiece.model``."""
    sentinels = [f"<extra_id_{n}>" for n in range(SENTINELS)]
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    fast_tokenizer(spiece).save(str(folder / "tokenizer.json"), pretty=False)
    shutil.copyfile(spiece, folder / "spiece.model")
    _write(folder / "special_tokens_map.json", {**special, "additional_special_tokens": sentinels})
    _write(
        folder / "tokenizer_config.json",
        {
            **special,
            "additional_special_tokens": sentinels,
            "clean_up_tokenization_spaces": False,
            "extra_ids": SENTINELS,
            "legacy": False,
            "model_max_length": 512,
            "tokenizer_class": "T5Tokenizer",
        },
    )


def write_model(model: T5ForConditionalGeneration, folder: Path) -> None:
    """Weights rounded to bfloat16, once; the head is its own tensor and the config says so."""
    names = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}  # both are ``shared``
    if model.lm_head.weight.data_ptr() == model.shared.weight.data_ptr():
        raise ValueError("the head is tied to the embeddings")
    weights = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name not in names
    }
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = model.config.to_dict()
    for key in ("_name_or_path", "transformers_version", "torch_dtype"):
        config.pop(key, None)
    config |= {
        "architectures": ["T5ForConditionalGeneration"],
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "dropout_rate": 0.1,
        "tie_word_embeddings": False,
        "scale_decoder_outputs": False,
    }
    _write(folder / "config.json", dict(sorted(config.items())))
    _write(
        folder / "generation_config.json",
        {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
    )


def export(model: T5ForConditionalGeneration, spiece: Path, out: Path) -> int:
    """Replace the model files in ``out`` (its other files stay); returns their size in bytes."""
    staged = out.with_name(out.name + ".staged")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    write_tokenizer(spiece, staged)
    write_model(model, staged)
    for name in _FILES:
        (staged / name).chmod(0o644)
    size = sum((staged / name).stat().st_size for name in _FILES)
    out.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (staged / name).replace(out / name)
    staged.rmdir()
    return size


def check_tokenizer(folder: Path, spiece: Path, texts: list[str]) -> None:
    """Raise ValueError unless the exported tokenizer gives SentencePiece's ids on ``texts``."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(spiece))
    for text in texts:
        if tokenizer(text).input_ids != [*pieces.encode(text), 1]:
            raise ValueError(f"the exported tokenizer and SentencePiece disagree on {text!r}")
