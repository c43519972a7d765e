"""What a run is asked for, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_s2s.errors import COMMAND_LINE, Error, UsageError, again
from lora_s2s.hub import is_trained
from lora_s2s.outputs import check_free, check_writable
from lora_s2s.pipeline import html
from lora_s2s.pipeline.names import resume_command
from lora_s2s.recipe.load import recorded_recipe, with_choices_of
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import CheckpointFile
from lora_s2s.training.run_lock import check_not_running
from lora_s2s.training.state import LoopOptions, TrainResult, check_same_run, run_identity


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
        adapter = self.adapter and str(self.adapter)
        return {**asdict(self), "adapter": adapter, "advice": list(self.advice)}


@dataclass(frozen=True)
class RunOptions(LoopOptions):
    """How a run begins and ends. One that ends at its ``deadline``, or is left after a ``share``,
    has no adapter.

    Attributes:
        overwrite: replace an adapter or a run of this name.
        check_memory: refuse a run that cannot fit the device's memory.
    """

    overwrite: bool = False
    check_memory: bool = True

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise UsageError("resume and overwrite exclude each other: keep one")


def on_other_data(running: Path, recipe: Recipe) -> str:
    """What an unfinished run or prepared data reads that a recipe names otherwise, to show; empty
    if nothing.
    """
    with suppress(Error):  # also: it has no recipe yet, or one of another version
        began = recorded_recipe(running).data
        for key in ("train", "source_column", "target_column", "template"):
            now, before = getattr(recipe.data, key), getattr(began, key)
            if now not in (None, before):
                return f" with data.{key}: {before}; now {now}"
    return ""


def _check_settings(running: Path, recipe: Recipe, options: RunOptions) -> None:
    """Refuses to continue a run with other settings, before its data and base are loaded."""
    newest = max(running.glob("checkpoints/step-*"), default=running)
    try:
        recipe = with_choices_of(recipe, recorded_recipe(running))
        then = CheckpointFile.read(newest).identity
        now = run_identity({**then, **recipe.lora.by_key("lora")}, recipe.training.settled())
    except (Error, ValueError):  # none, or a damaged one, which is reported where all of it is read
        return
    check_same_run(newest, then, now, anyway=options.resume_anyway)


def check_run_folder(
    recipe: Recipe, options: RunOptions, *, may_be_done: bool = False
) -> tuple[Path, Path]:
    """Returns where the adapter is made (``NAME.running``) and where it stands when whole. Writes
    nothing.

    Args:
        may_be_done: a finished run that is to be resumed is no error yet.

    Raises:
        UsageError: an adapter or an unfinished run of this name would be lost, the run to resume
            has other settings, another process trains it, or the folder cannot be written.
    """
    final = Path(recipe.output.dir) / str(recipe.output.name)
    running = final.with_name(f"{final.name}.running")
    check_not_running(running)
    # A run and an adapter of one name: the run began with --overwrite.
    if final.exists() and not (
        options.overwrite or (options.resume and (may_be_done or running.exists()))
    ):
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
    if options.resume:
        _check_settings(running, recipe, options)
    for place in (running, final):
        check_free(place, replace=True)
    check_writable(final.parent)
    return running, final
