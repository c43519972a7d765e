"""The training loop, readable from the top: train → one optimizer step after another → the better
adapter.

The model stays a plain module under any number of processes: only the small adapter moves, so its
gradients are summed once a step instead of by a wrapper around the whole model. Every random number
of a step comes from (seed, step, rank).
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from lora_s2s.console import ProgressLine, warn
from lora_s2s.data.collate import Batch, collate
from lora_s2s.data.prepared import SplitTable
from lora_s2s.errors import RunError, Stopped, UsageError
from lora_s2s.fast_t5.choose import fast_forward, forward_in_use, with_layout
from lora_s2s.files import require_space
from lora_s2s.recipe.schema import TrainingSettings
from lora_s2s.training.checkpoint import (
    continue_from,
    prune,
    restore,
    restored_adapter,
    run_identity,
    save_checkpoint,
)
from lora_s2s.training.encoder_cache import EncoderCache, check_cacheable, encoder_cache
from lora_s2s.training.gradients import Abandoned, add_gradients, loss_scales, step_if_finite
from lora_s2s.training.guards import (
    StopSignals,
    peak_memory_bytes,
    run_lock,
    told_when_out_of_memory,
)
from lora_s2s.training.log import RunLog, TrackersMayFail, require_trackers, start_trackers
from lora_s2s.training.optimizer import build_optimizer, learning_rate_at, trainable
from lora_s2s.training.plan import StepPlan
from lora_s2s.training.prefetch import ahead
from lora_s2s.training.processes import any_process, same_start, stop_signal, sum_gradients, summed
from lora_s2s.training.state import StepStats, TrainResult, TrainState
from lora_s2s.training.validation import Evaluate

_MOST_SKIPPED_IN_A_ROW = 10
_MOST_RESTORES = 5


def train(
    model: nn.Module,
    table: SplitTable,
    *,
    pad_token_id: int,
    settings: TrainingSettings,
    run_dir: Path,
    evaluate: Evaluate | None = None,
    resume: bool = False,
    resume_anyway: bool = False,
    identity: dict[str, str] | None = None,
    deadline: float | None = None,
) -> TrainResult:
    """Trains the model's trainable parameters and leaves the better adapter in it, in eval mode.

    With ``evaluate`` (whose ``validation_loss`` is compared) that is the best evaluation's adapter,
    else the last.

    Args:
        model: a base with an adapter injected; dropout and gradient checkpointing are set already.
        table: the training rows.
        run_dir: gets ``checkpoints/`` and ``metrics.jsonl``.
        resume: continue from the newest whole checkpoint in ``run_dir``; from the start where there
            is none.
        resume_anyway: continue in spite of differences that leave the checkpoint usable.
        identity: what the run is made of (hashes of base and data, adapter settings), compared on
            resume.
        deadline: on ``time.monotonic``'s clock; past it a checkpoint is saved and the result says
            ``stopped``. One step is taken in any case, so that a run that is continued again and
            again comes to its end.

    Raises:
        UsageError: the folder holds another run, is in use, or the checkpoint was made with other
            settings.
        DataError: the table is empty, or every checkpoint is damaged.
        RunError: a loss or a gradient norm is not finite (see ``training.on_nonfinite``), or a loss
            is exactly 0; the last checkpoint is finite.
        Stopped: SIGINT, SIGTERM, SIGHUP or SIGUSR1 came; a checkpoint was saved.
        SetupError, ResourceError: a tracker is not installed; memory or disk is full. Told before
            the first step where that can be known.
    """
    require_trackers(settings.trackers)
    if settings.cache_encoder:
        check_cacheable(model, settings.dropout)
    if settings.early_stopping and evaluate is None:
        raise UsageError(
            "training.early_stopping needs validation data",
            hint="set data.validation_fraction=0.05",
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    on_cpu = next(model.parameters()).device.type == "cpu"
    accelerator = Accelerator(
        mixed_precision="no",
        cpu=on_cpu,
        log_with=list(settings.trackers) or None,
        project_dir=run_dir,
    )
    model.to(accelerator.device)
    plan = StepPlan(table, settings, processes=accelerator.num_processes)
    if accelerator.is_main_process:
        plan.say_what_is_long()
    optimizer = build_optimizer(model, settings)
    # A checkpoint: the adapter and its two moments; once more while the old one stands.
    require_space(
        run_dir,
        6 * sum(weight.numel() * weight.element_size() for weight in trainable(model).values()),
    )
    with run_lock(run_dir, take=accelerator.is_main_process), ProgressLine("train") as progress:
        known = run_identity(identity or {}, settings, accelerator.num_processes)
        state = continue_from(
            run_dir, model, optimizer, resume=resume, anyway=resume_anyway, identity=known
        )
        plan.begin_at(state)
        resumed_from = state.step or None
        same_start(trainable(model).values(), accelerator)
        start_trackers(accelerator, settings, run_dir)
        log = RunLog(run_dir, accelerator, progress, keep_lines=state.metrics_lines)
        with StopSignals() as signals, told_when_out_of_memory(), fast_forward(model):
            run = Run(
                model,
                optimizer,
                accelerator,
                table,
                pad_token_id,
                settings,
                plan,
                run_dir,
                evaluate,
                known,
                state,
                log,
                signals,
                deadline,
            )
            with run.encoder_cache() as run.cache:
                run.to_the_end()
        log.close()
        result = _finish(model, run, resumed_from=resumed_from)
        with TrackersMayFail(accelerator):
            accelerator.end_training()
    return result


@dataclass
class Run:
    """Everything a run holds while it runs.

    ``saved`` is the step and evaluated step of the newest checkpoint, ``saved_at`` when it was made
    or read.
    """

    model: nn.Module
    optimizer: Optimizer
    accelerator: Accelerator
    table: SplitTable
    pad_token_id: int
    settings: TrainingSettings
    plan: StepPlan
    run_dir: Path
    evaluate: Evaluate | None
    identity: dict[str, str]
    state: TrainState
    log: RunLog
    signals: StopSignals
    deadline: float | None
    cache: EncoderCache | None = None
    out_of_time: bool = False

    def __post_init__(self) -> None:
        self.began_at, self.saved_at = self.state.step, time.monotonic()
        self.saved = self.stands_at() if self.state.step else None

    def stands_at(self) -> tuple[int, int]:
        """Returns the step, and the step that was evaluated last."""
        return self.state.step, self.state.evaluated_step

    def to_the_end(self) -> None:
        """Steps until done; what cannot be gone on from is gone back from."""
        # On a CPU torch's operations in a second thread have threads of their own, and a step takes
        # twice as long.
        on_gpu = self.accelerator.device.type == "cuda"
        while True:
            with ahead(self.batches(), 2 if on_gpu else 0) as next_batches:
                if self.to_the_end_or_back(next_batches):
                    return
            self.go_back()

    def to_the_end_or_back(self, next_batches: Callable[[], list[Batch]]) -> bool:
        """Steps until done (True), or until a step is not finite and a checkpoint is to be gone
        back to (False).

        What is due after a step comes before the next, also when a resumed run begins with it.
        """
        while True:
            stop = stop_signal(self.signals.received, self.accelerator)
            if stop is not None:
                self.stop(stop)
            if self.evaluation_due():
                self.evaluate_now()
            self.out_of_time = self.deadline_passed()
            if self.checkpoint_due():
                self.save()
            if self.done() or self.out_of_time:
                return True
            stats = self.next_step(next_batches)
            if stats is not None and not stats.finite and self.settings.on_nonfinite == "restore":
                return False

    def batches(self) -> Iterator[list[Batch]]:
        """Yields the micro-batches of this process for every step from where the run stands to the
        last.
        """
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        epoch, position = self.state.epoch, self.state.position
        for _ in range(self.state.step, self.plan.total_steps):
            yield [self.batch(rows) for rows in self.plan.steps(epoch)[position][rank::processes]]
            position += 1
            if position >= len(self.plan.steps(epoch)):
                epoch, position = epoch + 1, 0

    def batch(self, rows: Sequence[int]) -> Batch:
        """Collates rows, with all that can be had before a step."""
        batch = collate([self.table.features(row) for row in rows], self.pad_token_id)
        batch = with_layout(self.model, batch)
        if self.cache is not None:
            batch.memory_ND = self.cache.read(rows[place] for place in batch.layout.row_order)
        return batch.pinned() if self.accelerator.device.type == "cuda" else batch

    def encoder_cache(self) -> AbstractContextManager[EncoderCache | None]:
        """Computes the encoder's states of all rows, if the settings ask for it, for as long as it
        is entered.
        """
        if not self.settings.cache_encoder:
            return nullcontext()
        epoch = (rows for step in self.plan.steps(0) for rows in step)
        batches = ((rows, self.batch(rows).to(self.accelerator.device)) for rows in epoch)
        return encoder_cache(self.model, self.table.source_lengths, batches, self.run_dir)

    def next_step(self, next_batches: Callable[[], list[Batch]]) -> StepStats | None:
        """Takes one optimizer step on the next micro-batches, and logs it; None where a signal came
        in between.
        """
        began = time.perf_counter()
        state, settings = self.state, self.settings
        rate = learning_rate_at(
            state.step,
            total_steps=self.plan.total_steps,
            peak=settings.learning_rate,
            schedule=settings.schedule,
            warmup=settings.warmup,
        )
        try:
            stats = train_step(
                self.model,
                self.optimizer,
                next_batches(),
                accelerator=self.accelerator,
                step=state.step,
                learning_rate=rate * 0.5**state.restores,
                settings=settings,
                # A step begun is left when a signal comes; several processes finish it, as they
                # must agree.
                unwanted=lambda: (
                    self.signals.received is not None and self.accelerator.num_processes == 1
                ),
            )
        except Abandoned:
            self.optimizer.zero_grad(set_to_none=True)
            return None
        self.check(stats)
        if stats.finite or settings.on_nonfinite == "skip":
            seconds = time.perf_counter() - began
            memory = peak_memory_bytes(self.accelerator.device)
            state.advance(stats, seconds, memory, steps_in_epoch=len(self.plan.steps(state.epoch)))
            self.log.step(
                stats,
                state,
                epoch=self.plan.epochs_at(state),
                seconds=seconds,
                total=self.plan.total_steps,
            )
        return stats

    def check(self, stats: StepStats) -> None:
        """Says what is wrong with a step, and raises RunError where it is not to be borne."""
        state, policy, used = self.state, self.settings.on_nonfinite, forward_in_use(self.model)
        if state.forward not in (None, used):
            warn(
                f"the run began with the {state.forward} forward and goes on with the {used} one: "
                "last digits differ"
            )
        state.forward = used
        step = f"step {state.step + 1}"
        if stats.loss == 0:
            hint = (
                "look at the targets: lora-s2s prepare shows them; a model that knows them all "
                "needs no training"
            )
            raise RunError(f"{step}: the loss is exactly 0, so nothing is learnt", hint=hint)
        if stats.finite:
            return
        what = f"{step}: the loss is {stats.loss}, its gradient norm {stats.grad_norm}"
        if policy == "stop":
            raise RunError(what, hint=_HINT)
        if state.skipped_in_a_row + 1 >= _MOST_SKIPPED_IN_A_ROW or state.restores >= _MOST_RESTORES:
            again = (
                f"{state.skipped_in_a_row} steps skipped in a row, {state.restores} times gone back"
            )
            raise RunError(f"{what}, after {again}", hint=_HINT)
        done = (
            "the step is skipped" if policy == "skip" else "going back, to half the learning rate"
        )
        warn(f"{what}: {done}")

    def go_back(self) -> None:
        """Goes on from the newest whole checkpoint, at half the learning rate."""
        checkpoint = restore(self.run_dir / "checkpoints", self.model, self.optimizer)
        self.state = replace(checkpoint.state, restores=self.state.restores + 1)
        self.log.cut(self.state.metrics_lines)
        warn(
            f"back at step {self.state.step}, for the {self.state.restores}. of at most "
            f"{_MOST_RESTORES} times"
        )

    def evaluation_due(self) -> bool:
        """Every ``evaluate_every`` steps, or at each epoch's end where that is 0, and at the end of
        the run.
        """
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
            raise RunError(
                f"step {self.state.step}: the validation loss is {scores['validation_loss']}",
                hint=_HINT,
            )
        self.state.remember(scores["validation_loss"])
        self.log.evaluation(scores, self.state, epoch=self.plan.epochs_at(self.state))

    def checkpoint_due(self) -> bool:
        """Every ``save_every`` steps or minutes, at a new best, at the end; at the start if it may
        be gone back to.
        """
        step, minutes = self.state.step, self.settings.save_minutes
        if minutes is None:
            due = bool(step and step % int(self.settings.save_every) == 0)
        else:  # by the clock of any process, so that all agree
            due = any_process(time.monotonic() - self.saved_at >= 60 * minutes, self.accelerator)
        first = self.saved is None and self.settings.on_nonfinite == "restore"
        return due or first or step == self.state.best_step or self.done() or self.out_of_time

    def deadline_passed(self) -> bool:
        """Whether it is past the deadline, and at least one step has been taken."""
        if self.deadline is None or self.state.step == self.began_at:
            return False
        return any_process(time.monotonic() >= self.deadline, self.accelerator)

    def save(self) -> None:
        """Saves a checkpoint on the main process, if none stands for here, then deletes those no
        longer kept.
        """
        folder, state = self.run_dir / "checkpoints", self.state
        if self.saved != self.stands_at():
            state.metrics_lines = self.log.sync()
            if self.accelerator.is_main_process:
                save_checkpoint(folder, self.model, self.optimizer, state, self.identity)
        self.saved, self.saved_at = self.stands_at(), time.monotonic()
        if self.accelerator.is_main_process:
            prune(
                folder,
                current=state.step,
                keep=self.settings.keep_checkpoints,
                best=state.best_step,
            )
        self.accelerator.wait_for_everyone()

    def stop(self, number: int) -> None:
        """Saves a checkpoint and ends the run."""
        self.save()
        name = signal.Signals(number).name
        where = f"step {self.state.step} of {self.plan.total_steps}"
        raise Stopped(
            number,
            f"stopped by {name} after {where}; a checkpoint is saved",
            hint="continue with --resume",
        )

    def done(self) -> bool:
        """All steps are taken, or ``early_stopping`` evaluations in a row brought no gain."""
        patience = self.settings.early_stopping
        return (
            self.state.step >= self.plan.total_steps
            or 0 < patience <= self.state.evaluations_without_gain
        )


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    micro_batches: Sequence[Batch],
    *,
    accelerator: Accelerator,
    step: int,
    learning_rate: float,
    settings: TrainingSettings,
    unwanted: Callable[[], bool] = lambda: False,
) -> StepStats:
    """One optimizer step: loss = Σ cross-entropy ÷ all target tokens of the step, over
    micro-batches and processes.

    Where loss or gradients are not finite nothing changes; Abandoned is raised where ``unwanted``
    says so.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    counts = [
        sum(b.target_tokens for b in micro_batches),
        sum(b.source_tokens for b in micro_batches),
    ]
    target_tokens, source_tokens = (int(count) for count in summed(counts, accelerator))
    if not model.training:  # asked first: to set it walks through every module
        model.train()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate"]
    for scale in loss_scales(model, target_tokens):
        seeds, divisor = (settings.seed, step, accelerator.process_index), target_tokens / scale
        own_loss = add_gradients(
            model, micro_batches, accelerator.device, divisor, settings, seeds, unwanted
        )
        sum_gradients(parameters, accelerator)
        if scale != 1:
            torch._foreach_div_([p.grad for p in parameters if p.grad is not None], scale)
        norm = nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm or math.inf)
        loss_sum, grad_norm = step_if_finite(
            optimizer, accelerator.reduce(own_loss, reduction="sum"), norm
        )
        loss = loss_sum / target_tokens
        if math.isfinite(grad_norm) or not math.isfinite(loss):
            break
    return StepStats(loss, learning_rate, grad_norm, target_tokens, source_tokens)


