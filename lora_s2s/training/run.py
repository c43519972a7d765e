"""All of a run but its steps: the start, what is due after each step, and the result."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from lora_s2s.console import ProgressLine, say, warn
from lora_s2s.data.prepared import SplitTable
from lora_s2s.errors import RunError, Stopped, UsageError, again, naming_out_of_memory
from lora_s2s.fast_t5.choose import fast_forward, forward_in_use
from lora_s2s.recipe.schema import TrainingSettings
from lora_s2s.training.averaging import WeightAverage
from lora_s2s.training.checkpoint import (
    check_space,
    continue_from,
    prune,
    restored_adapter,
    save_checkpoint,
)
from lora_s2s.training.loader import BatchLoader, NextBatches
from lora_s2s.training.log import RunLog, TrackersMayFail, start_trackers
from lora_s2s.training.memory import peak_memory_bytes
from lora_s2s.training.optimizer import build_optimizer, learning_rate_at, trainable
from lora_s2s.training.plan import StepPlan
from lora_s2s.training.processes import any_process, computing_on, share_parameters, stop_signal
from lora_s2s.training.signals import StopSignals
from lora_s2s.training.state import (
    ALL_RIGHT,
    LEAST_GAIN,
    VALIDATION_LOSS,
    LoopOptions,
    StepStats,
    TrainResult,
    run_identity,
)
from lora_s2s.training.validation import Evaluate

_MAX_SKIPPED_IN_A_ROW = 10
_HINT = (
    "lower training.learning_rate, or set model.dtype=float32 (bfloat16 on a GPU); "
    "this step changed nothing and the last checkpoint is finite"
)

_SMALLER_BATCHES = (
    "halve training.tokens_per_batch and double training.gradient_accumulation: "
    "the same step in less memory"
)


class Run:
    """Everything a run holds between two steps; arguments as in :func:`loop.train`.

    A new run is before its first step, a resumed one where its checkpoint was made.
    """

    def __init__(
        self,
        model: nn.Module,
        table: SplitTable,
        pad_token_id: int,
        settings: TrainingSettings,
        run_dir: Path,
        evaluate: Evaluate | None,
        options: LoopOptions,
        accelerator: Accelerator,
    ) -> None:
        self.model, self.settings, self.accelerator = model, settings, accelerator
        self.run_dir, self.evaluate, self.options = run_dir, evaluate, options
        if evaluate is None:
            _refuse_without_validation(settings)
        self.plan = StepPlan(table, settings)
        self.loader = BatchLoader(model, table, pad_token_id, settings, self.plan, accelerator)
        if accelerator.is_main_process:
            self.plan.report_long_rows()
        self.optimizer = build_optimizer(model, settings)
        check_space(run_dir, model, averaging=settings.ema > 0)
        self.average = WeightAverage(model, settings.ema) if settings.ema else None
        self.identity = run_identity(
            {**options.identity, "processes": str(accelerator.num_processes)}, settings
        )
        self.state = continue_from(
            run_dir, model, self.optimizer, self.identity, options, self.average
        )
        self.plan.begin_at(self.state)
        self.last_step = math.ceil(options.share * self.plan.total_steps)
        share_parameters(trainable(model).values(), accelerator)
        start_trackers(accelerator, settings, run_dir)
        self.line, self.signals = ProgressLine("train"), StopSignals()
        self.log = RunLog(run_dir, accelerator, self.line, keep_lines=self.state.metrics_lines)
        self.out_of_time = False
        self.first_step = self.state.step
        # The newest checkpoint, and when it was written or read.
        self.saved = self.progress() if self.first_step else None
        self.saved_at = time.monotonic()

    def progress(self) -> tuple[int, int]:
        """The current step and the step evaluated last: what a checkpoint must contain."""
        return self.state.step, self.state.evaluated_step

    @contextmanager
    def loading(self) -> Iterator[NextBatches]:
        """Yields a function that returns the next step's micro-batches.

        While entered, signals are caught, out-of-memory errors are explained, and the fast forward
        is used if it fits the model.
        """
        with (
            self.line,
            self.signals,
            naming_out_of_memory("out of memory while training", hint=_SMALLER_BATCHES),
            fast_forward(self.model),
            computing_on(self.state.threads),
            self.loader.loading(self.state, self.run_dir) as next_batches,
        ):
            say(f"{self.plan.total_steps:,} steps; the first also checks the forward pass")
            yield next_batches
        self.log.close()

    def interrupted(self) -> bool:
        """Whether a signal ends the step; several processes finish it, as they must agree."""
        return self.signals.received is not None and self.accelerator.num_processes == 1

    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return learning_rate_at(self.state.step, self.plan.total_steps, self.settings)

    def count(self, stats: StepStats, *, seconds: float) -> None:
        """Counts and logs a step that was taken.

        Raises:
            RunError: its loss is 0, or it is not finite and may not be skipped.
        """
        self._check_forward()
        self._check(stats)
        if self.average is not None and stats.finite:
            self.average.update(self.state.step + 1 - self.state.skipped)
        self.state.advance(
            stats,
            seconds,
            peak_memory_bytes(self.accelerator.device),
            steps_in_epoch=len(self.plan.steps(self.state.epoch)),
        )
        if self.options.begun is not None and self.state.step == self.first_step + 1:
            say(f"first training step after {time.monotonic() - self.options.begun:.1f} s")
        self.log.step(stats, self.state, self.plan, seconds=seconds)

    def _check_forward(self) -> None:
        before, now = self.state.forward, forward_in_use(self.model)
        if before not in (None, now):
            warn(
                f"the run started with the {before} forward and continues with the {now} one: "
                "the last digits differ"
            )
        self.state.forward = now

    def _check(self, stats: StepStats) -> None:
        step = f"step {self.state.step + 1}"
        if stats.loss == 0:
            raise RunError(
                f"{step}: the loss is exactly 0, so nothing is learned",
                hint="look at the targets with lora-s2s prepare; a model that predicts them all "
                "needs no training",
            )
        if stats.finite:
            return
        problem = f"{step}: the loss is {stats.loss}, its gradient norm {stats.grad_norm}"
        if self.settings.on_nonfinite == "stop":
            raise RunError(problem, hint=_HINT)
        skipped = self.state.skipped_in_a_row
        if skipped + 1 >= _MAX_SKIPPED_IN_A_ROW:
            raise RunError(f"{problem}, after {skipped} steps skipped in a row", hint=_HINT)
        warn(f"{problem}: skipping the step")

    def evaluation_due(self) -> bool:
        """Every ``evaluate_every`` steps (0: at each epoch's end), and at the end of the run."""
        state, every = self.state, self.settings.evaluate_every
        if self.evaluate is None or state.evaluated_step == state.step:
            return False
        return self.left() or (state.step % every == 0 if every else state.position == 0)

    def evaluate_now(self) -> None:
        """Evaluates, the averaged weights if there are any, logs, and remembers the best."""
        if self.evaluate is None:
            return
        with self.average.in_place() if self.average else nullcontext():
            scores = self.evaluate(self.model)
        loss = scores[VALIDATION_LOSS]
        if not math.isfinite(loss):
            raise RunError(f"step {self.state.step}: the validation loss is {loss}", hint=_HINT)
        self.state.remember(scores, self.options.goal)
        self.log.evaluation(scores, self.state, self.plan)
        if self._nothing_to_gain() and self.state.step < self.plan.total_steps:
            probability = self.plan.answer_probability(loss)
            say(f"the run ends here: the right answers have a probability of {probability:.1%}")
        elif not self.settings.early_stopping and self.last_step == self.plan.total_steps:
            self.log.notice(self.state, self.plan)

    def check_deadline(self) -> None:
        """Ends the run if the deadline has passed and at least one step was taken."""
        if self.options.deadline is not None and self.state.step > self.first_step:
            passed = time.monotonic() >= self.options.deadline
            self.out_of_time = any_process(passed, self.accelerator)

    def checkpoint_due(self) -> bool:
        """Every ``save_every`` steps or minutes, at a new best, and at the end."""
        step, minutes = self.state.step, self.settings.save_minutes
        if minutes is None:
            due = bool(step and step % int(self.settings.save_every) == 0)
        else:  # any process's clock decides for all
            due = any_process(time.monotonic() - self.saved_at >= 60 * minutes, self.accelerator)
        return due or step == self.state.best_step or self.finished()

    def save(self) -> None:
        """Saves a checkpoint unless this state is saved already, then deletes those not kept."""
        folder, state = self.run_dir / "checkpoints", self.state
        if self.saved != self.progress():
            state.metrics_lines = self.log.sync()
            training = self.model, self.optimizer, state, self.identity
            main = self.accelerator.is_main_process
            save_checkpoint(folder, *training, average=self.average, write=main)
        self.saved, self.saved_at = self.progress(), time.monotonic()
        if self.accelerator.is_main_process:
            keep = self.settings.keep_checkpoints
            prune(folder, current=state.step, keep=keep, best=state.best_step)
        self.accelerator.wait_for_everyone()

    def stop_if_signalled(self) -> None:
        """Saves a checkpoint and raises Stopped if any process received a signal."""
        number = stop_signal(self.signals.received, self.accelerator)
        if number is None:
            return
        self.save()
        name, step = signal.Signals(number).name, self.state.step
        end = again("--resume-anyway", f"training.max_steps={step}")
        also = f"; or end the run with what it has: {end}" if step else ""
        after = f"step {step:,} of {self.plan.total_steps:,}"
        raise Stopped(f"stopped by {name} after {after}; a checkpoint was saved", number, also)

    def done(self) -> bool:
        """Whether all steps are taken, ``early_stopping`` evaluations in a row had no gain, or
        there is nothing left to gain.
        """
        state, patience = self.state, self.settings.early_stopping
        out_of_patience = 0 < patience <= state.evaluations_without_gain
        return state.step >= self.plan.total_steps or out_of_patience or self._nothing_to_gain()

    def _nothing_to_gain(self) -> bool:
        """Whether the validation loss that chooses the best step says that answers are right."""
        loss = self.state.best_score
        if loss is None or self.state.best_by != VALIDATION_LOSS:
            return False
        return loss < LEAST_GAIN or self.plan.answer_probability(loss) >= ALL_RIGHT

    def left(self) -> bool:
        """Whether the run is done, or has taken the share of its steps that was asked for."""
        return self.done() or self.state.step >= self.last_step

    def finished(self) -> bool:
        """Whether no further step is taken: the run is left, or out of time."""
        return self.left() or self.out_of_time

    def result(self) -> TrainResult:
        """Puts the best adapter into the model (the last if there is none), in eval mode."""
        state, kept = self.state, self.state.step
        if state.best_step is not None and (
            state.best_step == state.step
            or restored_adapter(self.run_dir / "checkpoints", state.best_step, self.model)
        ):
            kept = state.best_step
        if kept == state.step and self.average is not None:
            self.average.put()
        best = kept == state.best_step
        self.model.eval()
        if not state.epoch_target_tokens:
            raise RunError(
                f"none of the {state.step} steps had a finite loss; nothing was learned",
                hint=_HINT,
            )
        stopped = None
        if state.step < self.plan.total_steps:
            unfinished = "share" if self.left() else "deadline"
            stopped = "early_stopping" if self.done() else unfinished
        return TrainResult(
            steps=state.step,
            epochs=self.plan.epochs_at(state),
            train_loss=state.epoch_loss_sum / state.epoch_target_tokens,
            validation_loss=state.best_validation_loss if best else state.validation_loss,
            tokens=state.tokens,
            tokens_per_second=round(state.tokens / max(state.seconds, 1e-9), 1),
            peak_memory_bytes=state.peak_memory_bytes,
            resumed_from=self.first_step or None,
            stopped=stopped,
            kept="best" if best else "last",
            kept_step=kept,
            skipped=state.skipped,
            kept_by=state.best_by,
            kept_score=state.best_score if best else None,
        )

    def close(self) -> None:
        """Ends the trackers."""
        with TrackersMayFail(self.accelerator):
            self.accelerator.end_training()


def _refuse_without_validation(settings: TrainingSettings) -> None:
    """Refuses settings that need validation data."""
    needing = {
        "early_stopping": settings.early_stopping > 0,
        "best_metric": settings.judges_answers,
        "scored_sources": settings.scored_sources > 0,
    }
    for key, is_set in needing.items():
        if is_set:
            hint = "set data.validation_fraction=0.05"
            raise UsageError(f"training.{key} needs validation data", hint=hint)
