"""What is particular to BART, mBART, M2M100 and NLLB, Marian, Pegasus and Blenderbot: their layers
have the same names, positions are learned or computed up to a limit, and embeddings and head are
one matrix unless the weights say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from lora_s2s.errors import DataError
from lora_s2s.models import common

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
_IN_STACK = rf"layers\.\d+\.((self_attn|encoder_attn)\.({'|'.join(_ATTENTION)})|fc1|fc2)"
ADAPTABLE = rf"model\.(encoder|decoder)\.{_IN_STACK}"
STACKS = (rf"model\.encoder\.{_IN_STACK}", rf"model\.decoder\.{_IN_STACK}")

_HEAD = "lm_head.weight"
_COPIES = re.compile(r"lm_head\.weight|model\.(encoder|decoder)\.embed_tokens\.weight")
# Sinusoids, which every program computes itself: never written, so that rounded ones are not read
# back.
_COMPUTED = re.compile(r"model\.(encoder|decoder)\.embed_positions\.weight")
_COMPUTED_BY = ("marian", "pegasus")

_LARGEST = {
    "vocab_size": 2_000_000,
    "decoder_vocab_size": 2_000_000,
    "d_model": 65_536,
    "max_position_embeddings": 1_000_000,
    **{
        f"{stack}_{size}": most
        for stack in ("encoder", "decoder")
        for size, most in {"layers": 512, "ffn_dim": 1_000_000, "attention_heads": 1_024}.items()
    },
}


def target_groups(config: PreTrainedConfig) -> dict[str, list[str] | str]:  # noqa: ARG001  (the same for every size)
    """Returns the groups of adapter targets; see :func:`lora_s2s.models.common.target_groups`."""
    return common.target_groups(_ATTENTION, "encoder_attn", ["fc1", "fc2"], STACKS)


def check_settings(settings: Mapping[str, object], *, where: str) -> None:
    """Checks the sizes in a ``config.json``; see :func:`lora_s2s.models.common.check_sizes`."""
    common.check_sizes(settings, largest=_LARGEST, where=where)


def max_positions(config: PreTrainedConfig) -> int:
    """Returns how many tokens a source or a target may have."""
    return int(config.max_position_embeddings)


def may_be_absent(name: str) -> bool:
    """Whether a checkpoint may omit this weight: a copy of the embeddings, zeros, or sinusoids."""
    return name == "final_logits_bias" or bool(_COPIES.fullmatch(name) or _COMPUTED.fullmatch(name))


def finish_loading(
    model: PreTrainedModel, settings: Mapping[str, object], names: Collection[str], *, where: str
) -> None:
    """Sets the decoder's start, which mBART's config leaves unset: ``</s>``, unless a target
    language sets another.

    Raises:
        DataError: the weights lack an untied head or learned positions, which nothing replaces.
    """
    config = model.config
    learned = [
        name
        for name in model.state_dict()
        if _COMPUTED.fullmatch(name) and config.model_type not in _COMPUTED_BY
    ]
    needed = [*learned, *([_HEAD] if settings.get("tie_word_embeddings") is False else [])]
    if missing := [name for name in needed if name not in names]:
        raise DataError(f"the weights do not fit the config: {missing[0]} is missing", where=where)
    common.set_start(model, config.eos_token_id)


def contents_to_write(
    state: Mapping[str, Tensor], config: PreTrainedConfig
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Returns the weights and settings that make transformers 4 and 5 compute the same.

    Both tie head and embeddings where ``tie_word_embeddings`` is true, and read each by its name
    where it is false.

    Args:
        state: name → weight, as ``state_dict`` names them.
        config: the model's config.
    """
    source = (
        "model.shared.weight"
        if "model.shared.weight" in state
        else "model.decoder.embed_tokens.weight"
    )
    tied = common.same_weights(state, _HEAD, source)
    copies = (name for name in state if tied and _COPIES.fullmatch(name) and name != source)
    left_out = {name for name in copies if common.same_weights(state, name, source)}
    if config.model_type in _COMPUTED_BY:
        left_out |= {name for name in state if _COMPUTED.fullmatch(name)}
    weights = {name: tensor for name, tensor in state.items() if name not in left_out}
    return weights, {**config.to_dict(), "tie_word_embeddings": tied}
