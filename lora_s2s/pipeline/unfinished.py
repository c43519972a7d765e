"""Answers kept beside an output file while it is not complete, so that a killed run continues."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.errors import UsageError, again
from lora_s2s.files import jsonl_line, open_regular, sha256_json
from lora_s2s.outputs import target_of
from lora_s2s.pipeline.predictions import Answer

_SUFFIX = ".part"


class Unfinished:
    """``OUTPUT.part``: a line that says what is answered with what, then a line an answer.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "out.jsonl"
    >>> kept = Unfinished(path, {"model": "demo"}, resume=False)
    >>> kept.add(["one", "two"])
    >>> list(Unfinished(path, {"model": "demo"}, resume=True))
    ['one', 'two']
    """

    def __init__(
        self,
        output: Path,
        identity: Mapping[str, object],
        *,
        resume: bool,
        at_once: int = 1,
        total: int = 0,
    ) -> None:
        """Opens the answers of an earlier run, or begins.

        Args:
            identity: what the answers depend on.
            resume: continue; else an earlier run's answers are an error, since they took long.
            at_once: how many are added together; of a part of them, which a kill can leave, none
                counts, unless all ``total`` are there.

        Raises:
            UsageError: there are answers of an earlier run and ``resume`` is false, or they were
                made of other inputs, with another model or other settings.
        """
        target = target_of(output)
        self.path = target.with_name(target.name + _SUFFIX)
        self.count = 0
        self._at_once, self._total = at_once, total
        self._identity = {key: sha256_json(value) for key, value in identity.items()}
        if self.path.exists():
            self._continue(resume=resume)

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(self, _: object, error: object, __: object) -> None:
        if error is not None and self.count:
            say(f"{self.path} holds {self.count:,} of {self._total:,} answers; continue: {again()}")

    def __iter__(self) -> Iterator[Answer]:
        if not self.count:
            return
        with open_regular(self.path) as stream:
            next(stream)
            for line in stream:
                yield json.loads(line)

    def add(self, answers: Sequence[Answer]) -> None:
        """Appends answers; they survive whatever happens next."""
        with open(self.path, "ab" if self.count else "wb") as stream:
            if not self.count:
                stream.write(jsonl_line(self._identity).encode())
            stream.writelines(f"{json.dumps(answer)}\n".encode() for answer in answers)
            stream.flush()
            os.fsync(stream.fileno())
        self.count += len(answers)

    def remove(self) -> None:
        """Removes the file, once the output is complete."""
        self.path.unlink(missing_ok=True)

    def _continue(self, *, resume: bool) -> None:
        with open_regular(self.path) as stream:
            whole = [len(line) for line in stream if line.endswith(b"\n")]
        count = max(len(whole) - 1, 0)
        if count != self._total:
            count -= count % self._at_once
        if not resume:
            raise UsageError(
                f"{self.path} holds {count:,} answers of an earlier run that did not finish",
                hint=f"remove {self.path} to begin again; continue: {again()}",
            )
        if not count:
            return
        with open_regular(self.path) as stream:
            said = _object(stream.readline())
        changed = [name for name, value in self._identity.items() if said.get(name) != value]
        if changed:
            raise UsageError(
                f"{self.path} was made with another {' and '.join(changed)}",
                hint=f"the same command as before continues it; remove {self.path} to begin again",
            )
        os.truncate(self.path, sum(whole[: count + 1]))  # what was cut off
        self.count = count


def _object(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}
