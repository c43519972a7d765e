"""The training loop, readable from the top: train → one optimizer step after another → the better adapter.

The model stays a plain module under any number of processes: only the small adapter moves, so its gradients are summed
once a step instead of by a wrapper around the whole model. Every random number of a step comes from (seed, step, rank).
"""

from __future__ import annotations

import hashlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from lora_s2s.console import ProgressLine
from lora_s2s.data.collate import Batch, collate
from lora_s2s.data.prepared import SplitTable
from lora_s2s.errors import RunError, Stopped, UsageError
from lora_s2s.forward.choose import fast_forward, with_layout
from lora_s2s.recipe.schema import TrainingSection
from lora_s2s.training.checkpoint import continue_from, prune, restored_adapter, run_identity, save_checkpoint
from lora_s2s.training.encoder_cache import EncoderCache, check_cacheable, encoder_cache
from lora_s2s.training.guards import StopSignals, peak_memory_bytes, run_lock, told_when_out_of_memory
from lora_s2s.training.log import RunLog, require_trackers, start_trackers
from lora_s2s.training.loss import sequence_loss
from lora_s2s.training.optimizer import build_optimizer, learning_rate_at, trainable
from lora_s2s.training.plan import StepPlan
from lora_s2s.training.prefetch import ahead
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
    if settings.cache_encoder:
        check_cacheable(model, settings.dropout)
    if settings.early_stopping and evaluate is None:
        raise UsageError("training.early_stopping needs validation data", hint="set data.validation_fraction=0.05")
    run_dir.mkdir(parents=True, exist_ok=True)
    on_cpu = next(model.parameters()).device.type == "cpu"
    accelerator = Accelerator(
        mixed_precision="no", cpu=on_cpu, log_with=list(settings.trackers) or None, project_dir=run_dir
    )
    model.to(accelerator.device)
    plan = StepPlan(table, settings, processes=accelerator.num_processes)
    if accelerator.is_main_process:
        plan.say_what_is_long()
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
        with StopSignals() as signals, told_when_out_of_memory(), fast_forward(model), run.encoder_cache() as run.cache:
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
    cache: EncoderCache | None = None

    def to_the_end(self, signals: StopSignals) -> None:
        """Steps until done. What is due after a step comes before the next, also when a resumed run begins with it."""
        saved = (self.state.step, self.state.evaluated_step)
        # On a CPU torch's operations in a second thread have threads of their own, and a step takes twice as long.
        on_gpu = self.accelerator.device.type == "cuda"
        with ahead(self.batches(), 2 if on_gpu else 0) as next_batches:
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
                self.next_step(next_batches)

    def batches(self) -> Iterator[list[Batch]]:
        """Yields the micro-batches of this process for every step from where the run stands to the last."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        epoch, position = self.state.epoch, self.state.position
        for _ in range(self.state.step, self.plan.total_steps):
            yield [self.batch(rows) for rows in self.plan.steps(epoch)[position][rank::processes]]
            position += 1
            if position == len(self.plan.steps(epoch)):
                epoch, position = epoch + 1, 0

    def batch(self, rows: Sequence[int]) -> Batch:
        """Collates rows, with all that can be had before a step."""
        batch = collate([self.table.features(row) for row in rows], self.pad_token_id)
        batch = with_layout(self.model, batch)
        if self.cache is not None:
            batch.memory_ND = self.cache.read(rows[place] for place in batch.layout.row_order)
        return batch.pinned() if self.accelerator.device.type == "cuda" else batch

    def encoder_cache(self) -> AbstractContextManager[EncoderCache | None]:
        """Computes the encoder's states of all rows, if the settings ask for it, for as long as it is entered."""
        if not self.settings.cache_encoder:
            return nullcontext()
        epoch = (rows for step in self.plan.steps(0) for rows in step)
        batches = ((rows, self.batch(rows).to(self.accelerator.device)) for rows in epoch)
        return encoder_cache(self.model, self.table.source_lengths, batches, self.run_dir)

    def next_step(self, next_batches: Callable[[], list[Batch]]) -> None:
        """Takes one optimizer step on the next micro-batches, and logs it."""
        began = time.perf_counter()
        state, settings = self.state, self.settings
        stats = train_step(
            self.model,
            self.optimizer,
            next_batches(),
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
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    counts = [sum(b.target_tokens for b in micro_batches), sum(b.source_tokens for b in micro_batches)]
    target_tokens, source_tokens = (int(count) for count in summed(counts, accelerator))
    if not model.training:  # asked first: to set it walks through every module
        model.train()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate"]
    for scale in loss_scales(model, target_tokens):
        seed_step(settings.seed, step, accelerator.process_index)
        own_loss = _backward(model, micro_batches, accelerator, target_tokens / scale, settings)
        sum_gradients(parameters, accelerator)
        if scale != 1:
            torch._foreach_div_([p.grad for p in parameters if p.grad is not None], scale)
        norm = nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm or math.inf)
        loss_sum, grad_norm = step_if_finite(optimizer, accelerator.reduce(own_loss, reduction="sum"), norm)
        loss = loss_sum / target_tokens
        if math.isfinite(grad_norm) or not math.isfinite(loss):
            break
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise RunError(f"step {step + 1}: the loss is {loss}, its gradient norm {grad_norm}", hint=_HINT)
    return StepStats(loss, learning_rate, grad_norm, target_tokens, source_tokens)


_HINT = (
    "lower training.learning_rate, or set model.dtype=float32 (bfloat16 on a GPU); "
    "this step changed nothing and the last checkpoint is finite"
)


def _backward(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    accelerator: Accelerator,
    divisor: float,
    settings: TrainingSection,
) -> Tensor:
    """Adds up the gradients of this process's cross-entropy ÷ ``divisor``; returns its sum, undivided."""
    total = torch.zeros((), device=accelerator.device)
    for batch in micro_batches:
        loss_sum, _ = sequence_loss(
            model, batch.to(accelerator.device), label_smoothing=settings.label_smoothing, z_loss=settings.z_loss
        )
        # Not accelerator.backward: a launcher's environment variable can make that divide once more.
        torch.autograd.backward(loss_sum / divisor)
        total += loss_sum.detach()
    return total


def step_if_finite(optimizer: Optimizer, loss_sum: Tensor, grad_norm: Tensor) -> tuple[float, float]:
    """Steps if both scalars are finite, takes the gradients away, and returns the two.

    An optimizer that can leave a step out on the device is told there: the host waits once, when all is queued.
    """
    both = torch.stack([loss_sum, grad_norm])
    on_device = getattr(optimizer, "_step_supports_amp_scaling", False)
    if on_device:
        optimizer.found_inf = (~both.isfinite().all()).float()  # type: ignore[attr-defined]
        optimizer.step()
    loss, norm = both.tolist()
    if not on_device and math.isfinite(loss) and math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss, norm


def loss_scales(model: nn.Module, target_tokens: int) -> list[float]:
    """Returns the powers of two to multiply the mean loss with, until one gives finite gradients.

    float16 loses gradients that are too small and overflows at large ones. The first scale, 16 to 32 for each token's
    own loss, lies well between. Nothing is remembered, so that a resumed run goes the same way. Other bases need none.
    """
    if next((p.dtype for p in model.parameters() if not p.requires_grad), None) != torch.float16:
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
