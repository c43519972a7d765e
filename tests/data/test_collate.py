"""Padding: -100 in labels, zeros in the mask, no wider than the longest."""

from __future__ import annotations

import pytest
import torch

from lora_s2s.data.collate import Batch, collate
from lora_s2s.tokens.tokenise import Features

ROWS = [Features([5, 6, 1], [7, 1]), Features([8, 1], [9, 0, 1])]


def test_padding_and_mask() -> None:
    batch = collate(ROWS, pad_token_id=0)
    assert batch.input_ids_BS.tolist() == [[5, 6, 1], [8, 1, 0]]
    assert batch.attention_mask_BS.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.labels_BT.tolist() == [[7, 1, -100], [9, 0, 1]]
    assert {
        tensor.dtype for tensor in (batch.input_ids_BS, batch.attention_mask_BS, batch.labels_BT)
    } == {torch.int64}
    # A real 0 among the labels counts; the padding does not.
    assert batch.target_tokens == 5


def test_a_pad_id_inside_a_source_is_still_attended() -> None:
    batch = collate([Features([0, 1], [1])], pad_token_id=0)
    assert batch.attention_mask_BS.tolist() == [[1, 1]]


def test_moving_keeps_the_count_and_a_batch_can_be_built_by_hand() -> None:
    batch = collate(ROWS, pad_token_id=3)
    moved = batch.to("cpu")
    assert moved.target_tokens == 5
    assert Batch(batch.input_ids_BS, batch.attention_mask_BS, batch.labels_BT).target_tokens == 5
    with pytest.raises(ValueError, match="at least one"):
        collate([], pad_token_id=0)
