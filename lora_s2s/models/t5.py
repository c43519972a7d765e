"""What is particular to T5, mT5, UMT5 and LongT5: v1.0 has one matrix for embeddings and head, v1.1
and Flan a gated feed-forward and a head of their own. ByT5, CodeT5 and CodeT5+ are T5 with other
tokenizers.

Whether the head is tied is read from a checkpoint's weights, never from its config: transformers 5
writes ``tie_word_embeddings: true`` for every T5, Flan included, and transformers 4 then overwrites
Flan's head.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import NewGELUActivation

from lora_s2s.errors import DataError
from lora_s2s.models import common

_SHARED = "shared.weight"
_HEAD = "lm_head.weight"
_EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")

# The embeddings and the head, whose single rows may train.
TOKEN_MATRICES = ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")

# Modules that may take an adapter: of both stacks, and of each. These patterns are the only ones
# that an adapter's config may hold.
_IN_STACK = r"block\.\d+\.layer\.\d+\.\w+\.(q|k|v|o|wi|wi_0|wi_1|wo)"
ADAPTABLE = rf"(encoder|decoder)\.{_IN_STACK}"
STACKS = (rf"encoder\.{_IN_STACK}", rf"decoder\.{_IN_STACK}")

# Modules that start the residual stream, add to it, and read it. (LongT5's global_input_layer_norm
# reads a state that is normed already.)
STARTS_RESIDUAL = re.compile(r"(encoder|decoder)\.embed_tokens")
WRITES_RESIDUAL = re.compile(r"(encoder|decoder)\.block\..*\.(o|wo)")
READS_RESIDUAL = re.compile(
    r"(encoder|decoder)\.(block\.\d+\.layer\.\d+\.layer_norm|final_layer_norm)"
)

# Larger than any T5, small enough that a damaged config cannot ask for the whole machine.
_LARGEST = {
    "vocab_size": 2_000_000,
    "d_model": 65_536,
    "d_kv": 4_096,
    "d_ff": 1_000_000,
    "num_layers": 512,
    "num_decoder_layers": 512,
    "num_heads": 1_024,
    "relative_attention_num_buckets": 4_096,
    "relative_attention_max_distance": 1_000_000,
    "local_radius": 100_000,
    "global_block_size": 100_000,
}


def target_groups(config: PreTrainedConfig) -> dict[str, list[str] | str]:
    """Returns the groups of adapter targets; see :func:`lora_s2s.models.common.target_groups`."""
    feed_forward = ["wi_0", "wi_1", "wo"] if config.is_gated_act else ["wi", "wo"]
    return common.target_groups("qkvo", "EncDecAttention", feed_forward, STACKS)


def check_settings(settings: Mapping[str, object], *, where: str) -> None:
    """Checks the sizes in a ``config.json``; see :func:`lora_s2s.models.common.check_sizes`."""
    common.check_sizes(settings, largest=_LARGEST, where=where)


def max_positions(config: PreTrainedConfig) -> None:
    """Returns None: positions are relative, and 512 is a tokenizer's default, not a limit."""


def may_be_absent(name: str) -> bool:
    """Whether a checkpoint may omit this weight because another one replaces it."""
    return name == _HEAD or name in _EMBEDDING_COPIES


def finish_loading(
    model: PreTrainedModel, settings: Mapping[str, object], names: Collection[str], *, where: str
) -> None:
    """Corrects what a config may have wrong: the scaling before the head, and the decoder's start.

    A separate head takes unscaled states (v1.1, Flan). A head that is the embeddings takes scaled
    ones (v1.0), unless the config says that it was trained without scaling. mT5 never scales in
    transformers 5. UMT5 scales by another flag, which transformers 5 forces on: it divides the
    logits of an untied UMT5 by √d_model.

    Args:
        model: the loaded model.
        settings: ``config.json`` as written.
        names: the weights' names in the checkpoint.

    Raises:
        DataError: the config asks for a head of its own and the weights hold none.
    """
    config, kind = model.config, model.config.model_type
    flag, scaled = settings.get("tie_word_embeddings"), settings.get("scale_decoder_outputs")
    # Only LongT5's checkpoints rightly say False and hold no head: tied, but not scaled.
    if _HEAD not in names and flag is False and not isinstance(scaled, bool) and kind != "longt5":
        raise DataError(
            f"the config says tie_word_embeddings false, but the weights hold no {_HEAD}",
            where=where,
        )
    if kind == "mt5" or (
        _HEAD in names and not torch.equal(model.lm_head.weight, model.shared.weight)
    ):
        config.scale_decoder_outputs = False
    else:
        config.scale_decoder_outputs = scaled if isinstance(scaled, bool) else flag is not False
    if kind == "umt5":
        config.tie_word_embeddings = config.scale_decoder_outputs
    common.set_start(model, config.pad_token_id)


def loading_note(config: PreTrainedConfig) -> str | None:
    """Returns which versions of transformers compute something else than this package; None if all
    agree.
    """
    if config.model_type == "umt5" and config.tie_word_embeddings is False:
        return (
            "transformers from 5.0 up to 5.23 scales the logits of this untied UMT5 wrongly; "
            "load it with 5.24 or newer, or with 4"
        )
    return None


def contents_to_write(
    state: Mapping[str, Tensor], config: PreTrainedConfig
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Returns the weights and settings that make transformers 4 and 5 compute the same.

    transformers 4 has one flag, ``tie_word_embeddings``, for tying and for scaling; transformers 5
    ties by contents and scales by ``scale_decoder_outputs``. So an unscaled head is always written,
    and a scaled one never.

    Args:
        state: name → weight, as ``state_dict`` names them.
        config: the model's config, ``scale_decoder_outputs`` as :func:`finish_loading` left it.
    """
    scaled = bool(config.scale_decoder_outputs)
    # transformers 4 reports them as missing in an untied LongT5.
    wanted = () if config.model_type == "longt5" and not scaled else _EMBEDDING_COPIES
    copies = {name for name in wanted if common.same_weights(state, name, _SHARED)}
    weights = {name: tensor for name, tensor in state.items() if name not in copies}
    if scaled:
        del weights[_HEAD]
    settings = {**config.to_dict(), "tie_word_embeddings": scaled, "scale_decoder_outputs": scaled}
    return weights, settings


@contextmanager
def fused_activation(model: nn.Module) -> Iterator[None]:
    """While entered, Flan's tanh-GELU is one operation instead of eight: equal to rounding, in less
    time and memory.
    """
    slow = [
        module
        for module in model.modules()
        if isinstance(getattr(module, "act", None), NewGELUActivation)
    ]
    for module in slow:
        module.act = nn.GELU(approximate="tanh")
    try:
        yield
    finally:
        for module in slow:
            module.act = NewGELUActivation()
