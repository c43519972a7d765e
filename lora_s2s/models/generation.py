"""How answers are decoded, and what is taken from a checkpoint's generation settings.

Only the ids that answers begin with, end with and must not contain are taken, unless
``evaluation.decoding`` is ``checkpoint``: everything else (beams, lengths, penalties) was chosen
for the checkpoint's own task, and a summariser's minimum length would pad every yes and no.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lora_s2s.models.loading import quiet
from lora_s2s.models.own_decoding import (
    CHECKPOINT,
    OF_SAMPLING,
    WITHOUT_EFFECT,
    own_decoding,
    words,
)

# What no written model has: sampling, since its answers are to be the same every time, and what
# plain transformers does not know.
_NOT_WRITTEN = frozenset(
    {
        *("temperature", "top_p", "seed", "constraint"),
        *("n_best", "decoding", "mbr", "mbr_candidates"),
    }
)
# In the config of an older checkpoint; the last is for pipelines of transformers 4.
_OTHERS_IN_CONFIG = ("do_sample", "early_stopping", "forced_eos_token_id", "task_specific_params")
IN_CONFIG = (*WITHOUT_EFFECT, *OF_SAMPLING, *_OTHERS_IN_CONFIG)


def decoding_config(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    decoding: Mapping[str, Any],
    *,
    positions: int | None = None,
) -> GenerationConfig:
    """Returns the settings that answers are decoded with, all of them but
    those of sampling and constraints.

    Args:
        model: its start and language ids are set already, see
            :func:`lora_s2s.models.common.begin_answers`.
        decoding: ``max_new_tokens``, ``num_beams``, and whatever else differs from its default.
        positions: the most tokens of an answer, its start included; None for no limit.
    """
    own = model.generation_config
    searched = {name: value for name, value in decoding.items() if name not in _NOT_WRITTEN}
    if decoding.get("decoding") == CHECKPOINT:
        searched = {**own_decoding(own).passed_on, **searched}
    if positions is not None:
        searched["max_new_tokens"] = min(searched["max_new_tokens"], positions - 1)
    return GenerationConfig(
        **searched,
        do_sample=False,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=start_id(model, tokenizer),
        forced_bos_token_id=own.forced_bos_token_id,
        # Marian's embedding of the padding is zero, so its logit would often be the largest.
        bad_words_ids=own.bad_words_ids,
    )


def start_id(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the decoder's first input: the model's own, or the padding."""
    start: int | None = model.config.decoder_start_token_id
    padding: int = tokenizer.pad_token_id
    return padding if start is None else start


@contextmanager
def only(model: PreTrainedModel, asked: GenerationConfig) -> Iterator[GenerationConfig]:
    """While entered, ``generate`` takes nothing from the checkpoint's own settings (minimum length,
    forced end, penalties).
    """
    owner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = owner.generation_config
    owner.generation_config = asked
    try:
        yield asked
    finally:
        owner.generation_config = own


def written_config(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    decoding: Mapping[str, Any],
    *,
    positions: int | None,
) -> GenerationConfig:
    """Returns :func:`decoding_config` for a written model, which answers on its own: with the
    checkpoint's settings themselves where those are followed.
    """
    if decoding.get("decoding") == CHECKPOINT:
        asked = {key: value for key, value in decoding.items() if (key, value) != ("num_beams", 1)}
        decoding = {"num_beams": 1, **own_decoding(model.generation_config).keys, **asked}
    return decoding_config(model, tokenizer, decoding, positions=positions)


def not_used(own: GenerationConfig, decoding: Mapping[str, Any] | None = None) -> str:
    """Describes a checkpoint's settings that would change answers and are ignored; empty if there
    are none.

    Args:
        decoding: what a written model answers by; by default nothing of the checkpoint's.
    """
    theirs = own_decoding(own)
    followed = (decoding or {}).get("decoding") == CHECKPOINT
    return words(theirs.ignored if followed else theirs.changed)


def plain_model(folder: Path) -> PreTrainedModel:
    """Loads a folder as any user of transformers would, in evaluation mode."""
    with quiet():
        model: PreTrainedModel = AutoModelForSeq2SeqLM.from_pretrained(
            folder, local_files_only=True
        )
        return model.eval()


@torch.inference_mode()
def plain_answers(
    folder: Path, batches: Sequence[Mapping[str, Tensor]], *, most: int
) -> list[list[list[int]]]:
    """Returns the ids that plain transformers answers with, for each batch, when it loads and runs
    the folder.

    Args:
        most: the longest answer in tokens, if the folder's own settings allow longer ones.
    """
    model = plain_model(folder)
    with quiet():
        longest = min(model.generation_config.max_new_tokens or most, most)
        model.to(batches[0]["input_ids"].device)
        end = model.generation_config.eos_token_id
        return [
            answer_ids(model.generate(**inputs, max_new_tokens=longest), end) for inputs in batches
        ]


def answer_ids(output_BT: Tensor, end: int) -> list[list[int]]:
    """Returns each answer's ids, without the start and what follows the end."""
    rows = output_BT[:, 1:].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]
