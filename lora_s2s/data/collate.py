"""Features to padded tensors. Legend: B batch, S source length, T target length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_s2s.tokens.labels import IGNORE_INDEX
from lora_s2s.tokens.tokenise import Features, Ids


@dataclass
class Batch:
    """One padded micro-batch, all int64.

    Attributes:
        input_ids_BS: source ids, padded on the right.
        attention_mask_BS: 1 for a source token, 0 for padding.
        labels_BT: target ids, IGNORE_INDEX as padding.
        target_tokens, source_tokens: numbers of real tokens; computed on construction, to avoid a
            GPU synchronisation.
        layout: prepared for the fast forward; None if it is not in use.
        memory_ND: the encoder's states of the source tokens in the layout's order, if cached.
    """

    input_ids_BS: Tensor
    attention_mask_BS: Tensor
    labels_BT: Tensor
    target_tokens: int = -1
    source_tokens: int = -1
    layout: Any = None
    memory_ND: Tensor | None = None

    def __post_init__(self) -> None:
        if self.target_tokens < 0 or self.source_tokens < 0:
            self.target_tokens = int((self.labels_BT != IGNORE_INDEX).sum())
            self.source_tokens = int(self.attention_mask_BS.sum())

    def uncounted(self) -> Batch:
        """The batch with no token that counts: a process without rows computes it to keep step."""
        return replace(self, target_tokens=0, source_tokens=0)

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch on a device; from pinned memory the copy is asynchronous."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """Returns the batch in pinned memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        sources, mask, labels = map(
            change, (self.input_ids_BS, self.attention_mask_BS, self.labels_BT)
        )
        memory = None if self.memory_ND is None else change(self.memory_ND)
        layout = None if self.layout is None else self.layout.each(change)
        return replace(
            self,
            input_ids_BS=sources,
            attention_mask_BS=mask,
            labels_BT=labels,
            layout=layout,
            memory_ND=memory,
        )


def collate(features: Sequence[Features], pad_token_id: int) -> Batch:
    """Pads sources with ``pad_token_id`` and labels with IGNORE_INDEX to the longest of the batch.

    Raises:
        ValueError: the batch is empty.
    """
    if not features:
        raise ValueError("a batch needs at least one example")
    sources, targets = [row.input_ids for row in features], [row.labels for row in features]
    mask = [np.ones(len(source), np.int32) for source in sources]
    return Batch(_padded(sources, pad_token_id), _padded(mask, 0), _padded(targets, IGNORE_INDEX))


def _padded(rows: Sequence[Ids], filler: int) -> Tensor:
    padded = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return torch.from_numpy(padded)
