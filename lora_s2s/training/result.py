"""The end of a run: which adapter is kept, and the figures to report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lora_s2s.console import warn
from lora_s2s.errors import DataError
from lora_s2s.training.checkpoint import checkpoint_path, read_checkpoint, restore_adapter
from lora_s2s.training.plan import StepPlan
from lora_s2s.training.state import TrainState


@dataclass(frozen=True)
class TrainResult:
    """What a finished run reports.

    ``train_loss`` is the token-weighted mean over the last epoch, ``validation_loss`` that of the adapter kept (None
    without validation), both in nats a target token. ``tokens`` are real source and target tokens;
    ``tokens_per_second`` counts training time alone. ``resumed_from`` is a step or None, ``stopped`` is
    ``"early_stopping"`` or None, ``kept`` is ``"best"`` or ``"last"`` and ``kept_step`` the step it comes from.
    """

    steps: int
    epochs: float
    train_loss: float
    validation_loss: float | None
    tokens: int
    tokens_per_second: float
    peak_memory_bytes: int
    resumed_from: int | None
    stopped: str | None
    kept: str
    kept_step: int


def finish(
    model: nn.Module, state: TrainState, plan: StepPlan, run_dir: Path, *, resumed_from: int | None
) -> TrainResult:
    """Puts the best adapter into the model where there is one, else leaves the last, sets eval mode, and reports."""
    best = state.best_step is not None and _load_best(model, state, run_dir / "checkpoints")
    model.eval()
    return TrainResult(
        steps=state.step,
        epochs=round(plan.epochs_at(state), 4),
        train_loss=state.epoch_loss_sum / state.epoch_target_tokens,
        validation_loss=state.best_validation_loss if best else state.validation_loss,
        tokens=state.tokens,
        tokens_per_second=round(state.tokens / state.seconds, 1),
        peak_memory_bytes=state.peak_memory_bytes,
        resumed_from=resumed_from,
        stopped="early_stopping" if state.step < plan.total_steps else None,
        kept="best" if best else "last",
        kept_step=state.best_step if best and state.best_step is not None else state.step,
    )


def _load_best(model: nn.Module, state: TrainState, folder: Path) -> bool:
    if state.best_step is None or state.best_step == state.step:
        return True
    try:
        restore_adapter(read_checkpoint(checkpoint_path(folder, state.best_step)), model)
    except DataError as error:
        warn(f"the best checkpoint is damaged, the last adapter is kept: {error.where}: {error.message}")
        return False
    return True
