"""A batch without padding: flat lists of tokens, and groups of similar lengths for attention.

Legend: N source tokens, M target tokens of the batch; n rows of a group, S and T its longest source
and target.
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

# The padding of a group, in scores of one head, beyond which another kernel call is cheaper.
WORTH_A_CALL = {"cpu": 3_000, "cuda": 300_000}
# On a GPU, fused kernels need mask rows aligned to 8 numbers.
_MULTIPLE = {"cpu": 1, "cuda": 8}


@dataclass(frozen=True)
class Side:
    """One side of a group: n rows, each padded to ``width`` tokens.

    Attributes:
        tokens: number of real tokens, which are contiguous in the flat list.
        token_of_position: (n · width) the token at each position, counted from the group's first;
            padding repeats token 0. None without padding.
        position_of_token: (tokens) the position of each token. None without padding.
        filled: (n, 1, 1, width) false for padding. None without padding.
    """

    rows: int
    width: int
    tokens: int
    token_of_position: Tensor | None = None
    position_of_token: Tensor | None = None
    filled: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """The tokens of a batch and their rows, sorted by source length, longest first.

    Attributes:
        source_ids_N, decoder_ids_M: inputs of encoder and decoder.
        labels_M: target ids, IGNORE_INDEX for those not in the loss.
        source_rows_N, target_rows_M: the row of each token, in the layout's order of rows.
        groups: the encoder's and the decoder's side of each group.
        row_order, source_lengths: each row's index in the batch and its number of source tokens, in
            the layout's order.
        counted_N: the positions in ``labels_M`` that are in the loss; None if all are.
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
        """Applies a function to every tensor, such as moving it to a device."""
        return _changed(self, change)  # type: ignore[no-any-return]


def layout_of(batch: Batch, config: PreTrainedConfig, *, device: str = "cpu") -> Layout:
    """A batch's layout, computed on the CPU. Sources may be padded on either side.

    Args:
        config: has ``decoder_start_token_id`` and ``pad_token_id``.
        device: the type of device for attention, ``cpu`` or ``cuda``.
    """
    mask_BS, labels_BT = batch.attention_mask_BS.cpu() != 0, batch.labels_BT.cpu()
    # Up to the last label in the loss: the decoder also reads earlier ones that are not.
    target_mask_BT = (labels_BT != IGNORE_INDEX).flip(1).cumsum(1).flip(1) > 0
    decoder_BT = shift_right(labels_BT, config)
    sources, targets = mask_BS.sum(1).tolist(), target_mask_BT.sum(1).tolist()
    order = sorted(range(len(sources)), key=lambda row: (-sources[row], -targets[row]))
    sources, targets = [sources[row] for row in order], [targets[row] for row in order]
    groups = [
        (_side(sources[rows], _MULTIPLE[device]), _side(targets[rows], _MULTIPLE[device]))
        for rows in grouped(sources, targets, WORTH_A_CALL[device])
    ]
    source_mask, target_mask = mask_BS[order], target_mask_BT[order]
    labels_M = labels_BT[order][target_mask]
    counted_M = labels_M != IGNORE_INDEX
    return Layout(
        batch.input_ids_BS.cpu()[order][source_mask],
        decoder_BT[order][target_mask],
        labels_M,
        torch.arange(len(order)).repeat_interleave(torch.tensor(sources)),
        torch.arange(len(order)).repeat_interleave(torch.tensor(targets)),
        tuple(groups),
        tuple(order),
        tuple(sources),
        None if bool(counted_M.all()) else counted_M.nonzero()[:, 0],
    )


def grouped(sources: Sequence[int], targets: Sequence[int], worth: int) -> list[slice]:
    """Splits rows, longest first, where more padding would cost more than a kernel call."""
    groups, start, widest, needed = [], 0, 0, 0
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        widest, needed = max(widest, target), needed + _scores(source, target)
        if (row - start + 1) * _scores(sources[start], widest) - needed > worth:
            groups.append(slice(start, row))
            start, widest, needed = row, target, _scores(source, target)
    return [*groups, slice(start, len(sources))]


def _scores(source: int, target: int) -> int:
    """Number of scores per head of a row in all three attentions."""
    return source * source + target * target + source * target


def _side(lengths: Sequence[int], multiple: int) -> Side:
    rows, tokens = len(lengths), sum(lengths)
    width = -(-max(lengths) // multiple) * multiple
    if tokens == rows * width:
        return Side(rows, width, tokens)
    filled = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    positions = filled.flatten().nonzero()[:, 0]
    token_of_position = torch.zeros(rows * width, dtype=torch.long)
    token_of_position[positions] = torch.arange(tokens)
    return Side(rows, width, tokens, token_of_position, positions, filled[:, None, None])


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_changed(item, change) for item in value)
    if isinstance(value, Layout | Side):
        return type(value)(*(_changed(getattr(value, item.name), change) for item in fields(value)))
    return value
