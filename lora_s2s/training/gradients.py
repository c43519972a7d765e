"""Parts of an optimizer step: its random numbers, float16's loss scales, the check for NaN."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch on every device by the step alone: a resumed run draws the same numbers."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))


def loss_scales(model: nn.Module, target_tokens: int) -> list[float]:
    """Powers of two to scale the mean loss by, tried in order until the gradients are finite.

    float16 rounds small gradients to zero and overflows at large ones. The first scale multiplies
    each token's loss by 16 to 32, far from both. No scale is remembered, so that a resumed run
    tries the same ones. Bases in other dtypes are not scaled.
    """
    if next((p.dtype for p in model.parameters() if not p.requires_grad), None) != torch.float16:
        return [1.0]
    return [2.0**power for power in (*range(target_tokens.bit_length() + 4, 0, -4), 0)]


def unscale_gradients(parameters: Sequence[nn.Parameter], scale: float) -> None:
    """Divides all gradients by the loss scale."""
    if scale != 1:
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], scale)


def step_if_finite(
    optimizer: Optimizer, loss_sum: Tensor, grad_norm: Tensor
) -> tuple[float, float]:
    """Steps if both scalars are finite, drops the gradients, and returns both as floats.

    An optimizer that can skip a step on the device decides there, so that the host waits only once,
    after everything is queued.
    """
    both = torch.stack([loss_sum, grad_norm])
    on_device = getattr(optimizer, "_step_supports_amp_scaling", False)
    if on_device:
        optimizer.found_inf = (~both.isfinite().all()).float()  # type: ignore[attr-defined]
        optimizer.step()
    loss, norm = both.tolist()
    if not on_device and math.isfinite(loss) and math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss, norm
