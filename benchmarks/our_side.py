"""This package's side of the throughput benchmark: its loading, plan, collation ahead and training
step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from clock import Clock
from memory_step import LORA
from workload import ProfileRows, hf_batches

from lora_s2s.data.collate import Batch, collate
from lora_s2s.fast_t5.choose import fast_forward, fast_states, with_layout
from lora_s2s.lora.full import train_weights
from lora_s2s.lora.inject import inject_lora
from lora_s2s.models.loading import load_base
from lora_s2s.recipe.schema import LoraSection, TrainingSettings
from lora_s2s.training.loop import train_step
from lora_s2s.training.optimizer import build_optimizer
from lora_s2s.training.plan import StepPlan
from lora_s2s.training.prefetch import ahead


def our_epoch(
    rows: ProfileRows, tokens_per_batch: int, changed: dict[str, Any]
) -> Sequence[list[int]]:
    """Returns an epoch of batches as training plans it.

    Args:
        changed: settings of training that an ablation changes; ``order`` takes as many rows a
            batch, in HF's order.
    """
    given = {key: value for key, value in changed.items() if key != "order"}
    if "batch_size" not in given:
        given["tokens_per_batch"] = tokens_per_batch
    table: Any = rows  # the plan reads its lengths alone
    batches = [
        micro_batches[0] for micro_batches in StepPlan(table, TrainingSettings(**given)).steps(0)
    ]
    if "order" in changed:
        return hf_batches(rows, changed["order"], round(len(rows) / len(batches)))
    return batches


def our_model(
    folder: Path,
    *,
    device: str,
    dtype: str,
    quantization: str,
    method: str = "lora",
    skip: Sequence[str] = (),
) -> Any:
    """Returns the base with a new LoRA, or all of it to train, dropout off, as the loop gets it."""
    base = load_base(
        str(folder), dtype=dtype, quantization=quantization, skip_quantization=skip, device=device
    )
    full = method == "full"
    model = train_weights(base) if full else inject_lora(base, LoraSection(**LORA), seed=0)
    base.family.set_dropout(model, 0.0)
    return model


def our_steps(
    model: Any, rows: ProfileRows, batches: Sequence[Sequence[int]], *, clock: Clock | None = None
) -> tuple[list[float], bool]:
    """Trains on each batch once, as the loop does; returns the losses, and whether the fast forward
    was in use.

    Args:
        clock: started after the first step, stopped after the last.
    """
    settings = TrainingSettings()
    on_cpu = next(model.parameters()).device.type == "cpu"
    accelerator = Accelerator(mixed_precision="no", cpu=on_cpu)
    optimizer = build_optimizer(model, settings)
    losses = []

    def collated() -> Iterator[Batch]:
        for numbers in batches:
            batch = with_layout(model, collate([rows.features(row) for row in numbers], 0))
            yield batch if on_cpu else batch.pinned()

    with fast_forward(model), ahead(collated(), 0 if on_cpu else 2) as next_batch:
        for step in range(len(batches)):
            stats = train_step(
                model,
                optimizer,
                [next_batch()],
                accelerator=accelerator,
                step=step,
                learning_rate=settings.learning_rate,
                settings=settings,
            )
            losses.append(stats.loss)
            if clock and step == 0:
                clock.start()
        if clock:
            clock.stop()
        with torch.no_grad():
            one_row = collate([rows.features(0)], 0).to(accelerator.device)
            fast = fast_states(model, one_row) is not None
    return losses, fast


def run_ours(
    folder: Path,
    rows: ProfileRows,
    batches: Sequence[Sequence[int]],
    *,
    device: str,
    dtype: str,
    quantization: str,
    method: str = "lora",
) -> dict[str, Any]:
    """Trains in this process, the first batch to warm up; returns time, memory and how it was
    set.
    """
    clock = Clock(device)
    where = {"device": device, "dtype": dtype, "quantization": quantization, "method": method}
    model = our_model(folder, **where)
    clock.loaded()
    _, fast = our_steps(model, rows, batches, clock=clock)
    return {**clock.found, "dropout": 0.0, "forward": "padding-free" if fast else "transformers'"}
