"""Dropout by a seed: its share, its scale, where it acts, and that the backward pass draws what the
forward drew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import adapted, batch_of, gradients

from lora_s2s.data.collate import Batch
from lora_s2s.fast_t5.choose import fast_forward
from lora_s2s.fast_t5.operations import Mask
from lora_s2s.models.common import set_dropout
from lora_s2s.training.loss import sequence_loss


def training(folder: Path, *, base: float, adapter: float, **lora: Any) -> Any:
    model = adapted(folder, dropout=adapter, **lora)
    set_dropout(model, base)
    return model.train()


def loss_at(model: Any, batch: Batch, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return sequence_loss(model, batch)[0] / batch.target_tokens


def test_a_mask_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    ones, mask = torch.ones(400, 500), Mask.drawn(0.3)
    dropped = mask.on(ones)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.005)
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / 0.7])
    assert torch.equal(mask.on(ones), dropped)
    assert not torch.equal(Mask.drawn(0.3).on(ones), dropped)
    assert Mask.drawn(0.0).on(ones) is ones


# Either alone: together, what one does wrong could vanish in the spread of the other.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "adapter"),
    [(0.2, 0.0), (0.0, 0.4), pytest.param(0.2, 0.4, marks=pytest.mark.long)],
)
def test_losses_spread_as_hf_s_do(tmp_path: Path, base: float, adapter: float) -> None:
    model, batch = (
        training(tmp_path, base=base, adapter=adapter, target_modules="all-linear"),
        batch_of(),
    )
    with torch.no_grad():
        theirs = torch.stack([loss_at(model, batch, seed) for seed in range(300)])
        with fast_forward(model):
            ours = torch.stack([loss_at(model, batch, seed) for seed in range(300)])
    error = float((theirs.var() / 300 + ours.var() / 300).sqrt())
    assert abs(float(ours.mean() - theirs.mean())) < 4 * error
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.25)


@pytest.mark.parametrize("targets", ["attention-qv", "all-linear"])
def test_gradients_are_those_of_the_loss_that_was_drawn(tmp_path: Path, targets: str) -> None:
    model, batch = training(tmp_path, base=0.2, adapter=0.3, target_modules=targets), batch_of()
    model.double()
    adapter = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with fast_forward(model):
        loss_at(model, batch, 7).backward()
        generator = torch.Generator().manual_seed(3)
        ways = [
            torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            for parameter in adapter
        ]
        size = sum(float(way.square().sum()) for way in ways) ** 0.5
        ways = [way / size for way in ways]
        slope = sum(
            float((parameter.grad * way).sum())
            for parameter, way in zip(adapter, ways, strict=True)
        )
        ends = []
        for step in (1e-2, -1e-2):
            for parameter, way in zip(adapter, ways, strict=True):
                parameter.data += step * way
            ends.append(float(loss_at(model, batch, 7).detach()))
            for parameter, way in zip(adapter, ways, strict=True):
                parameter.data -= step * way
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=2e-3)


def test_no_dropout_outside_training(tmp_path: Path) -> None:
    model, batch = training(tmp_path, base=0.5, adapter=0.5), batch_of()
    model.eval()
    assert float(gradients(model, batch, fast=True)[0]) == pytest.approx(
        float(gradients(model, batch, fast=False)[0]), rel=1e-5
    )
