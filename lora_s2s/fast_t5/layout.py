"""A batch without padding: flat lists of tokens, and groups of similar lengths for attention.

N source tokens, M target tokens of the batch; n rows of a group, S and T its longest source and
target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lora_s2s.data.collate import Batch
from lora_s2s.models.common import shift_right
from lora_s2s.tokens.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# How much padding a group may have, in scores of one head, before another call of the attention
# kernel is cheaper.
_WORTH_A_CALL = {"cpu": 3_000, "cuda": 300_000}
# On a GPU the fused kernels need rows of a mask to start at multiples of 8 numbers.
_MULTIPLE = {"cpu": 1, "cuda": 8}


@dataclass(frozen=True)
class Side:
    """One side of a group: n rows, each padded to ``width`` tokens.

    Attributes:
        tokens: real tokens, which lie one after another in the flat list.
        source_of_slot: (n · width) the token in each slot, counted from the group's first; padding
            repeats token 0. None where there is no padding.
        slot_of_token: (tokens) the slot of each token. None where there is no padding.
        filled: (n, 1, 1, width) true where a token stands. None where there is no padding.
    """

    rows: int
    width: int
    tokens: int
    source_of_slot: Tensor | None = None
    slot_of_token: Tensor | None = None
    filled: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """Where every token of a batch is. Rows are sorted by source length, longest first.

    Attributes:
        source_ids_N, decoder_ids_M: what encoder and decoder read.
        labels_M: what the decoder is to write, IGNORE_INDEX where it does not count.
        source_rows_N, target_rows_M: the row of each token, rows counted in the layout's order.
        groups: the encoder's and the decoder's side of each group.
        row_order, source_lengths: each row's place in the batch and its source tokens, in the
        layout's order.
        counted_N: the positions in ``labels_M`` that count; None where all do.
    """

    source_ids_N: Tensor
    decoder_ids_M: Tensor
    labels_M: Tensor
    source_rows_N: Tensor
    target_rows_M: Tensor
    groups: tuple[tuple[Side, Side], ...]
    row_order: tuple[int, ...]
    source_lengths: tuple[int, ...]
    counted_N: Tensor | None

    def each(self, change: Callable[[Tensor], Tensor]) -> Layout:
        """Returns the layout with every tensor changed: moved to a device, or pinned."""
        return _changed(self, change)  # type: ignore[no-any-return]


def layout_of(batch: Batch, config: PreTrainedConfig, *, device: str = "cpu") -> Layout:
    """Returns a batch's layout, made on the CPU. Sources may be padded on either side.

    Args:
        config: names ``decoder_start_token_id`` and ``pad_token_id``.
        device: the kind of device that attention will run on, ``cpu`` or ``cuda``.
    """
    mask_BS, labels_BT = batch.attention_mask_BS.cpu() != 0, batch.labels_BT.cpu()
    # Up to the last label that counts: one before it that does not is still read by the decoder.
    spoken_BT = (labels_BT != IGNORE_INDEX).flip(1).cumsum(1).flip(1) > 0
    decoder_BT = shift_right(labels_BT, config)
    sources, targets = mask_BS.sum(1).tolist(), spoken_BT.sum(1).tolist()
    order = sorted(range(len(sources)), key=lambda row: (-sources[row], -targets[row]))
    sources, targets = [sources[row] for row in order], [targets[row] for row in order]
    groups = [
        (_side(sources[rows], _MULTIPLE[device]), _side(targets[rows], _MULTIPLE[device]))
        for rows in _groups(sources, targets, _WORTH_A_CALL[device])
    ]
    picked, spoken = mask_BS[order], spoken_BT[order]
    labels_M = labels_BT[order][spoken]
    counted_M = labels_M != IGNORE_INDEX
    return Layout(
        batch.input_ids_BS.cpu()[order][picked],
        decoder_BT[order][spoken],
        labels_M,
        torch.arange(len(order)).repeat_interleave(torch.tensor(sources)),
        torch.arange(len(order)).repeat_interleave(torch.tensor(targets)),
        tuple(groups),
        tuple(order),
        tuple(sources),
        None if bool(counted_M.all()) else counted_M.nonzero()[:, 0],
    )


def _groups(sources: Sequence[int], targets: Sequence[int], worth: int) -> list[slice]:
    """Splits rows, longest first, where padding one more would cost more than a call."""
    found, start, widest, own = [], 0, 0, 0
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        widest, own = max(widest, target), own + _scores(source, target)
        if (row - start + 1) * _scores(sources[start], widest) - own > worth:
            found.append(slice(start, row))
            start, widest, own = row, target, _scores(source, target)
    return [*found, slice(start, len(sources))]


def _scores(source: int, target: int) -> int:
    """Scores of one head and row in all three attentions."""
    return source * source + target * target + source * target


def _side(lengths: Sequence[int], multiple: int) -> Side:
    rows, tokens = len(lengths), sum(lengths)
    width = -(-max(lengths) // multiple) * multiple
    if tokens == rows * width:
        return Side(rows, width, tokens)
    filled = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    slots = filled.flatten().nonzero()[:, 0]
    source = torch.zeros(rows * width, dtype=torch.long)
    source[slots] = torch.arange(tokens)
    return Side(rows, width, tokens, source, slots, filled[:, None, None])


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_changed(item, change) for item in value)
    if isinstance(value, Layout | Side):
        return type(value)(*(_changed(getattr(value, item.name), change) for item in fields(value)))
    return value
