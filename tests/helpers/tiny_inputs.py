"""Two short rows for a tiny model, one of them padded, and a model's logits on them."""

from __future__ import annotations

from typing import Any

import torch

SOURCE = torch.tensor([[5, 9, 11, 1], [7, 1, 0, 0]])
MASK = (SOURCE != 0).long()
START = torch.tensor([[0, 8, 4], [0, 6, 1]])


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=START).logits
