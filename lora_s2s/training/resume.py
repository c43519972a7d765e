"""Beginning a run: from nothing, or from the newest whole checkpoint of the same run."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torch.optim import AdamW

from lora_s2s.console import say
from lora_s2s.errors import UsageError
from lora_s2s.recipe.schema import TrainingSection
from lora_s2s.training.checkpoint import check_identity, checkpoints, newest_checkpoint, restore
from lora_s2s.training.state import TrainState

# Changing these changes what is kept and shown, not what is trained.
_FREE = frozenset({"save_every", "keep_checkpoints", "evaluate_every", "early_stopping", "trackers"})


def run_identity(given: dict[str, str], settings: TrainingSection, processes: int) -> dict[str, str]:
    """Returns what must be equal for a run to continue: the caller's hashes and every setting that shapes a step."""
    shaping = {key: value for key, value in settings.model_dump().items() if key not in _FREE}
    own = {f"training.{key}": str(value) for key, value in shaping.items()}
    return {**given, **own, "processes": str(processes)}


def continue_from(
    run_dir: Path, model: nn.Module, optimizer: AdamW, *, resume: bool, identity: dict[str, str]
) -> TrainState:
    """Restores model and optimizer from the newest whole checkpoint and returns its state, or a new state.

    Raises:
        UsageError: there are checkpoints and ``resume`` is false, or they belong to another run.
        DataError: every checkpoint is damaged.
    """
    folder = run_dir / "checkpoints"
    if not resume:
        if checkpoints(folder):
            hint = "add --resume to continue it, or remove the folder to start again"
            raise UsageError("the run folder holds checkpoints of an unfinished run", hint=hint, where=str(run_dir))
        return TrainState()
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        say(f"no checkpoint in {run_dir}: training from the start")
        return TrainState()
    check_identity(checkpoint, identity)
    restore(checkpoint, model, optimizer)
    say(f"resuming after step {checkpoint.state.step} ({checkpoint.path})")
    return checkpoint.state
