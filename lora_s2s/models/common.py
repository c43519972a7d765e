"""What all encoder–decoders share: bounds on sizes, target groups, dropout, the decoder's start.

B batch, T target length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lora_s2s import limits
from lora_s2s.errors import DataError
from lora_s2s.tokens.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


# If one of these is null in a config, the model takes it from another size.
_MAY_BE_NULL = {"num_labels", "num_decoder_layers", "decoder_vocab_size", "sliding_window"}
_RATES = ("dropout", "attention_dropout", "activation_dropout")


def check_sizes(settings: object, *, largest: Mapping[str, int], where: str) -> None:
    """Checks the sizes in a ``config.json`` before anything is allocated.

    Raises:
        DataError: a size is not an integer, or out of bounds.
    """
    if not isinstance(settings, Mapping):
        raise DataError("the config, or a part of it, is not an object", where=where)
    # Refuses the most common requests for too much memory; the child process finds others.
    for name, most in {**largest, "num_labels": limits.MOST_LABELS}.items():
        value = settings.get(name, 1)
        if value is None and name in _MAY_BE_NULL:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise DataError(
                f"the config's {name} is {value!r}, expected an integer from 1 to {most}",
                where=where,
            )


def target_groups(
    attention: Sequence[str], cross: str, feed_forward: Sequence[str], stacks: tuple[str, str]
) -> dict[str, list[str] | str]:
    """Returns each group of adapter targets as PEFT takes it: name endings, or one pattern for a
    whole stack.

    Args:
        attention: the names of the query, key, value and output projections.
        cross: the name of the decoder's attention over the encoder.
        stacks: the patterns of the encoder's and the decoder's linear layers.
    """
    return {
        "attention-qv": [attention[0], attention[2]],
        "attention": [*attention],
        "cross-attention": [f"{cross}.{name}" for name in attention],
        "encoder": stacks[0],
        "decoder": stacks[1],
        "all-linear": [*attention, *feed_forward],
    }


def set_start(model: PreTrainedModel, default: int | None) -> None:
    """Sets the id that the decoder starts with, in training and decoding: the config's, else
    ``default``.
    """
    config, generation = model.config, model.generation_config
    named = (
        getattr(config, "decoder_start_token_id", None),
        generation.decoder_start_token_id,
        default,
    )
    config.decoder_start_token_id = next((start for start in named if start is not None), None)
    generation.decoder_start_token_id = config.decoder_start_token_id


def begin_answers(model: PreTrainedModel, *, start: int | None, first: int | None) -> None:
    """Sets what each answer of a base or adapted model begins with: the same as in training.

    Args:
        start: the decoder's start where the target's language chooses it (mBART); None leaves the
            family's.
        first: the id forced as the first token, such as a language code; None forces none.
    """
    if start is not None:
        model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = start
    model.generation_config.forced_bos_token_id = first


def shift_right(labels_BT: Tensor, config: PreTrainedConfig) -> Tensor:
    """Returns the decoder's input ids (B, T) for labels (B, T): shifted right by one, the start id
    first, no IGNORE_INDEX.

    Args:
        labels_BT: target ids, padded with IGNORE_INDEX.
        config: names ``decoder_start_token_id`` and ``pad_token_id``.
    """
    inputs_BT = labels_BT.new_full(labels_BT.shape, config.decoder_start_token_id)
    inputs_BT[:, 1:] = labels_BT[:, :-1]
    return inputs_BT.masked_fill_(inputs_BT == IGNORE_INDEX, config.pad_token_id)


def set_dropout(model: PreTrainedModel, rate: float) -> None:
    """Sets the base's dropout everywhere, attention included, and turns LayerDrop off; an adapter's
    dropout stays as it is.
    """
    for name, module in model.named_modules():
        of_adapter = "_dropout." in name  # PEFT's are called lora_dropout.default and the like
        if isinstance(module, nn.Dropout) and not of_adapter:
            module.p = rate
        for attribute in _RATES:  # attention and BART's layers keep a rate as a number
            if isinstance(getattr(module, attribute, None), int | float):
                setattr(module, attribute, rate)
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0
    model.config.dropout_rate = rate


def same_weights(state: Mapping[str, Tensor], first: str, second: str) -> bool:
    """Whether two names hold equal weights; False if one is missing."""
    return first in state and second in state and torch.equal(state[first], state[second])
