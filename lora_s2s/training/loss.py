"""The one loss: a sum of cross-entropies and the number of target tokens it is a sum over.

B batch, T target length, N target tokens of the batch, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_s2s.data.collate import IGNORED, Batch
from lora_s2s.models.common import shift_right


def sequence_loss(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> tuple[Tensor, int]:
    """Returns the summed cross-entropy of a batch (nats, scalar float32) and its number of target tokens.

    The sum is left undivided: only whoever knows all batches of an optimizer step knows the right divisor.

    Args:
        model: an encoder-decoder whose ``config`` names the decoder's start and the padding id.
        batch: on the model's device; labels padded with -100, which count for nothing.
        label_smoothing: share of the target probability spread evenly over the vocabulary.
    """
    counted_BT = batch.labels_BT != IGNORED
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    # The head is the widest product of a small model: it sees the N positions that count, never the padding.
    with head.register_forward_pre_hook(lambda _head, inputs: (inputs[0][counted_BT],)):
        logits_NV: Tensor = model(
            input_ids=batch.input_ids_BS,
            attention_mask=batch.attention_mask_BS,
            decoder_input_ids=shift_right(batch.labels_BT, model.config),
            use_cache=False,
        ).logits
    loss_sum = F.cross_entropy(
        logits_NV.to(torch.float32), batch.labels_BT[counted_BT], reduction="sum", label_smoothing=label_smoothing
    )
    return loss_sum, batch.target_tokens
