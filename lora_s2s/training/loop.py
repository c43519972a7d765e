"""The training loop, readable from the top: train → one optimizer step after another → the better adapter.

The model stays a plain module under any number of processes: only the small adapter moves, so its gradients are summed
once a step instead of by a wrapper around the whole model. Every random number of a step comes from (seed, step, rank).
"""

from __future__ import annotations

import hashlib
import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from lora_s2s.console import ProgressLine
from lora_s2s.data.collate import Batch, collate
from lora_s2s.data.prepared import SplitTable
from lora_s2s.errors import RunError, Stopped, UsageError
from lora_s2s.models.t5 import fused_activation
from lora_s2s.recipe.schema import TrainingSection
from lora_s2s.training.checkpoint import continue_from, prune, restored_adapter, run_identity, save_checkpoint
from lora_s2s.training.guards import StopSignals, peak_memory_bytes, run_lock, told_when_out_of_memory
from lora_s2s.training.log import RunLog, require_trackers, start_trackers
from lora_s2s.training.loss import sequence_loss
from lora_s2s.training.optimizer import build_optimizer, learning_rate_at, trainable
from lora_s2s.training.plan import StepPlan
from lora_s2s.training.processes import same_start, stop_signal, sum_gradients, summed
from lora_s2s.training.result import StepStats, TrainResult, TrainState
from lora_s2s.training.validation import Evaluate


def train(
    model: nn.Module,
    table: SplitTable,
    *,
    pad_token_id: int,
    settings: TrainingSection,
    run_dir: Path,
    evaluate: Evaluate | None = None,
    resume: bool = False,
    identity: dict[str, str] | None = None,
) -> TrainResult:
    """Trains the model's trainable parameters and leaves the better adapter in it, in eval mode.

    With ``evaluate`` (whose ``validation_loss`` is compared) that is the best evaluation's adapter, else the last.

    Args:
        model: a base with an adapter injected; dropout and gradient checkpointing are set already.
        table: the training rows.
        run_dir: gets ``checkpoints/`` and ``metrics.jsonl``.
        resume: continue from the newest whole checkpoint in ``run_dir``; from the start where there is none.
        identity: what the run is made of (hashes of base and data, adapter settings), compared on resume.

    Raises:
        UsageError: the folder holds another run, is in use, or the checkpoint was made with other settings.
        DataError: the table is empty, or every checkpoint is damaged.
        RunError: a loss or a gradient norm is not finite; the last checkpoint is.
        Stopped: SIGINT or SIGTERM came; a checkpoint was saved.
        SetupError, ResourceError: a tracker is not installed; memory or disk is full.
    """
    require_trackers(settings.trackers)
    if settings.early_stopping and evaluate is None:
        raise UsageError("training.early_stopping needs validation data", hint="set data.validation_fraction=0.05")
    run_dir.mkdir(parents=True, exist_ok=True)
    on_cpu = next(model.parameters()).device.type == "cpu"
    accelerator = Accelerator(
        mixed_precision="no", cpu=on_cpu, log_with=list(settings.trackers) or None, project_dir=run_dir
    )
    model.to(accelerator.device)
    plan = StepPlan(table, settings, processes=accelerator.num_processes)
    optimizer = build_optimizer(model, settings)
    with run_lock(run_dir, take=accelerator.is_main_process), ProgressLine("train") as progress:
        known = run_identity(identity or {}, settings, accelerator.num_processes)
        state = continue_from(run_dir, model, optimizer, resume=resume, identity=known)
        resumed_from = state.step or None
        same_start(trainable(model).values(), accelerator)
        start_trackers(accelerator, settings, run_dir)
        log = RunLog(run_dir, accelerator, progress, keep_lines=state.metrics_lines)
        run = Run(
            model, optimizer, accelerator, table, pad_token_id, settings, plan, run_dir, evaluate, known, state, log
        )
        with StopSignals() as signals, told_when_out_of_memory(), fused_activation(model):
            run.to_the_end(signals)
        log.close()
        result = _finish(model, state, plan, run_dir, resumed_from=resumed_from)
        accelerator.end_training()
    return result


