"""A tokenizer in T5's shape, made in code: single letters and a few words; no braces, no newline,
no CJK.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORDS = ["user", "assistant", "system", "hello", "good", "the", "cat", "sat"]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import T5Tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    pieces = [
        "▁",
        *(f"▁{word}" for word in WORDS),
        *string.ascii_letters,
        *string.digits,
        *".,:;!?'\"-_/|()>&",
    ]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(piece, -2.0 if len(piece) > 1 else -4.0) for piece in pieces]
    vocab += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(10))]
    T5Tokenizer(vocab=vocab, extra_ids=10).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> PreTrainedTokenizerBase:
    from lora_s2s.tokens.loading import load_tokenizer

    return load_tokenizer(str(tokenizer_folder))
