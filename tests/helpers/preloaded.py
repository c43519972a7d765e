"""Command lines in forks of a process that has everything imported: a run costs no start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import programs

_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "NO_COLOR": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Outcome:
    """How a command line ended; ``code`` is negative where a signal ended it."""

    code: int
    stdout: str
    stderr: str
    seconds: float


class Preloaded:
    """Talks to ``preloaded_server.py``; a context manager.

    Args:
        environment: more variables of the process and its runs; ``None`` for what is removed.
    """

    def __init__(self, environment: Mapping[str, str | None] | None = None) -> None:
        self._more = environment or {}

    def __enter__(self) -> Preloaded:
        changed = {**programs.environment(**_QUIET), **self._more}
        environment = {name: value for name, value in changed.items() if value is not None}
        self._process = subprocess.Popen(
            [sys.executable, str(programs.HELPERS / "preloaded_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert self._answer() == "ready"
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run(self, folder: Path, *words: str, **asked: Any) -> Outcome:
        """Runs a command line in a folder; keywords as ``preloaded_server.py`` says."""
        return Outcome(**self._asked(folder, *words, **asked))

    def run_together(self, folder: Path, processes: int, *words: str) -> list[Outcome]:
        """Runs a command line in several processes, as a launcher would; gives each one's end."""
        answers = self._asked(folder, *words, processes=processes)
        return [Outcome(**answer) for answer in answers]

    def _asked(self, folder: Path, *words: str, **asked: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(
            json.dumps({"words": words, "folder": str(folder), **asked}) + "\n"
        )
        self._process.stdin.flush()
        return json.loads(self._answer())
