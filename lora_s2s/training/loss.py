"""The one loss: a sum of cross-entropies and the number of target tokens it is a sum over.

B batch, T target length, N target tokens of the batch, C of them at once, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_s2s.data.collate import IGNORED, Batch
from lora_s2s.models.common import shift_right
from lora_s2s.models.family import FAMILIES

_LOGITS_AT_ONCE = 1 << 22


def sequence_loss(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> tuple[Tensor, int]:
    """Returns the summed cross-entropy of a batch (nats, scalar float32) and its number of target tokens.

    The sum is left undivided: only whoever knows all batches of an optimizer step knows the right divisor.

    Args:
        model: an encoder-decoder whose ``config`` names its type, the decoder's start and the padding id.
        batch: on the model's device; labels padded with -100, which count for nothing.
        label_smoothing: share of the target probability spread evenly over the vocabulary.
    """
    model_type = model.config.model_type  # type: ignore[union-attr]
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    in_chunks = FAMILIES[str(model_type)].plain_head and not any(weight.requires_grad for weight in head.parameters())
    labels_N = batch.labels_BT[counted_BT := batch.labels_BT != IGNORED]
    states: list[Tensor] = []

    def counted(_head: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        # The head is the widest product of a small model: it sees the N positions that count, never the padding.
        states_ND = inputs[0][counted_BT]
        states.append(states_ND)
        return (states_ND[:0] if in_chunks else states_ND,)

    with head.register_forward_pre_hook(counted):
        logits_NV: Tensor = model(
            input_ids=batch.input_ids_BS,
            attention_mask=batch.attention_mask_BS,
            decoder_input_ids=shift_right(batch.labels_BT, model.config),
            use_cache=False,
        ).logits
    if in_chunks:
        loss_sum: Tensor = _HeadLoss.apply(states[0], head, labels_N, label_smoothing)  # type: ignore[no-untyped-call]
    else:
        loss_sum = _cross_entropy(logits_NV, labels_N, label_smoothing)
    return loss_sum, batch.target_tokens


def _cross_entropy(logits_NV: Tensor, labels_N: Tensor, label_smoothing: float) -> Tensor:
    return F.cross_entropy(logits_NV.to(torch.float32), labels_N, reduction="sum", label_smoothing=label_smoothing)


class _HeadLoss(torch.autograd.Function):
    """A frozen head and the cross-entropy, a few rows at once, straight to the gradient of the states.

    No tensor of N × V exists, in the forward or in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, head: Any, labels_N: Tensor, label_smoothing: float) -> Tensor:
        gradient_ND = torch.empty_like(states_ND) if ctx.needs_input_grad[0] else None
        loss_sum = torch.zeros((), dtype=torch.float32, device=states_ND.device)
        rows = max(1, _LOGITS_AT_ONCE // head.weight.shape[0])
        for start in range(0, len(labels_N), rows):
            some = slice(start, start + rows)
            logits_CV = head(states_ND[some])
            if gradient_ND is None:
                loss_sum += _cross_entropy(logits_CV, labels_N[some], label_smoothing)
                continue
            logits_CV = logits_CV.detach().to(torch.float32).requires_grad_()
            with torch.enable_grad():
                loss = _cross_entropy(logits_CV, labels_N[some], label_smoothing)
            (slope_CV,) = torch.autograd.grad(loss, logits_CV)
            gradient_ND[some] = slope_CV.to(states_ND.dtype) @ head.weight
            loss_sum += loss.detach()
        if gradient_ND is not None:
            ctx.save_for_backward(gradient_ND)
        return loss_sum

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_ND,) = ctx.saved_tensors
        return (gradient_ND * slope).to(gradient_ND.dtype), None, None, None
