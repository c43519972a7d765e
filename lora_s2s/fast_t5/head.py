"""The output head with cross-entropy, computed in chunks of tokens together with the gradients: of
the states, and of single embedding rows of the head or of all of it where they train.

No tensor of N × V is allocated, in the forward or in the backward pass.

Legend: N target tokens of the batch, C in a chunk, D model width, V vocabulary, K trained tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_s2s.fast_t5.operations import Context
from lora_s2s.fast_t5.products import product, weight_gradient
from lora_s2s.lora.token_rows import head_rows

# A GPU needs larger chunks to be busy.
LOGITS_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 25}


def head_loss(
    states_ND: Tensor, head: nn.Module, labels_N: Tensor, *, label_smoothing: float, z_loss: float
) -> Tensor:
    """The sum of :func:`cross_entropy` over the tokens (nats, scalar float32).

    Args:
        head: a linear layer (D → V) without bias.
    """
    tokens, weight_VD = head_rows(head), head.weight
    return _HeadLoss.apply(states_ND, head, weight_VD, *tokens, labels_N, label_smoothing, z_loss)  # type: ignore[no-any-return, no-untyped-call]


def cross_entropy(
    logits_NV: Tensor, labels_N: Tensor, *, label_smoothing: float, z_loss: float
) -> Tensor:
    """Σ cross-entropy + ``z_loss`` · (log Σ exp logits)², in float32.

    Args:
        label_smoothing: fraction of the target probability that is spread over the vocabulary.
    """
    logits_NV = logits_NV.to(torch.float32)
    loss = F.cross_entropy(logits_NV, labels_N, reduction="sum", label_smoothing=label_smoothing)
    return loss + z_loss * torch.logsumexp(logits_NV, dim=-1).square().sum() if z_loss else loss


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        states_ND: Tensor,
        head: nn.Linear,
        weight_VD: Tensor,
        ids_K: Tensor | None,
        more_KD: Tensor | None,
        labels_N: Tensor,
        *settings: float,
    ) -> Tensor:
        gradient_ND = torch.empty_like(states_ND) if ctx.needs_input_grad[0] else None
        gradient_KD = None if more_KD is None else torch.zeros_like(more_KD)
        gradient_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[2] else None
        loss_sum = torch.zeros((), dtype=torch.float32, device=states_ND.device)
        rows = max(1, LOGITS_AT_ONCE[states_ND.device.type] // head.weight.shape[0])
        for chunk in (slice(start, start + rows) for start in range(0, len(labels_N), rows)):
            logits_CV = _logits(head, states_ND[chunk]).to(torch.float32)
            loss, slope_CV = _loss_and_slope(logits_CV, labels_N[chunk].unsqueeze(1), *settings)
            loss_sum += loss
            if gradient_VD is not None:
                slope = slope_CV.to(states_ND.dtype)
                gradient_VD += weight_gradient(slope, states_ND[chunk])
            if gradient_ND is not None:
                gradient_ND[chunk] = product(slope_CV.to(states_ND.dtype), head.weight.t())
                if more_KD is not None and gradient_KD is not None:
                    slope_CK = slope_CV[:, ids_K]
                    gradient_ND[chunk] += (slope_CK @ more_KD).to(states_ND.dtype)
                    gradient_KD.addmm_(slope_CK.T, states_ND[chunk].to(torch.float32))
        ctx.save_for_backward(gradient_ND, gradient_VD, gradient_KD)
        return loss_sum

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor | None, ...]:
        by_states, by_weight, by_rows = (
            None if one is None else (one * slope).to(one.dtype) for one in ctx.saved_tensors
        )
        return by_states, None, by_weight, None, by_rows, None, None, None


def _logits(head: nn.Linear, states_CD: Tensor) -> Tensor:
    # A hook adds what trained tokens change.
    plain = not head._forward_hooks and head.bias is None
    return product(states_CD, head.weight) if plain else head(states_CD)


def _loss_and_slope(
    logits_CV: Tensor, labels_C1: Tensor, smoothing: float, z_loss: float
) -> tuple[Tensor, Tensor]:
    """The loss of a chunk and its gradient by the logits, computed in place of the log-softmax."""
    scores_CV = torch.log_softmax(logits_CV, dim=-1)
    chosen_C1 = scores_CV.gather(1, labels_C1)
    loss = chosen_C1.sum() * (smoothing - 1)
    if smoothing:
        loss -= smoothing * scores_CV.mean(dim=-1).sum()
    # log Σ exp is the difference between logits and log-softmax.
    peaks_C1 = logits_CV.gather(1, labels_C1) - chosen_C1
    slope_CV = scores_CV.exp_()
    if z_loss:
        loss += z_loss * peaks_C1.square().sum()
        slope_CV.mul_(1 + 2 * z_loss * peaks_C1)
    if smoothing:
        slope_CV.sub_(smoothing / slope_CV.shape[1])
    slope_CV.scatter_add_(1, labels_C1, torch.full_like(chosen_C1, smoothing - 1))
    return loss, slope_CV
