"""Every bad input ends in one clear message, within limits, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from case import MEMORY, SECONDS, SECONDS_ON_THE_CLOCK, Case
from cli_parts import Invoke, listing
from programs import environment
from spoiling import spoilt_copy
from table import TABLE

CASES = [case for case in TABLE if not case.heavy]
HEAVY = [case for case in TABLE if case.heavy]
_PLACES = ("\n  at: ", "\nhint: ")


def test_names_are_unique() -> None:
    assert len({case.name for case in TABLE}) == len(TABLE) >= 357


def words(case: Case, names: dict[str, str]) -> list[str]:
    """The command line; ``names`` says what BASE, ADAPTER, BAD and HASH stand for."""
    return [filled(word, names) for word in case.command.split(" ") if word]


def filled(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(name, value)
    return text


@pytest.fixture
def names(tiny_model: Path, good_adapter: Path) -> dict[str, str]:
    manifest = json.loads((good_adapter / "manifest.json").read_text())
    return {
        "BASE": str(tiny_model),
        "ADAPTER": str(good_adapter),
        "BAD": "bad",
        "HASH": manifest["base"]["weights_sha256"][:12],
    }


def make(case: Case, folder: Path, names: dict[str, str]) -> None:
    """Makes the files of a case."""
    if case.copy_of:
        good = names["BASE" if case.copy_of == "model" else "ADAPTER"]
        spoilt_copy(Path(good), folder, case.spoil)
    else:
        case.spoil(folder)


def check(case: Case, code: int, stderr: str, names: dict[str, str]) -> None:
    """The exit code, and what stderr says from its ``error:`` on."""
    message = stderr[max(stderr.find("error: "), 0) :]  # progress comes before
    assert code == case.code, message
    if case.exact:
        assert message == filled(case.message, names)
    assert message.startswith("error: ")
    assert case.exact or case.message in message
    assert case.exact or case.plain or any(place in message for place in _PLACES), message
    assert "Traceback" not in stderr
    assert not [
        char
        for char in message
        if char != "\n" and (char < " " or "\x7f" <= char < "\xa0" or char == "\u202e")
    ]
    assert len(message) < 20_000


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, invoke: Invoke, here: Path, names: dict[str, str]) -> None:
    make(case, here, names)
    before = listing(here)
    result = invoke(*words(case, names), code=None)
    check(case, result.exit_code, result.stderr, names)
    assert result.stdout == ""
    assert listing(here) == before


def test_the_console_script_ends_the_same_way(here: Path, names: dict[str, str]) -> None:
    case = next(case for case in TABLE if case.name == "not an adapter, adapters")
    make(case, here, names)
    run = subprocess.run(
        [sys.executable, "-m", "lora_s2s", *words(case, names)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert (run.returncode, run.stderr, run.stdout) == (case.code, case.message, "")


CHILD = """
import contextlib, io, json, os, resource, signal, sys
import typer, torch, transformers
import lora_s2s.pipeline.train, lora_s2s.pipeline.evaluate, lora_s2s.pipeline.merge
from lora_s2s.cli import app
from lora_s2s.hub import DEMO_BASE
from lora_s2s.models.loading import load_base
load_base(str(DEMO_BASE), device="cpu")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
for line in sys.stdin:
    folder, *words = json.loads(line)
    os.chdir(folder)
    err = io.StringIO()
    signal.setitimer(signal.ITIMER_PROF, int(sys.argv[2]))
    signal.alarm(int(sys.argv[3]))
    with contextlib.redirect_stderr(err):
        try:
            code = typer.main.get_command(app)(words)
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            code = repr(error)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    print(json.dumps([code, err.getvalue()]), flush=True)
"""


class Child:
    """A process that has done its imports, with its memory limited; a slow command kills it."""

    def __init__(self) -> None:
        self._process = self._started()

    def answer(self, folder: Path, words: list[str]) -> str:
        """The exit code and stderr of a command as JSON, or "" where it was killed."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([str(folder), *words]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self.close()
            self._process = self._started()
        return answer

    def close(self) -> None:
        self._process.communicate()

    def _started(self) -> subprocess.Popen[str]:
        limits = (MEMORY, SECONDS, SECONDS_ON_THE_CLOCK)
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(RUST_BACKTRACE="0"),
        )


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    if not Path("/proc/self/statm").is_file():
        pytest.skip("memory is limited through Linux's /proc")
    child = Child()
    yield child
    child.close()


@pytest.mark.slow
@pytest.mark.parametrize("case", HEAVY, ids=lambda case: case.name)
def test_heavy_input(case: Case, child: Child, here: Path, names: dict[str, str]) -> None:
    make(case, here, names)
    before = listing(here)
    answer = child.answer(here, words(case, names))
    assert answer, f"more than {SECONDS} seconds of CPU, or {SECONDS_ON_THE_CLOCK} in all"
    code, stderr = json.loads(answer)
    check(case, code, stderr, names)
    assert listing(here) == before
