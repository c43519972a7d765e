"""Both forwards of one model on the same rows: what the tests of the fast forward compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from adapting import adapt
from tiny_families import TINY, VOCABULARY, write
from torch import Tensor

from lora_s2s.data.collate import Batch
from lora_s2s.fast_t5.choose import fast_forward, fast_states
from lora_s2s.models.loading import load_base
from lora_s2s.tokens.labels import IGNORE_INDEX
from lora_s2s.training.loss import sequence_loss

PAD = 0
Lengths = Sequence[tuple[int, int]]
MIXED: Lengths = ((9, 4), (1, 1), (30, 11), (30, 2), (17, 17), (3, 25), (30, 11))


def adapted(
    folder: Path,
    row: str = "T5 v1.1, LM-adapted, Flan-T5",
    *,
    model: dict[str, Any] | None = None,
    **lora: Any,
) -> Any:
    """A row of the family battery with an adapter whose every parameter is stirred, dropout off, in
    eval mode.
    """
    base = load_base(str(write(TINY[row], folder)), device="cpu", **(model or {}))
    chosen = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "attention-qv", **lora}
    found = adapt(base, **chosen, seed=0)
    base.family.set_dropout(found, 0.0)
    generator = torch.Generator().manual_seed(1)
    for parameter in found.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return found


def batch_of(lengths: Lengths = MIXED, *, seed: int = 0, left: bool = False) -> Batch:
    """Random ids of given lengths, padded on the right; sources on the left if asked."""
    generator = torch.Generator().manual_seed(seed)
    wide = max(source for source, _ in lengths) + 2, max(target for _, target in lengths) + 3
    ids, labels = (
        torch.full((len(lengths), wide[0]), PAD),
        torch.full((len(lengths), wide[1]), IGNORE_INDEX),
    )
    mask = torch.zeros_like(ids)
    for row, (source, target) in enumerate(lengths):
        first = wide[0] - source if left else 0
        here = slice(first, first + source)
        ids[row, here] = torch.randint(2, VOCABULARY, (source,), generator=generator)
        mask[row, here] = 1
        labels[row, :target] = torch.randint(2, VOCABULARY, (target,), generator=generator)
    return Batch(ids, mask, labels)


def gradients(
    model: Any, batch: Batch, *, fast: bool, **options: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The summed loss and every adapter gradient; fails where the fast forward is wanted and not in
    use.
    """
    model.zero_grad(set_to_none=True)
    if fast:
        with fast_forward(model):
            if fast_states(model, batch) is None:
                raise AssertionError("the fast forward is off")
            loss, _ = sequence_loss(model, batch, **options)
    else:
        loss, _ = sequence_loss(model, batch, **options)
    loss.backward()
    return loss.detach(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest ‖found - expected‖ ÷ ‖expected‖ of one gradient; a missing one is zero."""
    known = {**expected, **found}
    both = [
        (
            found.get(name, torch.zeros_like(tensor)).double(),
            expected.get(name, torch.zeros_like(tensor)).double(),
        )
        for name, tensor in known.items()
    ]
    return max(float((a - b).norm()) / max(float(b.norm()), 1e-20) for a, b in both)


def joined(gradient: dict[str, Tensor]) -> dict[str, Tensor]:
    """All gradients as one."""
    return {"all": torch.cat([gradient[name].flatten() for name in sorted(gradient)])}


def assert_equal(
    model: Any,
    batch: Batch,
    *,
    expected_from: Batch | None = None,
    tolerance: float = 1e-5,
    **options: float,
) -> None:
    """The fast forward's loss and adapter gradients are HF's."""
    theirs, expected = gradients(
        model, batch if expected_from is None else expected_from, fast=False, **options
    )
    ours, found = gradients(model, batch, fast=True, **options)
    if not abs(float(ours - theirs)) <= tolerance * abs(float(theirs)):
        raise AssertionError(f"loss {float(ours)} against {float(theirs)}")
    if (off := worst(found, expected)) > tolerance:
        raise AssertionError(f"gradients differ by {off}")
