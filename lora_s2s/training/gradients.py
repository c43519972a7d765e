"""Gradients of a step: summed over micro-batches, which are halved where memory ends, scaled,
seeded, checked.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lora_s2s.console import warn
from lora_s2s.data.collate import IGNORED, Batch
from lora_s2s.errors import ResourceError, ran_out_of_memory
from lora_s2s.fast_t5.choose import with_layout
from lora_s2s.recipe.schema import TrainingSettings
from lora_s2s.training.loss import sequence_loss

_ADVICE = (
    "lower data.max_source_tokens, or set training.gradient_checkpointing=true or "
    "model.quantization=nf4"
)
_TOLD = "_told_of_halves"


class Abandoned(Exception):
    """Raised between two micro-batches of a step that is not wanted any more."""


def add_gradients(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    device: torch.device,
    divisor: float,
    settings: TrainingSettings,
    seeds: tuple[int, int, int],
    unwanted: Callable[[], bool],
) -> Tensor:
    """Adds up the gradients of this process's cross-entropy ÷ ``divisor``; returns its sum,
    undivided.

    Out of memory, it begins again with the micro-batch in two halves: the gradients are the same
    sum.

    Args:
        seeds: see :func:`seed_step`.
        unwanted: asked before each micro-batch.

    Raises:
        Abandoned: the step is unwanted.
        ResourceError: a single row is more than memory holds.
    """
    parts = list(micro_batches)
    while True:
        seed_step(*seeds)
        total, done = torch.zeros((), device=device), 0
        for batch in parts:
            if unwanted():
                raise Abandoned
            loss_sum = _backward(model, batch.to(device), divisor, settings)
            if loss_sum is None:
                break
            total += loss_sum
            done += 1
        if done == len(parts):
            return total
        # What the failed one had added already cannot be told from the rest.
        model.zero_grad(set_to_none=True)
        parts[done : done + 1] = halves(model, parts[done])
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _backward(
    model: nn.Module, batch: Batch, divisor: float, settings: TrainingSettings
) -> Tensor | None:
    """Adds the gradients of one micro-batch and returns its loss; None where memory ran out."""
    try:
        loss_sum, _ = sequence_loss(
            model, batch, label_smoothing=settings.label_smoothing, z_loss=settings.z_loss
        )
        # Not accelerator.backward: a launcher's environment variable can make that divide once
        # more.
        torch.autograd.backward(loss_sum / divisor)
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        rows = len(batch.labels_BT)
        if rows == 1:
            size = f"{batch.source_tokens} source and {batch.target_tokens} target tokens"
            raise ResourceError(
                f"out of memory while training, with one row of {size}", hint=_ADVICE
            ) from error
        if not getattr(model, _TOLD, False):
            setattr(model, _TOLD, True)
            warn(
                f"out of memory with {rows} rows at once: they are taken in halves, here and where "
                "it happens again; half of training.tokens_per_batch with twice "
                "training.gradient_accumulation is the same, and faster"
            )
        return None
    return loss_sum.detach()


def step_if_finite(
    optimizer: Optimizer, loss_sum: Tensor, grad_norm: Tensor
) -> tuple[float, float]:
    """Steps if both scalars are finite, takes the gradients away, and returns the two.

    An optimizer that can leave a step out on the device is told there: the host waits once, when
    all is queued.
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


def loss_scales(model: nn.Module, target_tokens: int) -> list[float]:
    """Returns the powers of two to multiply the mean loss with, until one gives finite gradients.

    float16 loses gradients that are too small and overflows at large ones. The first scale, 16 to
    32 for each token's own loss, lies well between. Nothing is remembered, so that a resumed run
    goes the same way. Other bases need none.
    """
    if next((p.dtype for p in model.parameters() if not p.requires_grad), None) != torch.float16:
        return [1.0]
    return [2.0**power for power in (*range(target_tokens.bit_length() + 4, 0, -4), 0)]


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch on every device from the step alone, so that a resumed run draws what it would
    have drawn.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))


def halves(model: nn.Module, batch: Batch) -> list[Batch]:
    """Returns a micro-batch of several rows as two of half the rows, each no wider than its
    rows.
    """
    rows = len(batch.labels_BT)
    memory: dict[int, Tensor] = {}
    if batch.memory_ND is not None:
        lengths = list(batch.layout.source_lengths)
        memory = dict(
            zip(batch.layout.row_order, torch.split(batch.memory_ND, lengths), strict=True)
        )
    parts = []
    for first, last in ((0, rows // 2), (rows // 2, rows)):
        mask, labels = batch.attention_mask_BS[first:last], batch.labels_BT[first:last]
        source, target = (
            int(used.any(0).nonzero().max()) + 1 for used in (mask != 0, labels != IGNORED)
        )
        part = Batch(batch.input_ids_BS[first:last, :source], mask[:, :source], labels[:, :target])
        part = with_layout(model, part)
        if memory:
            part.memory_ND = torch.cat([memory[first + row] for row in part.layout.row_order])
        parts.append(part)
    return parts
