"""One row of the table of bad inputs."""

from __future__ import annotations

from typing import NamedTuple

from spoiling import Spoil

SECONDS = 20  # of CPU time: the clock also counts what else the machine does
SECONDS_ON_THE_CLOCK = 120
MEMORY = 10**9


class Case(NamedTuple):
    """A command in a folder that ``spoil`` fills, or with a spoilt ``copy_of`` an adapter or model.

    In the command and an exact message BASE and ADAPTER stand for good ones, BAD for the spoilt
    copy, HASH for the base's weights. Every command ends within ``SECONDS`` and ``MEMORY``, without
    a traceback, and leaves nothing behind; a ``heavy`` one in a process that cannot exceed them.

    ``message`` is a part of what stderr must say, or all of it (``exact``); ``plain``: the message
    is complete without place or hint.
    """

    name: str
    command: str
    code: int
    message: str
    spoil: Spoil = lambda folder: None
    copy_of: str = ""
    plain: bool = False
    exact: bool = False
    heavy: bool = False
