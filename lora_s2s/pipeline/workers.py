"""The trials of a sweep in this process, or in several workers over one journal. Heavy to
import.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import connection
from typing import TYPE_CHECKING

import torch

from lora_s2s.console import say
from lora_s2s.display import Silent, current, showing
from lora_s2s.errors import RunError, again
from lora_s2s.machine import share_processors
from lora_s2s.pipeline.failures import FORESEEN, failure_of
from lora_s2s.pipeline.trials import Setup, run_trials

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

_SAVING = 600  # seconds that a stopped worker has for its checkpoint
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def run_all(setup: Setup, *, most: int | None, workers: int) -> None:
    """Trains what was left running, and new trials until there are ``most`` or time is up.

    Raises:
        Error: see :func:`lora_s2s.pipeline.trials.run_trials`.
        RunError: a worker failed or was killed; the others have gone on.
    """
    trials = setup.trials()
    unfinished = trials.unfinished()
    left = None if most is None else max(0, most - trials.count())
    count = workers if left is None else min(workers, len(unfinished) + left)
    if count > 1:
        _in_workers(replace(setup, alone=False), unfinished, left, count)
        return
    numbers = iter(range(sys.maxsize if left is None else left))
    run_trials(setup, unfinished, lambda: next(numbers, None) is not None)


def _in_workers(setup: Setup, unfinished: Sequence[int], left: int | None, count: int) -> None:
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    counter = None if left is None else context.Value("q", left)
    silent = isinstance(current(), Silent)
    workers = [
        context.Process(target=_worker, args=(setup, unfinished[k::count], counter, silent))
        for k in range(count)
    ]
    try:
        for place, worker in enumerate(workers):
            with _its_share_of_the_machine(place, count):
                worker.start()
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            if worker.pid is not None:
                worker.join(_SAVING)
    if codes := [worker.exitcode for worker in workers if worker.exitcode]:
        raise RunError(
            f"{len(codes)} of {count} workers ended early (exit code {codes[0]})",
            hint=f"continue with the trials that are left: {again('')}",
        )


@contextmanager
def _its_share_of_the_machine(place: int, count: int) -> Iterator[None]:
    """The environment of one worker: threads, and a GPU of its own where there are several."""
    before = dict(os.environ)
    share_processors(count)
    gpus = torch.cuda.device_count()
    if gpus > 1:
        names = os.environ.get(_VISIBLE, ",".join(map(str, range(gpus)))).split(",")
        os.environ[_VISIBLE] = names[place % gpus]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _worker(
    setup: Setup, unfinished: Sequence[int], left: Synchronized[int] | None, silent: bool
) -> None:
    """The body of a worker process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def may_begin() -> bool:
        if left is None:
            return True
        with left.get_lock():
            left.value -= 1
            return left.value >= 0

    with showing(Silent() if silent else None):
        try:
            run_trials(setup, unfinished, may_begin)
        except FORESEEN as error:
            failure = failure_of(error)
            if failure is None:
                raise
            say(f"error: {failure.message}")
            sys.exit(failure.exit_code)


def _end_with_parent() -> None:
    """Ends a worker, which saves a checkpoint, when the process that started it is killed."""
    if parent := multiprocessing.parent_process():
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
