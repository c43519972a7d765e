"""What is particular to T5Gemma: both stacks are Gemma 2, each with its own config and embeddings;
the head belongs to the decoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from lora_s2s.errors import DataError
from lora_s2s.models import common

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
_IN_STACK = rf"layers\.\d+\.(self_attn|cross_attn|mlp)\.({'|'.join(_ATTENTION + _FEED_FORWARD)})"
ADAPTABLE = rf"model\.(encoder|decoder)\.{_IN_STACK}"
STACKS = (rf"model\.encoder\.{_IN_STACK}", rf"model\.decoder\.{_IN_STACK}")

_HEAD, _EMBEDDINGS = "lm_head.out_proj.weight", "model.decoder.embed_tokens.weight"

_LARGEST = {
    "vocab_size": 2_000_000,
    "hidden_size": 65_536,
    "intermediate_size": 1_000_000,
    "num_hidden_layers": 512,
    "num_attention_heads": 1_024,
    "num_key_value_heads": 1_024,
    "head_dim": 4_096,
    "max_position_embeddings": 100_000_000,
    "sliding_window": 100_000_000,
}


def check_settings(settings: Mapping[str, object], *, where: str) -> None:
    """Checks both stacks' sizes; see :func:`lora_s2s.models.common.check_sizes`."""
    for stack in ("encoder", "decoder"):
        common.check_sizes(settings.get(stack), largest=_LARGEST, where=where)


def target_groups(config: PreTrainedConfig) -> dict[str, list[str] | str]:  # noqa: ARG001  (the same for every size)
    """Returns the groups of adapter targets; see :func:`lora_s2s.models.common.target_groups`."""
    return common.target_groups(_ATTENTION, "cross_attn", _FEED_FORWARD, STACKS)


def max_positions(config: PreTrainedConfig) -> int:
    """Returns how many tokens a source or a target may have."""
    return int(min(config.encoder.max_position_embeddings, config.decoder.max_position_embeddings))


def may_be_absent(name: str) -> bool:
    """Whether a checkpoint may omit this weight because another one replaces it."""
    return name == _HEAD


def finish_loading(
    model: PreTrainedModel, settings: Mapping[str, object], names: Collection[str], *, where: str
) -> None:
    """Sets the decoder's start, which is ``<bos>``.

    Raises:
        DataError: the config asks for a head of its own and the weights hold none.
    """
    if settings.get("tie_word_embeddings") is False and _HEAD not in names:
        raise DataError(
            f"the config says tie_word_embeddings false, but the weights hold no {_HEAD}",
            where=where,
        )
    common.set_start(model, model.config.decoder.bos_token_id)


def contents_to_write(
    state: Mapping[str, Tensor], config: PreTrainedConfig
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Returns the weights and settings to write: the head only if it is not the decoder's
    embeddings.
    """
    tied = common.same_weights(state, _HEAD, _EMBEDDINGS)
    weights = {name: tensor for name, tensor in state.items() if not (tied and name == _HEAD)}
    return weights, {**config.to_dict(), "tie_word_embeddings": tied}
