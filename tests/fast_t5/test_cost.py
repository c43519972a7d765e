"""What the fast forward does not do: no gradient below the lowest adapter, little kept for the
backward pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import adapted, batch_of, gradients
from torch.autograd.graph import saved_tensors_hooks

from lora_s2s.fast_t5 import operations
from lora_s2s.fast_t5.choose import fast_forward
from lora_s2s.fast_t5.layout import layout_of
from lora_s2s.fast_t5.t5 import PaddingFree
from lora_s2s.models.t5_parts import stacks_of
from lora_s2s.training.loss import sequence_loss


def test_an_encoder_without_adapters_runs_without_gradient(tmp_path: Path) -> None:
    for targets, trains in (("decoder", False), ("attention-qv", True)):
        model = adapted(tmp_path / targets, target_modules=targets).get_base_model()
        forward = PaddingFree(model, stacks_of(model, operations.ACTIVATIONS))
        assert forward.memory(layout_of(batch_of(), model.config)).requires_grad is trains


def test_nothing_below_the_lowest_adapter_has_a_backward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(tmp_path, target_modules=["decoder.block.1.layer.0.SelfAttention.q"])
    done: list[Any] = []
    backward = operations._product_backward

    def counted(slope: Any, product: Any, *others: Any, **named: Any) -> Any:
        done.append((named["input_gradient"], product.down is not None))
        return backward(slope, product, *others, **named)

    with fast_forward(model):
        loss, _ = sequence_loss(model, batch_of())  # the comparison is over
        monkeypatch.setattr(operations, "_product_backward", counted)
        loss.backward()
    # wo, wi_0, wi_1, then the cross-attention's o and q, the own o: back to their inputs. Of q, k
    # and v nothing but A and B: their input lies below the adapter.
    assert sorted(done) == sorted([(True, False)] * 6 + [(False, True)] + [(False, False)] * 2)


def test_kept_bytes_are_within_the_formula(tmp_path: Path) -> None:
    rows, source, target = 6, 24, 16
    model, batch = adapted(tmp_path), batch_of([(source, target)] * rows)
    owned = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with fast_forward(model):
        sequence_loss(model, batch)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, _ = sequence_loss(model, batch)
            d, inner, d_ff, rank, heads, layers = 64, 128, 192, 4, 4, 2
            attention = (
                4 * inner + 2 * rank + 2 + heads
            )  # q, k, v, what they mix; A's outputs; two statistics
            encoder = 2 * d + attention + 2 * d_ff
            decoder = 3 * d + attention + 2 * inner + rank + heads + 1 + 2 * d_ff
            cross = 2 * inner + rank
            ends = rows * (source * (d + 1) + target * (2 * d + 1))
            bias = heads * (source**2 + target**2)
            most = rows * layers * (source * (encoder + cross) + target * decoder) + ends + bias
            assert 0.9 * 4 * most < sum(kept.values()) <= 1.02 * 4 * most
            loss.backward()


def test_a_frozen_base_gets_no_gradient(tmp_path: Path) -> None:
    model = adapted(tmp_path, target_modules="all-linear")
    gradients(model, batch_of(), fast=True)
    assert all(
        parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad
    )
