"""The processes that answer together: which of them answers what, and how answers reach the first,
which writes them. Heavy to import.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from lora_s2s.errors import UsageError
from lora_s2s.files import sha256_json
from lora_s2s.machine import launched_processes

# The others wait for the slowest; the launcher notices if one dies.
_LONGEST_WAIT = timedelta(days=1)

Group = TypeVar("Group")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process among those that answer together; the first has the rank 0.

    Values travel as JSON: nothing that a process receives is unpickled.
    """

    rank: int = 0
    count: int = 1
    _sending: list[distributed.Work] = field(default_factory=list, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """Whether this process collects the answers and writes."""
        return self.rank == 0

    @property
    def leads(self) -> bool:
        """Whether this process is the first on its machine."""
        return int(os.environ.get("LOCAL_RANK", self.rank)) == 0

    def everywhere(self, value: Value) -> list[Value]:
        """Returns the values of all processes, by rank, in every process; waits for all."""
        return self.shared(self.gathered(value))

    def shared(self, value: Value) -> Value:
        """Returns the first process's value in every process."""
        if not self.first:
            received: Value = _received(0)
            return received
        sent = [work for rank in range(1, self.count) for work in _sent(value, rank)]
        for work in sent:
            work.wait()
        return value

    def gathered(self, value: Value) -> list[Value]:
        """Returns the values of all processes, by rank, in the first; elsewhere an empty list,
        while the value is on its way.
        """
        if self.first:
            return [value, *(_received(rank) for rank in range(1, self.count))]
        self.flush()
        self._sending.extend(_sent(value, 0))
        return []

    def in_turn(
        self, groups: Iterable[Group], answer: Callable[[Group], list[Value]]
    ) -> Iterator[list[Value]]:
        """Yields the answers to each group in order, in the first process; each process answers one
        group of as many as there are processes.
        """
        turn, own = -1, list[Value]()
        for number, group in enumerate(groups):
            turn = number % self.count
            if turn == self.rank:
                own = answer(group)
            if turn == self.count - 1:
                yield from self.gathered(own)
        if -1 < turn < self.count - 1:
            yield from self.gathered(own)[: turn + 1]

    def flush(self) -> None:
        """Waits until what this process sent has arrived."""
        for work in self._sending:
            work.wait()
        self._sending.clear()

    def check_same(self, facts: Mapping[str, object]) -> None:
        """Checks, in the first process, that all have the same input, model, and so on.

        Raises:
            UsageError: says which process has another one, and of what.
        """
        hashes = {name: sha256_json(value) for name, value in facts.items()}
        for rank, others in enumerate(self.gathered(hashes)):
            if different := [name for name, value in hashes.items() if others.get(name) != value]:
                raise UsageError(
                    f"process {rank} has another {' and '.join(different)} than process 0",
                    hint="give all machines the same files and versions",
                )


ALONE = Ranks()


@contextmanager
def together() -> Iterator[Ranks]:
    """Yields the processes that a launcher started, connected; this one alone without a launcher.

    Each takes the GPU of its number on this machine.

    Raises:
        UsageError: there are fewer GPUs.
    """
    count = launched_processes()
    if count == 1:
        yield ALONE
        return
    local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if gpus and local >= gpus:
        raise UsageError(f"{local + 1} processes need {local + 1} GPUs; there are {gpus}")
    if gpus:
        torch.cuda.set_device(local)
    distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
    ranks = Ranks(distributed.get_rank(), count)
    yield ranks
    ranks.flush()
    distributed.destroy_process_group()


def _sent(value: object, rank: int) -> list[distributed.Work]:
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sent = [distributed.isend(part, rank) for part in (torch.tensor([len(content)]), content)]
    return [work for work in sent if work is not None]


def _received(rank: int) -> Any:
    length = torch.zeros(1, dtype=torch.int64)
    distributed.recv(length, rank)
    content = torch.empty(int(length), dtype=torch.uint8)
    distributed.recv(content, rank)
    return json.loads(content.numpy().tobytes())
