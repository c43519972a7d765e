"""Mean loss per token on held-out rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import distributed, nn

from lora_s2s.data.collate import collate
from lora_s2s.data.prepared import SplitTable
from lora_s2s.errors import DataError
from lora_s2s.fast_t5.choose import with_layout
from lora_s2s.training.batching import token_budget_batches
from lora_s2s.training.loss import sequence_loss

Evaluate = Callable[[nn.Module], dict[str, float]]


def make_validation(
    table: SplitTable,
    *,
    pad_token_id: int,
    tokens_per_batch: int | None = None,
    batch_size: int | None = None,
) -> Evaluate:
    """Returns a function from a model to ``{"validation_loss": …}``: Σ cross-entropy ÷ Σ target
    tokens, in nats per token.

    It runs in eval mode without label smoothing or gradients, restores the model's mode, and is
    deterministic. Several processes share the rows and get the same result.

    Raises:
        DataError: the table has no row.
    """
    if len(table) == 0:
        raise DataError(
            "the validation split has 0 rows",
            hint="set data.validation, or data.validation_fraction",
        )
    batches = token_budget_batches(
        table.source_lengths,
        table.target_lengths,
        tokens_per_batch=tokens_per_batch,
        batch_size=batch_size,
        seed=0,
        epoch=0,
    )

    def evaluate(model: nn.Module) -> dict[str, float]:
        several = distributed.is_initialized()
        rank, processes = (
            (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
        )
        device = next(model.parameters()).device
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                for first in range(0, len(batches), processes):
                    # In the last round all compute as well: they may need each other's weights.
                    mine = first + rank < len(batches)
                    rows = batches[first + rank if mine else first]
                    batch = with_layout(
                        model, collate([table.features(row) for row in rows], pad_token_id)
                    )
                    loss_sum, target_tokens = sequence_loss(model, batch.to(device))
                    if mine:
                        totals[0] += loss_sum
                        totals[1] += target_tokens
        finally:
            model.train(was_training)
        if several:
            distributed.all_reduce(totals)
        return {"validation_loss": float(totals[0] / totals[1])}

    return evaluate
