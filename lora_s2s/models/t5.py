"""T5's facts: v1.0 (one matrix for embeddings and head), v1.1 and Flan (gated feed-forward, a head of its own).

Whether the head is tied is read from a checkpoint's weights, never from its config: transformers 5 writes
``tie_word_embeddings: true`` for every T5, Flan included, and transformers 4 then overwrites Flan's head.

B batch, T target length.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from lora_s2s.errors import DataError

IGNORED_LABEL = -100

_SHARED = "shared.weight"
_HEAD = "lm_head.weight"
_EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")

# Modules an adapter may sit on, and those of the decoder. As patterns they are what an adapter's config may hold.
_LINEAR = r"(q|k|v|o|wi|wi_0|wi_1|wo)"
ADAPTABLE = rf"(encoder|decoder)\.block\.\d+\.layer\.\d+\.\w+\.{_LINEAR}"
DECODER = rf"decoder\.block\.\d+\.layer\.\d+\.\w+\.{_LINEAR}"

# Larger than any T5, small enough that a damaged config cannot ask for the whole machine.
_LARGEST = {
    "vocab_size": 2_000_000, "d_model": 65_536, "d_kv": 4_096, "d_ff": 1_000_000, "num_layers": 512,
    "num_decoder_layers": 512, "num_heads": 1_024, "relative_attention_num_buckets": 4_096,
    "relative_attention_max_distance": 1_000_000,
}  # fmt: skip


def target_groups(config: Any) -> dict[str, list[str] | str]:
    """Returns each group of adapter targets as PEFT takes it: name endings, or one pattern for the decoder."""
    feed_forward = ["wi_0", "wi_1", "wo"] if config.is_gated_act else ["wi", "wo"]
    return {
        "attention-qv": ["q", "v"],
        "attention": ["q", "k", "v", "o"],
        "cross-attention": [f"EncDecAttention.{name}" for name in "qkvo"],
        "decoder": DECODER,
        "all-linear": ["q", "k", "v", "o", *feed_forward],
    }


def check_settings(settings: Mapping[str, Any], *, where: str) -> None:
    """Checks the sizes in a ``config.json`` before anything is allocated.

    Raises:
        DataError: a size is not an integer, or out of bounds.
    """
    for name, most in _LARGEST.items():
        value = settings.get(name, 1)
        if value is None and name == "num_decoder_layers":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise DataError(f"the config's {name} is {value!r}, expected an integer from 1 to {most}", where=where)


def may_be_absent(name: str) -> bool:
    """Whether a checkpoint may leave this weight out because another one stands for it."""
    return name == _HEAD or name in _EMBEDDING_COPIES


def finish_loading(model: Any, settings: Mapping[str, Any], names: Collection[str], *, where: str) -> None:
    """Sets what the config may have wrong: the scaling before the head, and the decoder's start.

    A head of its own takes unscaled states (v1.1, Flan). A head that is the embeddings takes scaled ones (v1.0),
    unless the config says that it was trained without.

    Args:
        model: the loaded model.
        settings: ``config.json`` as written.
        names: the weights' names in the checkpoint.

    Raises:
        DataError: the config asks for a head of its own and the weights hold none.
    """
    flag, scaled = settings.get("tie_word_embeddings"), settings.get("scale_decoder_outputs")
    if _HEAD not in names and flag is False and not isinstance(scaled, bool):
        raise DataError(f"the config says tie_word_embeddings false, but the weights hold no {_HEAD}", where=where)
    config = model.config
    if _HEAD in names and not torch.equal(model.lm_head.weight, model.shared.weight):
        config.scale_decoder_outputs = False
    else:
        config.scale_decoder_outputs = scaled if isinstance(scaled, bool) else flag is not False
    start = getattr(config, "decoder_start_token_id", None)
    config.decoder_start_token_id = config.pad_token_id if start is None else start
    if model.generation_config.decoder_start_token_id is None:
        model.generation_config.decoder_start_token_id = config.decoder_start_token_id


def contents_to_write(state: Mapping[str, Tensor], config: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the weights and settings that make transformers 4 and 5 compute the same.

    transformers 4 knows one flag, ``tie_word_embeddings``, for tying and for scaling; transformers 5 ties by contents
    and scales by ``scale_decoder_outputs``. So an unscaled head is always written out, and a scaled one never.

    Args:
        state: name → weight, as ``state_dict`` names them.
        config: the model's config, ``scale_decoder_outputs`` as :func:`finish_loading` left it.
    """
    scaled = bool(config.scale_decoder_outputs)
    weights = {name: tensor for name, tensor in state.items() if name not in _EMBEDDING_COPIES}
    weights.update({name: state[name] for name in _EMBEDDING_COPIES if not torch.equal(state[name], state[_SHARED])})
    if scaled:
        del weights[_HEAD]
    settings = {**config.to_dict(), "tie_word_embeddings": scaled, "scale_decoder_outputs": scaled}
    return weights, settings


def shift_right(labels_BT: Tensor, config: Any) -> Tensor:
    """Returns the decoder's input ids (B, T) for labels (B, T): one to the right, the start id first, no -100.

    The same for every encoder–decoder that predicts its labels one by one; nothing in it is T5's own.

    Args:
        labels_BT: target ids, padded with -100.
        config: names ``decoder_start_token_id`` and ``pad_token_id``.
    """
    inputs_BT = labels_BT.new_full(labels_BT.shape, config.decoder_start_token_id)
    inputs_BT[:, 1:] = labels_BT[:, :-1]
    return inputs_BT.masked_fill_(inputs_BT == IGNORED_LABEL, config.pad_token_id)


def set_dropout(model: Any, rate: float) -> None:
    """Sets the base's dropout everywhere, attention included; an adapter's own dropout stays as it is."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            if "lora_dropout" not in name:
                module.p = rate
        elif isinstance(getattr(module, "dropout", None), int | float):
            # T5's attention holds its rate as a number, not as a module.
            module.dropout = rate
    model.config.dropout_rate = rate


@contextmanager
def fused_activation(model: nn.Module) -> Iterator[None]:
    """While entered, Flan's tanh-GELU is one operation instead of eight: equal to rounding, in less time and memory."""
    slow = [module for module in model.modules() if isinstance(getattr(module, "act", None), NewGELUActivation)]
    for module in slow:
        module.act = nn.GELU(approximate="tanh")
    try:
        yield
    finally:
        for module in slow:
            module.act = NewGELUActivation()
