"""The training loop: ``train`` takes optimizer steps until the run is done, ``train_step`` one.

The model stays a plain module under any number of processes: only the gradients of what trains
are exchanged, summed once a step. All random numbers of a step follow from (seed, step, rank).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from lora_s2s.data.collate import Batch
from lora_s2s.data.prepared import SplitTable
from lora_s2s.models.sharded import gathered
from lora_s2s.recipe.schema import TrainingSettings
from lora_s2s.training.gradients import (
    loss_scales,
    seed_step,
    step_if_finite,
    unscale_gradients,
)
from lora_s2s.training.loader import NextBatches
from lora_s2s.training.log import require_trackers
from lora_s2s.training.loss import sequence_loss
from lora_s2s.training.memory import halving_when_out_of_memory
from lora_s2s.training.optimizer import set_learning_rate, trainable
from lora_s2s.training.processes import share_parameters, sum_gradients, summed
from lora_s2s.training.run import Run
from lora_s2s.training.run_lock import run_lock
from lora_s2s.training.sharding import make_whole, shard
from lora_s2s.training.state import LoopOptions, StepStats, TrainResult
from lora_s2s.training.validation import Evaluate


def train(
    model: nn.Module,
    table: SplitTable,
    *,
    pad_token_id: int,
    settings: TrainingSettings,
    run_dir: Path,
    evaluate: Evaluate | None = None,
    options: LoopOptions | None = None,
) -> TrainResult:
    """Trains the model's trainable parameters and leaves the best adapter in it, in eval mode.

    The best adapter is that of ``options.goal`` by ``evaluate``, the lowest ``validation_loss`` if
    nothing else is asked for; without ``evaluate`` it is the last.

    Args:
        model: a base with an adapter injected, or one whose own weights train; dropout and gradient
            checkpointing are set already.
        table: the training rows.
        run_dir: where ``checkpoints/`` and ``metrics.jsonl`` are written.

    Raises:
        UsageError: the folder holds another run or is in use, or the checkpoint was made with other
            settings.
        DataError: the table is empty, or every checkpoint is damaged.
        RunError: a loss or gradient norm is not finite (see ``training.on_nonfinite``), or a loss
            is exactly 0; the last checkpoint is finite.
        Stopped: SIGINT, SIGTERM, SIGHUP or SIGUSR1 arrived; a checkpoint was saved.
        SetupError, ResourceError: a tracker is not installed; memory or disk is full. Raised before
            the first step where possible.
    """
    accelerator = _accelerator(model, settings, run_dir)
    options = options or LoopOptions()
    with run_lock(run_dir, take=accelerator.is_main_process):
        run = Run(model, table, pad_token_id, settings, run_dir, evaluate, options, accelerator)
        with run.loading() as next_batches:
            while True:
                # What is due after a step comes before the next, also in a resumed run.
                run.stop_if_signalled()
                if run.evaluation_due():
                    run.evaluate_now()
                run.check_deadline()
                if run.checkpoint_due():
                    run.save()
                if run.finished():
                    break
                _take_step(run, next_batches)
        result = run.result()
        make_whole(model, keep=accelerator.is_main_process)
        run.close()
    return result


def _accelerator(model: nn.Module, settings: TrainingSettings, run_dir: Path) -> Accelerator:
    """Returns the accelerator, the model moved to its device."""
    require_trackers(settings.trackers)
    run_dir.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(
        mixed_precision="no",
        cpu=next(model.parameters()).device.type == "cpu",
        log_with=list(settings.trackers) or None,
        project_dir=run_dir,
    )
    if settings.sharding == "full" and accelerator.num_processes > 1:
        share_parameters(trainable(model).values(), accelerator)
        shard(model, accelerator)
    else:
        model.to(accelerator.device)
    return accelerator


class Interrupted(Exception):
    """Raised between two micro-batches to abandon the step."""


def _take_step(run: Run, next_batches: NextBatches) -> None:
    """Takes and logs the run's next optimizer step; a signal abandons it."""
    start = time.perf_counter()
    try:
        stats = train_step(
            run.model,
            run.optimizer,
            next_batches(),
            accelerator=run.accelerator,
            step=run.state.step,
            learning_rate=run.learning_rate(),
            settings=run.settings,
            interrupted=run.interrupted,
        )
    except Interrupted:
        run.optimizer.zero_grad(set_to_none=True)
        return
    run.count(stats, seconds=time.perf_counter() - start)


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    micro_batches: Sequence[Batch],
    *,
    accelerator: Accelerator,
    step: int,
    learning_rate: float,
    settings: TrainingSettings,
    interrupted: Callable[[], bool] = lambda: False,
) -> StepStats:
    """Takes one optimizer step; if loss or gradients are not finite, nothing changes.

    The loss is Σ cross-entropy ÷ Σ target tokens, over all micro-batches and processes.

    Raises:
        Interrupted: ``interrupted`` returned true before a micro-batch.
    """
    if not model.training:  # train() visits every module
        model.train()
    set_learning_rate(optimizer, learning_rate)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    targets = sum(batch.target_tokens for batch in micro_batches)
    sources = sum(batch.source_tokens for batch in micro_batches)
    target_tokens, source_tokens = map(int, summed([targets, sources], accelerator))
    for scale in loss_scales(model, target_tokens):  # 1.0 unless the base is in float16
        for attempt in halving_when_out_of_memory(model, micro_batches):
            with attempt:
                seed_step(settings.seed, step, accelerator.process_index)
                loss_sum = torch.zeros((), device=accelerator.device)
                for batch in attempt:
                    if interrupted():
                        raise Interrupted
                    on_device = batch.to(accelerator.device)
                    loss_sum += forward_backward(model, on_device, target_tokens / scale, settings)
        sum_gradients(parameters, accelerator)
        unscale_gradients(parameters, scale)
        norm = gathered(nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm or math.inf))
        loss_sum = accelerator.reduce(loss_sum, reduction="sum")
        loss, grad_norm = step_if_finite(optimizer, loss_sum, norm)
        if math.isfinite(grad_norm) or not math.isfinite(loss):
            break
    mean_loss = loss / target_tokens
    return StepStats(mean_loss, learning_rate, grad_norm, target_tokens, source_tokens)


def forward_backward(
    model: nn.Module, batch: Batch, divisor: float, settings: TrainingSettings
) -> Tensor:
    """Adds the gradients of a micro-batch's summed loss ÷ ``divisor``; returns the sum, undivided.

    A function of its own so that the graph is freed when memory runs out.
    """
    smoothing, z_loss = settings.label_smoothing, settings.z_loss
    loss_sum, _ = sequence_loss(model, batch, label_smoothing=smoothing, z_loss=z_loss)
    if not batch.target_tokens:  # uncounted
        loss_sum = loss_sum * 0.0
    # Not accelerator.backward: an environment variable of a launcher can make it divide again.
    torch.autograd.backward(loss_sum / divisor)
    return loss_sum.detach()
