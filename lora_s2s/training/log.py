"""A run's log: metrics.jsonl for programs, a progress line for people, trackers for dashboards."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from accelerate import Accelerator

from lora_s2s import limits
from lora_s2s.console import ProgressLine, say, warn
from lora_s2s.errors import SetupError, again
from lora_s2s.files import jsonl_line, naming, read_whole, write_bytes
from lora_s2s.recipe.schema import TrainingSettings
from lora_s2s.training.advice import PATIENCE, has_learned, stands_still
from lora_s2s.training.plan import StepPlan
from lora_s2s.training.state import StepStats, TrainState

METRICS = "metrics.jsonl"


def require_trackers(names: Sequence[str]) -> None:
    """Checks that every requested tracker is installed.

    Raises:
        SetupError: one is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            hint = f"pip install {name}, or set training.trackers=[]"
            raise SetupError(f"the tracker {name} is not installed", hint=hint)


def start_trackers(accelerator: Accelerator, settings: TrainingSettings, run_dir: Path) -> None:
    """Starts the trackers with the training section as their configuration, without any path."""
    if settings.trackers:
        values = settings.model_dump().items()
        config = {
            key: value if isinstance(value, int | float) else str(value) for key, value in values
        }
        with TrackersMayFail(accelerator):
            accelerator.init_trackers(
                "lora_s2s", config=config, init_kwargs={"wandb": {"dir": str(run_dir)}}
            )


class TrackersMayFail:
    """Wraps calls to trackers: if one fails, warns once and continues without trackers."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: object, _trace: object) -> bool:
        # Trackers raise error types of their own, none of which should end a run.
        if not isinstance(error, Exception):
            return False
        self._accelerator.trackers.clear()
        reason = " ".join(str(error).split())[:200]
        warn(f"a tracker failed, continuing without: {type(error).__name__}: {reason}")
        return True


class RunLog:
    """Writes the log; on the main process only.

    Args:
        folder: the folder of ``metrics.jsonl``.
        keep_lines: how many of its lines belong to the run so far; later ones, written after the
            checkpoint, are deleted.
    """

    def __init__(
        self, folder: Path, accelerator: Accelerator, progress: ProgressLine, *, keep_lines: int
    ) -> None:
        self._accelerator = accelerator
        self._progress = progress
        self._noticed, self._tokens, self._seconds = False, 0, 0.0
        self._path = folder / METRICS
        self._stream: TextIO | None = None
        self.cut(keep_lines)

    def cut(self, keep_lines: int) -> None:
        """Continues after the first ``keep_lines`` lines."""
        self.close()
        self.lines = keep_lines
        if self._accelerator.is_main_process:
            self.lines = _keep(self._path, keep_lines)
            self._stream = self._path.open("a", encoding="utf-8", newline="")

    def step(self, stats: StepStats, state: TrainState, plan: StepPlan, *, seconds: float) -> None:
        """Logs one optimizer step that took ``seconds``: the JSON line, the trackers, the live
        line.
        """
        line = {
            "step": state.step,
            "epoch": plan.epochs_at(state),
            # JSON cannot hold numbers that are not finite, and a curve cannot show them.
            **{
                key: value
                for key, value in asdict(stats).items()
                if stats.finite or key not in ("loss", "grad_norm")
            },
            "skipped": state.skipped,
            "tokens_per_second": round(stats.tokens / seconds, 1),
            "memory_bytes": state.peak_memory_bytes,
            "seconds": round(state.seconds, 3),
        }
        self._write(line, "train")
        self._tokens += stats.tokens
        self._seconds += seconds
        if self._stream:
            fields = {
                "loss": f"{stats.loss:.4f}",
                "tokens/s": f"{self._tokens / self._seconds:,.0f}",
                "memory": f"{state.peak_memory_bytes / 2**30:.2f} GiB",
            }
            self._progress.update(fields, done=state.step, total=plan.total_steps)

    def evaluation(self, scores: Mapping[str, float], state: TrainState, plan: StepPlan) -> None:
        """Logs one evaluation and shows its scores."""
        # JSON cannot hold numbers that are not finite.
        finite = {name: value for name, value in scores.items() if math.isfinite(value)}
        self._write({"step": state.step, "epoch": plan.epochs_at(state), **finite}, "validation")
        (_, loss), *others = scores.items()
        shown = "".join(f", {name} {value:.2f}" for name, value in others)
        say(f"step {state.step:,}: validation loss {loss:.4f}{shown}")

    def notice(self, state: TrainState, plan: StepPlan) -> None:
        """Shows once that the run has little to gain, and how to end it at the best so far."""
        if self._noticed or state.validation_loss is None:
            return
        count, share = state.evaluations_without_gain, state.step / plan.total_steps
        if stands_still(count, share):
            about = f"no gain in the last {count} validations"
            how = again("--resume", f"training.early_stopping={PATIENCE}")
        elif has_learned(probability := plan.answer_probability(state.validation_loss), share):
            about = f"the right answers have a probability of {probability:.0%} on average"
            how = again("--resume-anyway", f"training.max_steps={state.step}")
        else:
            return
        self._noticed = True
        say(
            f"{about}; the best is that of step {state.best_step:,}, and a falling learning rate "
            f"may still bring a gain. To end the run with it: Ctrl-C, then {how}"
        )

    def sync(self) -> int:
        """Flushes every line to disk and returns their number."""
        if self._stream:
            with naming(self._path):
                self._stream.flush()
                os.fsync(self._stream.fileno())
        return self.lines

    def close(self) -> None:
        """Closes the file."""
        if self._stream:
            self._stream.close()

    def _write(self, line: Mapping[str, float], group: str) -> None:
        self.lines += 1
        if self._stream:
            with naming(self._path):
                self._stream.write(jsonl_line(dict(line)))
                self._stream.flush()
        if self._accelerator.trackers:
            with TrackersMayFail(self._accelerator):
                values = {f"{group}/{key}": value for key, value in line.items() if key != "step"}
                self._accelerator.log(values, step=int(line["step"]))


def _keep(path: Path, count: int) -> int:
    most = limits.LARGEST_JSON_LINES["metrics.jsonl"]
    lines = read_whole(path, most=most).splitlines(keepends=True) if path.exists() else []
    if len(lines) < count:
        warn(
            f"{path} holds {len(lines)} of the checkpoint's {count} lines; the curve will have a "
            "gap"
        )
    if lines[count:] or not path.exists():
        write_bytes(path, b"".join(lines[:count]))
    return min(len(lines), count)
