"""Features to padded tensors. B batch, S source length, T target length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_s2s.data.tokenise import Features

IGNORED = -100


@dataclass
class Batch:
    """One padded micro-batch, all int64.

    Attributes:
        input_ids_BS: source ids, padded on the right.
        attention_mask_BS: 1 where a source token stands.
        labels_BT: target ids, -100 where there is none.
        target_tokens: how many labels count; worked out on construction, so that a GPU is not asked for it.
    """

    input_ids_BS: Tensor
    attention_mask_BS: Tensor
    labels_BT: Tensor
    target_tokens: int = -1

    def __post_init__(self) -> None:
        if self.target_tokens < 0:
            self.target_tokens = int((self.labels_BT != IGNORED).sum())

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch on a device."""
        return Batch(
            self.input_ids_BS.to(device, non_blocking=True),
            self.attention_mask_BS.to(device, non_blocking=True),
            self.labels_BT.to(device, non_blocking=True),
            self.target_tokens,
        )


def collate(features: Sequence[Features], pad_token_id: int) -> Batch:
    """Pads sources with ``pad_token_id`` and labels with -100, to the longest of the batch and no further.

    Raises:
        ValueError: no features.
    """
    if not features:
        raise ValueError("a batch needs at least one example")
    sources = [row.input_ids for row in features]
    return Batch(
        _padded(sources, pad_token_id),
        _padded([[1] * len(source) for source in sources], 0),
        _padded([row.labels for row in features], IGNORED),
    )


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    width = max(len(row) for row in rows)
    padded = [[*row, *[filler] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long).view(len(rows), width)
