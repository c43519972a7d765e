"""Checkpoints (folders of safetensors and JSON, hashed when written and verified when read) and
resuming from them.

``checkpoints/step-000123/`` holds ``adapter.safetensors``, ``optimizer.safetensors``,
``state.json``, and ``average.safetensors`` if the run averages its weights.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from lora_s2s.console import say, warn
from lora_s2s.documents import complete
from lora_s2s.errors import DataError, ResourceError, RunError, UsageError, again
from lora_s2s.files import naming, require_space, sha256_file, sha256_json, write_json
from lora_s2s.lora.adapter import adapter_state, load_adapter_state
from lora_s2s.machine import USER_SET_THREADS, usable_processors
from lora_s2s.outputs import whole_folder
from lora_s2s.records import CheckpointFile
from lora_s2s.training.averaging import WeightAverage
from lora_s2s.training.optimizer import (
    cpu_copy,
    load_optimizer_state,
    optimizer_state,
    trainable,
)
from lora_s2s.training.state import LoopOptions, TrainState, check_same_run

_ADAPTER = "adapter.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_AVERAGE = "average.safetensors"
_STATE = CheckpointFile.file


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose every byte has been verified."""

    path: Path
    state: TrainState
    identity: dict[str, str]

    @property
    def weights(self) -> Path:
        """The file of the adapter to use: of averaged weights, if there is one."""
        average = self.path / _AVERAGE
        return average if average.is_file() else self.path / _ADAPTER


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: Optimizer,
    state: TrainState,
    identity: dict[str, str],
    average: WeightAverage | None = None,
    write: bool = True,
) -> Path:
    """Writes ``folder/step-NNNNNN`` atomically, replacing one of the same step; returns its path.

    All processes call it, so that divided weights are gathered, and one writes.

    Raises:
        RunError: an adapter weight is not finite; older checkpoints are kept.
        ResourceError: the disk is full.
    """
    adapter, averaged = _copies(model, write), {}
    if average is not None:
        with average.in_place():
            averaged = {_AVERAGE: _copies(model, write)}
    broken = [name for name, tensor in adapter.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise RunError(
            f"step {state.step}: the adapter is no longer finite ({broken[0]}); no checkpoint was "
            "written"
        )
    moments = optimizer_state(model, optimizer, keep=write)
    path = _path_of(folder, state.step)
    if not write:
        return path
    files = {_ADAPTER: adapter, _OPTIMIZER: moments, **averaged}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        require_space(
            folder,
            sum(t.nbytes for file in files.values() for t in file.values()),
        )
        with whole_folder(path, replace=True) as staged:
            hashes = {name: _write_tensors(staged / name, held) for name, held in files.items()}
            content = {
                **dict(CheckpointFile.version),
                "state": asdict(state),
                "identity": identity,
                "sha256": hashes,
            }
            write_json(staged / _STATE, {**content, "own_sha256": sha256_json(content)})
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ResourceError(
            f"the disk is full: {path} was not written",
            hint=f"free some space; continue: {again()}",
            where=error.filename,
        ) from error
    return path


def _copies(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """The adapter's weights in memory of their own."""
    state = adapter_state(model)
    return {name: cpu_copy(tensor, keep=keep) for name, tensor in state.items()}


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    # Serialised first so that a full disk is an OSError with an errno, not safetensors' own error.
    content = save(tensors)
    with naming(path):
        path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def check_space(folder: Path, model: nn.Module, *, averaging: bool = False) -> None:
    """Checks that the disk has space for two checkpoints, as the new one is written before the old
    one is deleted.

    Raises:
        ResourceError: there is too little space.
    """
    weights = trainable(model).values()
    # The adapter and the optimizer's two moments, perhaps the average, twice.
    copies = 8 if averaging else 6
    size = sum(weight.nbytes for weight in weights)
    require_space(folder, copies * size)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads and verifies one checkpoint.

    Raises:
        DataError: a file is missing, its hash differs, or another version wrote the state.
    """
    record = CheckpointFile.read(path)
    content = dict(record.content)
    if content.pop("own_sha256", None) != sha256_json(content):
        raise DataError("the content differs from its own hash", where=str(path / _STATE))
    if {*record.sha256} - {_AVERAGE} != {_ADAPTER, _OPTIMIZER}:
        problem = f"the state should have hashes of {_ADAPTER} and {_OPTIMIZER}"
        raise DataError(problem, where=str(path / _STATE))
    for name, expected in record.sha256.items():
        if not (path / name).is_file():
            raise DataError("missing", where=str(path / name))
        if sha256_file(path / name) != expected:
            raise DataError(
                "the content differs from the hash in state.json", where=str(path / name)
            )
    state = complete(TrainState, record.state, path / _STATE)
    return Checkpoint(path, state, record.identity)


def checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoint folders, oldest step first, damaged ones included."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdigit()), key=_step_of)


def _path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the newest valid checkpoint, or None if there are none; warns of each damaged one it
    skips.

    Raises:
        DataError: there are checkpoints, and every one is damaged.
    """
    paths = checkpoints(folder)
    for path in reversed(paths):
        try:
            return read_checkpoint(path)
        except DataError as error:
            warn(f"skipping the damaged checkpoint {path.name}: {error.where}: {error.message}")
    if paths:
        raise DataError(
            f"every checkpoint in {folder} is damaged", hint="remove the folder and train again"
        )
    return None


def restored_adapter(folder: Path, step: int, model: nn.Module) -> bool:
    """Loads the adapter of a step's checkpoint; if that is damaged, warns and returns False."""
    try:
        load_adapter_state(model, load_file(read_checkpoint(_path_of(folder, step)).weights))
    except DataError as error:
        warn(
            f"the best checkpoint is damaged, keeping the last adapter: {error.where}: "
            f"{error.message}"
        )
        return False
    return True


def continue_from(
    run_dir: Path,
    model: nn.Module,
    optimizer: Optimizer,
    identity: dict[str, str],
    options: LoopOptions,
    average: WeightAverage | None = None,
) -> TrainState:
    """Restores model, optimizer and average from the newest valid checkpoint and returns its state,
    or a new state if there is nothing to resume.

    Raises:
        UsageError: there are checkpoints and ``resume`` is false, or they belong to another run
            and ``resume_anyway`` does not allow the differences.
        DataError: every checkpoint is damaged.
    """
    folder = run_dir / "checkpoints"
    if not options.resume:
        if checkpoints(folder):
            hint = f"remove the folder to start again; continue: {again()}"
            raise UsageError(
                "the run folder holds checkpoints of an unfinished run",
                hint=hint,
                where=str(run_dir),
            )
        return TrainState()
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        say(f"no checkpoint in {run_dir}: training from the start")
        return TrainState()
    then = checkpoint.identity
    for line in check_same_run(checkpoint.path, then, identity, anyway=options.resume_anyway):
        warn(line)
    state = checkpoint.state
    state.threads = _threads(state.threads, on_cpu=next(model.parameters()).device.type == "cpu")
    if average is not None:
        load_adapter_state(model, load_file(checkpoint.path / _AVERAGE))
        average.take()
    load_adapter_state(model, load_file(checkpoint.path / _ADAPTER))
    load_optimizer_state(model, optimizer, load_file(checkpoint.path / _OPTIMIZER))
    say(f"resuming after step {state.step} ({checkpoint.path})")
    return state


def _threads(then: int, *, on_cpu: bool) -> int:
    """How many threads a run goes on with: as many as before, which keeps every digit, unless the
    user has set the number.
    """
    now = torch.get_num_threads()
    if USER_SET_THREADS or not 0 < then <= max(now, usable_processors()):
        if on_cpu and then != now:
            warn(f"the checkpoint was made on {then} threads; now {now}: the last digits differ")
        return now
    if on_cpu and then != now:
        say(f"threads: {then}, as before; OMP_NUM_THREADS={now} sets another number")
    return then


def prune(folder: Path, *, current: int, keep: int, best: int | None) -> None:
    """Deletes all checkpoints but the best and the ``keep`` newest up to step ``current``.

    Steps after ``current`` are damaged ones that a resumed run skipped. Dot folders are left by a
    process that was killed while writing or deleting them.
    """
    for unfinished in folder.glob(".step-*"):
        shutil.rmtree(unfinished)
    paths = checkpoints(folder)
    newest = [path for path in paths if _step_of(path) <= current][-max(keep, 1) :]
    for path in paths:
        if path not in newest and _step_of(path) != best:
            shutil.rmtree(path.rename(path.with_name(f".{path.name}.deleted")))
