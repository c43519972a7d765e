"""A command in several processes on this machine, by torch's elastic launcher. Heavy to import."""

from __future__ import annotations

import logging
import signal
import sys
import uuid
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lora_s2s.errors import OWN_LAUNCH, Killed, UsageError
from lora_s2s.machine import launched_processes, share_processors

_OPTION = "--processes"
_SAVING = 600  # seconds that a stopped process has for its checkpoint
_ANSWERING = 10  # the same where nothing is saved
_ENDED = (-signal.SIGTERM, 128 + signal.SIGTERM)  # exit codes of processes that a launcher ends


def in_processes(count: int, words: Sequence[str], *, saving: bool = True) -> int:
    """Runs a command in so many processes that work together; returns the exit code of the first
    that failed, 0 if none did.

    Args:
        words: the command line after the program's name; its ``--processes`` is taken out.
        saving: a process that is stopped saves a checkpoint.

    Raises:
        UsageError: this process is one of several already, or there are fewer GPUs.
        Killed: one was killed.
    """
    if launched_processes() > 1:
        raise UsageError(
            f"{_OPTION} starts the processes itself, and a launcher has started this one",
            hint=f"omit {_OPTION}",
        )
    gpus = torch.cuda.device_count()
    if gpus and count > gpus:
        raise UsageError(f"{count} processes need {count} GPUs; there are {gpus}")
    share_processors(count)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=f"{OWN_LAUNCH}{uuid.uuid4()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=_SAVING if saving else _ANSWERING,
    )
    command = ("-m", "lora_s2s", *_without_option(words))
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        # The launcher ended the others; of the rest, a process that was killed says nothing itself.
        ended = [
            (one.exitcode in _ENDED, one.exitcode > 0, one.timestamp, rank)
            for rank, one in error.failures.items()
        ]
        rank = min(ended)[-1]
        code = error.failures[rank].exitcode
        if code < 0:
            raise Killed(-code, f"process {rank} of {count}") from error
        return code
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _without_option(words: Sequence[str]) -> list[str]:
    kept, given = [], iter(words)
    for word in given:
        if word == _OPTION:
            next(given, None)
        elif not word.startswith(f"{_OPTION}="):
            kept.append(word)
    return kept
