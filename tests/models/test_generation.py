"""Which of a checkpoint's generation settings answers follow, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GenerationConfig

from lora_s2s.models.generation import not_used

IDS: dict[str, Any] = {
    "decoder_start_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "forced_bos_token_id": 7,
    "bad_words_ids": [[3]],
}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, ""),
        ({"min_length": 30, "num_beams": 4}, "min_length 30, num_beams 4"),
        (
            {
                "max_length": 142,
                "no_repeat_ngram_size": 3,
                "length_penalty": 2.0,
                "early_stopping": True,
            },
            "max_length 142, early_stopping True, length_penalty 2.0, no_repeat_ngram_size 3",
        ),
        ({"forced_eos_token_id": 2}, "forced_eos_token_id 2"),
        (
            {
                "num_beams": 1,
                "length_penalty": 1.0,
                "repetition_penalty": 1.0,
                "min_length": 0,
                "use_cache": False,
            },
            "",
        ),
        ({"temperature": 0.3, "top_k": 5}, ""),
        ({"do_sample": True, "temperature": 0.3}, "do_sample True, temperature 0.3"),
        ({"suppress_tokens": [*range(10, 30)]}, "suppress_tokens [10, 11, 12, 13, 14, 15, ...]"),
    ],
    ids=str,
)
def test_what_would_change_answers_is_named(said: dict[str, Any], told: str) -> None:
    named = not_used(GenerationConfig(**IDS, **said))
    assert sorted(named.replace(", ", " ").split()) == sorted(told.replace(", ", " ").split())