@dataclass
class Run:
    """Everything a run holds while it runs; only ``state`` changes."""

    model: nn.Module
    optimizer: Optimizer
    accelerator: Accelerator
    table: SplitTable
    pad_token_id: int
    settings: TrainingSection
    plan: StepPlan
    run_dir: Path
    evaluate: Evaluate | None
    identity: dict[str, str]
    state: TrainState
    log: RunLog

    def to_the_end(self, signals: StopSignals) -> None:
        """Steps until done. What is due after a step comes before the next, also when a resumed run begins with it."""
        saved = (self.state.step, self.state.evaluated_step)
        while True:
            stop = stop_signal(signals.received, self.accelerator)
            if stop is not None:
                self.stop(stop)
            if self.evaluation_due():
                self.evaluate_now()
            if self.checkpoint_due() and saved != (self.state.step, self.state.evaluated_step):
                self.save()
                saved = (self.state.step, self.state.evaluated_step)
            if self.done():
                return
            self.next_step()

    def next_step(self) -> None:
        """Collates the micro-batches of this process, takes one optimizer step, and logs it."""
        began = time.perf_counter()
        state, settings = self.state, self.settings
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        micro_batches = self.plan.steps(state.epoch)[state.position][rank::processes]
        stats = train_step(
            self.model,
            self.optimizer,
            [collate([self.table.features(row) for row in rows], self.pad_token_id) for rows in micro_batches],
            accelerator=self.accelerator,
            step=state.step,
            learning_rate=learning_rate_at(
                state.step, total_steps=self.plan.total_steps, peak=settings.learning_rate,
                schedule=settings.schedule, warmup=settings.warmup,
            ),
            settings=settings,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        memory = peak_memory_bytes(self.accelerator.device)
        state.advance(stats, seconds, memory, steps_in_epoch=len(self.plan.steps(state.epoch)))
        self.log.step(stats, state, epoch=self.plan.epochs_at(state), seconds=seconds, total=self.plan.total_steps)

    def evaluation_due(self) -> bool:
        """Every ``evaluate_every`` steps, or at each epoch's end where that is 0, and at the end of the run."""
        state, every = self.state, self.settings.evaluate_every
        if self.evaluate is None or state.evaluated_step == state.step:
            return False
        return self.done() or (state.step % every == 0 if every else state.position == 0)

    def evaluate_now(self) -> None:
        """Evaluates, logs, and remembers the best."""
        if self.evaluate is None:
            return
        scores = self.evaluate(self.model)
        if not math.isfinite(scores["validation_loss"]):
            raise RunError(f"step {self.state.step}: the validation loss is {scores['validation_loss']}", hint=_HINT)
        self.state.remember(scores["validation_loss"])
        self.log.evaluation(scores, self.state, epoch=self.plan.epochs_at(self.state))

    def checkpoint_due(self) -> bool:
        """Every ``save_every`` steps, at a new best, and at the end of the run."""
        step, every = self.state.step, self.settings.save_every
        return self.done() or step == self.state.best_step or bool(step and every and step % every == 0)

    def save(self) -> None:
        """Saves a checkpoint on the main process, then deletes those no longer kept."""
        self.state.metrics_lines = self.log.sync()
        folder = self.run_dir / "checkpoints"
        if self.accelerator.is_main_process:
            save_checkpoint(folder, self.model, self.optimizer, self.state, self.identity)
            prune(folder, current=self.state.step, keep=self.settings.keep_checkpoints, best=self.state.best_step)
        self.accelerator.wait_for_everyone()

    def stop(self, number: int) -> None:
        """Saves a checkpoint and ends the run."""
        self.save()
        name = signal.Signals(number).name
        where = f"step {self.state.step} of {self.plan.total_steps}"
        raise Stopped(number, f"stopped by {name} after {where}; a checkpoint is saved", hint="continue with --resume")

    def done(self) -> bool:
        """All steps are taken, or ``early_stopping`` evaluations in a row brought no gain."""
        patience = self.settings.early_stopping
        return self.state.step >= self.plan.total_steps or 0 < patience <= self.state.evaluations_without_gain


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    micro_batches: Sequence[Batch],
    *,
    accelerator: Accelerator,
    step: int,
    learning_rate: float,
    settings: TrainingSection,
) -> StepStats:
    """One optimizer step: loss = Σ cross-entropy ÷ all target tokens of the step, over micro-batches and processes."""
    parameters = list(trainable(model).values())
    counts = [sum(b.target_tokens for b in micro_batches), sum(int(b.attention_mask_BS.sum()) for b in micro_batches)]
    target_tokens, source_tokens = (int(count) for count in summed(counts, accelerator))
    model.train()
    for scale in loss_scales(model, target_tokens):
        seed_step(settings.seed, step, accelerator.process_index)
        smoothing = settings.label_smoothing
        own_loss = _backward(model, micro_batches, accelerator, divisor=target_tokens / scale, smoothing=smoothing)
        sum_gradients(parameters, accelerator)
        for gradient in (p.grad for p in parameters if p.grad is not None):
            gradient /= scale
        grad_norm = float(nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm or math.inf))
        loss = summed([own_loss], accelerator)[0] / target_tokens
        if math.isfinite(grad_norm) or not math.isfinite(loss):
            break
        optimizer.zero_grad(set_to_none=True)
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise RunError(f"step {step + 1}: the loss is {loss}, its gradient norm {grad_norm}", hint=_HINT)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepStats(loss, learning_rate, grad_norm, target_tokens, source_tokens)


_HINT = (
    "lower training.learning_rate, or set model.dtype=float32 (bfloat16 on a GPU); "
    "this step changed nothing and the last checkpoint is finite"
)


def _backward(
    model: nn.Module, micro_batches: Sequence[Batch], accelerator: Accelerator, *, divisor: float, smoothing: float
) -> float:
    """Adds up the gradients of this process's cross-entropy ÷ ``divisor``; returns its sum, undivided."""
    total = torch.zeros((), device=accelerator.device)
    for batch in micro_batches:
        loss_sum, _ = sequence_loss(model, batch.to(accelerator.device), label_smoothing=smoothing)
        # Not accelerator.backward: a launcher's environment variable can make that divide once more.
        torch.autograd.backward(loss_sum / divisor)
        total += loss_sum.detach()
    return float(total)


def loss_scales(model: nn.Module, target_tokens: int) -> list[float]:
    """Returns the powers of two to multiply the mean loss with, until one gives finite gradients.

    float16 loses gradients that are too small and overflows at large ones. The first scale, 16 to 32 for each token's
    own loss, lies well between. Nothing is remembered, so that a resumed run goes the same way. Other bases need none.
    """
    if all(parameter.dtype != torch.float16 for parameter in model.parameters()):
        return [1.0]
    return [2.0**power for power in (*range(target_tokens.bit_length() + 4, 0, -4), 0)]


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch on every device from the step alone, so that a resumed run draws what it would have drawn."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))


def _finish(
    model: nn.Module, state: TrainState, plan: StepPlan, run_dir: Path, *, resumed_from: int | None
) -> TrainResult:
    """Puts the best adapter into the model where there is one, else leaves the last, sets eval mode, and reports."""
    kept = state.step
    if state.best_step is not None and (
        state.best_step == state.step or restored_adapter(run_dir / "checkpoints", state.best_step, model)
    ):
        kept = state.best_step
    best = kept == state.best_step
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
        kept_step=kept,
    )