_HINT = (
    "lower training.learning_rate, or set model.dtype=float32 (bfloat16 on a GPU); "
    "this step changed nothing and the last checkpoint is finite"
)


def _finish(model: nn.Module, run: Run, *, resumed_from: int | None) -> TrainResult:
    """Puts the best adapter into the model where there is one, else leaves the last, sets eval
    mode, and reports.
    """
    state, kept = run.state, run.state.step
    if state.best_step is not None and (
        state.best_step == state.step
        or restored_adapter(run.run_dir / "checkpoints", state.best_step, model)
    ):
        kept = state.best_step
    best = kept == state.best_step
    model.eval()
    if not state.epoch_target_tokens:
        raise RunError(
            f"none of the {state.step} steps had a finite loss; nothing was learnt", hint=_HINT
        )
    return TrainResult(
        steps=state.step,
        epochs=round(run.plan.epochs_at(state), 4),
        train_loss=state.epoch_loss_sum / state.epoch_target_tokens,
        validation_loss=state.best_validation_loss if best else state.validation_loss,
        tokens=state.tokens,
        tokens_per_second=round(state.tokens / max(state.seconds, 1e-9), 1),
        peak_memory_bytes=state.peak_memory_bytes,
        resumed_from=resumed_from,
        stopped=("early_stopping" if run.done() else "deadline")
        if state.step < run.plan.total_steps
        else None,
        kept="best" if best else "last",
        kept_step=kept,
        skipped=state.skipped,
        restores=state.restores,
    )
