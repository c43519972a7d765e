"""What a run is asked for, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lora_s2s.errors import COMMAND_LINE, Error, UsageError, again
from lora_s2s.hub import RECIPE, is_trained
from lora_s2s.outputs import check_free, check_writable
from lora_s2s.pipeline import html
from lora_s2s.pipeline.names import resume_command
from lora_s2s.recipe.load import load_recipe
from lora_s2s.recipe.schema import Recipe
from lora_s2s.training.run_lock import check_not_running
from lora_s2s.training.state import TrainResult


@dataclass(frozen=True, kw_only=True)
class TrainedAdapter(TrainResult):
    """What a run reports, and where its adapter is.

    Attributes:
        adapter: the adapter's folder; None where the run is not done.
        advice: what the curves suggest to change, each with ``message`` and ``setting``.
    """

    adapter: Path | None
    trainable_parameters: int
    total_parameters: int
    advice: Sequence[Mapping[str, str]] = ()

    def _repr_html_(self) -> str:
        return html.trained(self)

    def to_dict(self) -> dict[str, Any]:
        """The object of ``train --json``."""
        result = {field.name: getattr(self, field.name) for field in fields(TrainResult)}
        return {
            "adapter": None if self.adapter is None else str(self.adapter),
            **result,
            "trainable_parameters": self.trainable_parameters,
            "total_parameters": self.total_parameters,
            "advice": [dict(advice) for advice in self.advice],
        }


@dataclass(frozen=True)
class RunOptions:
    """How a run begins and ends.

    Attributes:
        resume: continue an unfinished run of this name.
        anyway: see ``resume_anyway`` of :class:`lora_s2s.training.state.LoopOptions`.
        overwrite: replace an adapter or a run of this name.
        deadline: on ``time.monotonic``'s clock; a run that ends there has ``stopped`` "deadline"
            and no adapter.
        begun: when the command or call began, on the same clock.
        share: see :class:`lora_s2s.training.state.LoopOptions`; a run that is left has no adapter.
        check_memory: refuse a run that cannot fit the device's memory.
    """

    resume: bool = False
    anyway: bool = False
    overwrite: bool = False
    deadline: float | None = None
    begun: float | None = None
    check_memory: bool = True
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise UsageError("resume and overwrite exclude each other: keep one")


def on_other_data(running: Path, recipe: Recipe) -> str:
    """What an unfinished run or prepared data reads that a recipe names otherwise, to show; empty
    if nothing.
    """
    with suppress(Error):  # also: it has no recipe yet, or one of another version
        began = load_recipe(str(running / RECIPE), only_shipped=True).data
        for key in ("train", "source_column", "target_column", "template"):
            now, before = getattr(recipe.data, key), getattr(began, key)
            if now not in (None, before):
                return f" with data.{key}: {before}; now {now}"
    return ""


def check_run_folder(recipe: Recipe, options: RunOptions) -> tuple[Path, Path]:
    """Returns where the adapter is made (``NAME.running``) and where it stands when whole. Writes
    nothing.

    Raises:
        UsageError: an adapter or an unfinished run of this name would be lost, another process
            trains it, or the folder cannot be written.
    """
    final = Path(recipe.output.dir) / str(recipe.output.name)
    running = final.with_name(f"{final.name}.running")
    check_not_running(running)
    # A run and an adapter of one name: the run began with --overwrite.
    if final.exists() and not (options.overwrite or (options.resume and running.exists())):
        raise UsageError(
            f"{final} exists already",
            hint="give the new one a name with --set output.name=…; or replace it: "
            f"{again('--overwrite')}",
        )
    if final.exists() and not is_trained(final):
        raise UsageError(
            f"{final} is not an adapter, so it is not replaced", hint="--set output.name=…"
        )
    if running.exists() and not (options.resume or options.overwrite):
        hint = f"start again: {again('--overwrite')}"
        if not (other := on_other_data(running, recipe)):
            # Another command line than that which began the run may differ from it.
            command = resume_command(running) if COMMAND_LINE.get() else again()
            hint = f"continue: {command}; or {hint}"
        raise UsageError(f"{running} holds an unfinished run{other}", hint=hint)
    for place in (running, final):
        check_free(place, replace=True)
    check_writable(final.parent)
    return running, final
