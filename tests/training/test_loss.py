"""The one loss against HF's own, by hand, and on padded rows."""

from __future__ import annotations

import pytest
import torch
from training_parts import PAD, VOCABULARY, Rows, tiny_model

from lora_s2s.data.collate import collate
from lora_s2s.fast_t5 import head as head_room
from lora_s2s.training.loss import sequence_loss


def test_equals_hf_on_one_batch() -> None:
    model, rows = tiny_model(), Rows(6)
    batch = collate([rows.features(i) for i in range(6)], PAD)
    loss_sum, target_tokens = sequence_loss(model, batch)
    theirs = model(
        input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, labels=batch.labels_BT
    ).loss
    assert target_tokens == rows.target_lengths.sum()
    assert float(loss_sum.detach() / target_tokens) == pytest.approx(
        float(theirs.detach()), abs=1e-6
    )


def test_is_the_sum_over_its_rows() -> None:
    model, rows = tiny_model(), Rows(6)
    whole, tokens = sequence_loss(model, collate([rows.features(i) for i in range(6)], PAD))
    alone = [sequence_loss(model, collate([rows.features(i)], PAD)) for i in range(6)]
    assert float(whole.detach()) == pytest.approx(
        sum(float(loss.detach()) for loss, _ in alone), abs=1e-4
    )
    assert tokens == sum(count for _, count in alone)


def test_the_head_never_sees_padding() -> None:
    model, rows, seen = tiny_model(), Rows(6), []
    model.get_output_embeddings().register_forward_hook(
        lambda _head, _inputs, output: seen.append(len(output))
    )
    batch = collate([rows.features(i) for i in range(6)], PAD)
    _, target_tokens = sequence_loss(model, batch)
    assert sum(seen) == target_tokens
    assert target_tokens < batch.labels_BT.numel()
    assert (
        model(input_ids=batch.input_ids_BS, labels=batch.labels_BT).logits.shape[:2]
        == batch.labels_BT.shape
    )


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.05)])
def test_a_frozen_head_in_chunks_gives_the_loss_and_gradients_of_a_whole_one(
    monkeypatch: pytest.MonkeyPatch, smoothing: float, z_loss: float
) -> None:
    monkeypatch.setitem(head_room.LOGITS_AT_ONCE, "cpu", 7 * VOCABULARY)
    found = []
    for frozen in (False, True):
        model, rows, seen = tiny_model(), Rows(6), []
        head = model.get_output_embeddings()
        head.requires_grad_(not frozen)
        head.register_forward_hook(
            lambda _head, _inputs, output, seen=seen: seen.append(len(output))
        )
        batch = collate([rows.features(i) for i in range(6)], PAD)
        loss_sum, _ = sequence_loss(model, batch, label_smoothing=smoothing, z_loss=z_loss)
        (loss_sum / 3).backward()
        gradients = {key: p.grad for key, p in model.named_parameters() if "lora_" in key}
        found.append((loss_sum.detach(), gradients, max(seen)))
    (whole, expected, at_once), (chunked, gradients, few) = found
    assert (at_once, few) == (rows.target_lengths.sum(), 7)
    assert torch.allclose(chunked, whole, rtol=1e-6)
    assert all(
        torch.allclose(gradients[key], gradient, rtol=1e-4, atol=1e-5)
        for key, gradient in expected.items()
    )


def test_label_smoothing_by_hand() -> None:
    model, rows = tiny_model(), Rows(1)
    batch = collate([rows.features(0)], PAD)
    logits = model(
        input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, labels=batch.labels_BT
    ).logits
    log_p = torch.log_softmax(logits[0], dim=-1)
    truth = log_p.gather(1, batch.labels_BT[0].unsqueeze(1)).squeeze(1)
    expected = -(0.9 * truth + 0.1 * log_p.mean(dim=-1)).sum()
    smoothed, _ = sequence_loss(model, batch, label_smoothing=0.1)
    assert float(smoothed.detach()) == pytest.approx(float(expected.detach()), abs=1e-4)


def test_bfloat16_base_gives_a_float32_loss_and_float32_gradients() -> None:
    model, rows = tiny_model(), Rows(4)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    loss_sum, _ = sequence_loss(model, collate([rows.features(i) for i in range(4)], PAD))
    loss_sum.backward()
    assert loss_sum.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
