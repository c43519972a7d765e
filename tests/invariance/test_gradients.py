"""One optimizer step is one gradient, however its rows are cut into micro-batches, padded, or
ordered.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from training_parts import PAD, Rows, section, tiny_model

from lora_s2s.data.collate import Batch, collate
from lora_s2s.lora import token_rows
from lora_s2s.training.loop import train_step
from lora_s2s.training.plan import StepPlan
from lora_s2s.training.state import StepStats

ROWS = Rows(16, seed=3, longest=40)


class KeepsGradients:
    """Stands where the optimizer stands and keeps what it would have stepped with."""

    def __init__(self, model: torch.nn.Module) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        self.param_groups: list[dict[str, Any]] = [{"params": trained, "rate": 1.0}]
        self._model = model
        self.seen: dict[str, torch.Tensor] = {}

    def step(self) -> None:
        self.seen = {
            name: p.grad.clone() for name, p in self._model.named_parameters() if p.grad is not None
        }

    def zero_grad(self, set_to_none: bool) -> None:
        self._model.zero_grad(set_to_none=set_to_none)


def one_step(
    batches: list[Batch], *, tokens: list[int] | None = None, **changes: Any
) -> tuple[dict[str, torch.Tensor], StepStats]:
    model = tiny_model()
    token_rows.add(model.get_base_model(), tokens or [])
    keeper = KeepsGradients(model)
    stats = train_step(
        model,
        keeper,
        batches,
        accelerator=Accelerator(cpu=True),
        step=0,
        learning_rate=0.1,
        settings=section(max_grad_norm=0, **changes),
    )
    assert len(keeper.seen) > 0
    return keeper.seen, stats


def cut(order: list[int], size: int) -> list[Batch]:
    return [
        collate([ROWS.features(row) for row in order[start : start + size]], PAD)
        for start in range(0, len(order), size)
    ]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert max(float((one[name] - other[name]).abs().max()) for name in one) <= 1e-6


ORDER = list(range(16))
WHOLE, WHOLE_STATS = one_step(cut(ORDER, 16))


def test_lengths_vary_enough_to_tell_a_wrong_divisor() -> None:
    parts = [one_step(cut(ORDER[start : start + 4], 4))[0] for start in range(0, 16, 4)]
    mean = {name: sum(part[name] for part in parts) / 4 for name in WHOLE}
    biggest = max(float(tensor.abs().max()) for tensor in WHOLE.values())
    assert max(float((WHOLE[name] - mean[name]).abs().max()) for name in WHOLE) > 0.02 * biggest


@pytest.mark.parametrize("size", [4, 1, 3])
def test_accumulation_changes_nothing(size: int) -> None:
    gradients, stats = one_step(cut(ORDER, size))
    assert_same(gradients, WHOLE)
    assert stats.loss == pytest.approx(WHOLE_STATS.loss, abs=1e-6)
    assert stats.grad_norm == pytest.approx(WHOLE_STATS.grad_norm, abs=1e-6)
    assert (stats.target_tokens, stats.source_tokens) == (
        WHOLE_STATS.target_tokens,
        WHOLE_STATS.source_tokens,
    )


def test_accumulation_changes_nothing_with_label_smoothing() -> None:
    assert_same(
        one_step(cut(ORDER, 4), label_smoothing=0.1)[0],
        one_step(cut(ORDER, 16), label_smoothing=0.1)[0],
    )


def test_accumulation_changes_nothing_where_tokens_train() -> None:
    whole, _ = one_step(cut(ORDER, 16), tokens=[5, 40, 95])
    assert sum("token_rows" in name for name in whole) == 1  # its head is its embeddings
    for size in (4, 1):
        assert_same(one_step(cut(ORDER, size), tokens=[5, 40, 95])[0], whole)


def test_order_changes_nothing() -> None:
    assert_same(one_step(cut([*ORDER[7:], *ORDER[:7]][::-1], 16))[0], WHOLE)


def test_padding_changes_nothing() -> None:
    longest = SimpleNamespace(input_ids=[2] * 70, labels=[2] * 60)
    wide = collate([*[ROWS.features(row) for row in ORDER], longest], PAD)
    padded = Batch(wide.input_ids_BS[:-1], wide.attention_mask_BS[:-1], wide.labels_BT[:-1])
    assert padded.labels_BT.shape[1] > max(ROWS.target_lengths)
    assert_same(one_step([padded])[0], WHOLE)


@pytest.mark.parametrize("budget", [64, 200, 4000])
def test_packing_changes_nothing(budget: int) -> None:
    (step,) = StepPlan(
        ROWS,
        section(batch_size=None, tokens_per_batch=budget, packing=True, gradient_accumulation=99),
    ).steps(0)
    gradients, stats = one_step(
        [collate([ROWS.features(row) for row in rows], PAD) for rows in step]
    )
    assert_same(gradients, WHOLE)
    assert stats.loss == pytest.approx(WHOLE_STATS.loss, abs=1e-6)


def test_gradients_equal_hf_backward_on_one_batch() -> None:
    model = tiny_model()
    batch = cut(ORDER, 16)[0]
    model(
        input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, labels=batch.labels_BT
    ).loss.backward()
    assert_same({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, WHOLE)


def test_a_launcher_setting_does_not_divide_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert_same(one_step(cut(ORDER, 4))[0], WHOLE)
