"""Killed anywhere, stopped by signals, its checkpoints damaged: a run that is continued ends as if
nothing had been.
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import (
    SHORT,
    TRAIN,
    VERBS,
    Reference,
    check_same,
    check_whole,
    kill_and_continue,
    names,
)
from preloaded import Preloaded


def moments(seed: int, reference: Reference, times: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [rng.uniform(0.05, reference.seconds) for _ in range(times)]


@pytest.mark.slow
def test_killed_at_random_moments(
    tmp_path: Path, reference: Reference, preloaded: Preloaded
) -> None:
    killed = [
        kill_and_continue(tmp_path / str(n), moments(n, reference), reference, preloaded)[0]
        for n in range(2)
    ]
    thrice = kill_and_continue(tmp_path / "thrice", moments(7, reference, 3), reference, preloaded)
    assert -9 in [*killed, *thrice]


@pytest.mark.long
def test_killed_twenty_times(tmp_path: Path, reference: Reference, preloaded: Preloaded) -> None:
    def half(part: int) -> int:
        with Preloaded() as own:
            runs = range(part, 20, 2)
            return sum(
                kill_and_continue(tmp_path / str(n), moments(100 + n, reference), reference, own)[0]
                == -9
                for n in runs
            )

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(half, range(2))) > 12


def test_killed_when_all_is_done_but_the_lock(
    tmp_path: Path, trained: Path, preloaded: Preloaded
) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "adapters" / ".it.running.lock").write_text("process 1 on another")
    outcome = preloaded.run(folder, *TRAIN, "--resume", "--json")
    assert (outcome.code, '"steps": 12' in outcome.stdout) == (0, True)
    assert names(folder) == names(trained)


SIXTH_STEP = "adapters/it.running/checkpoints/step-000006"


def started(
    folder: Path, reference: Reference, preloaded: Preloaded, number: int, **asked: object
) -> str:
    """Starts a run, sends it a signal past its first steps, and returns what it said."""
    shutil.copytree(reference.start, folder)
    outcome = preloaded.run(folder, *TRAIN, kill_when=SIXTH_STEP, signal=number, **asked)
    assert outcome.code == (130 if number == signal.SIGINT else 143), outcome.stderr
    assert "error: " not in outcome.stderr  # as it was asked to
    return outcome.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_signal_saves_and_says_how_to_go_on(
    tmp_path: Path, reference: Reference, preloaded: Preloaded, name: str
) -> None:
    said = started(tmp_path / "run", reference, preloaded, getattr(signal, name))
    assert f"stopped by {name} after step " in said
    command = f"lora-s2s {shlex.join(TRAIN)} --resume"
    assert f"hint: continue: {command}; or end the run with what it has: {command}-anyway" in said
    assert check_whole(tmp_path / "run") > 0
    assert preloaded.run(tmp_path / "run", *TRAIN, "--resume").code == 0
    check_same(tmp_path / "run", reference)
    again = preloaded.run(tmp_path / "run", *TRAIN, "--resume")
    assert (again.code, "is done already" in again.stderr) == (0, True)


def test_a_run_outlives_whoever_watched_it(
    tmp_path: Path, reference: Reference, preloaded: Preloaded
) -> None:
    folder = shutil.copytree(reference.start, tmp_path / "run")
    assert preloaded.run(folder, *TRAIN, unread=True).code == 0
    check_same(folder, reference)


def test_a_terminal_that_closes_saves_a_checkpoint_though_nothing_can_be_said(
    tmp_path: Path, reference: Reference, preloaded: Preloaded
) -> None:
    folder = shutil.copytree(reference.start, tmp_path / "run")
    outcome = preloaded.run(folder, *TRAIN, kill_when=SIXTH_STEP, signal=signal.SIGHUP, unread=True)
    assert outcome.code == 143
    assert check_whole(folder) > 0
    assert preloaded.run(folder, *TRAIN, "--resume").code == 0
    check_same(folder, reference)


def test_a_failure_takes_no_step_away(
    tmp_path: Path, reference: Reference, preloaded: Preloaded
) -> None:
    """Without any checkpoint yet, and by what no signal announces."""
    folder = shutil.copytree(reference.start, tmp_path / "run")
    words = (*TRAIN, "--set", "training.save_every=500", "--set", "training.evaluate_every=0")
    fault = next(
        number
        for number, line in enumerate(reference.operations, 1)
        if " write " in line and "metrics.jsonl" in line
    )
    outcome = preloaded.run(folder, *words, fault=[fault + 4, "eio"])
    running = folder / "adapters" / "it.running"
    assert outcome.code == 1, outcome.stderr
    assert (running / "metrics.jsonl").stat().st_size > 0
    refused = preloaded.run(folder, *TRAIN)
    assert "it.running holds an unfinished run" in refused.stderr
    assert preloaded.run(folder, *TRAIN, "--overwrite").code == 0
    check_same(folder, reference)


def test_overwrite_takes_a_link_away_and_not_what_it_leads_to(
    tmp_path: Path, reference: Reference, preloaded: Preloaded
) -> None:
    folder = shutil.copytree(reference.start, tmp_path / "run")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "mine.txt").write_text("mine")
    (folder / "adapters").mkdir()
    running = folder / "adapters" / "it.running"
    running.symlink_to("../elsewhere")
    outcome = preloaded.run(folder, *SHORT, "--overwrite")
    assert outcome.code == 0, outcome.stderr
    assert (folder / "elsewhere" / "mine.txt").read_text() == "mine"
    assert not (folder / "adapters" / "it").is_symlink()
    running.symlink_to("gone")
    outcome = preloaded.run(folder, *SHORT, "--overwrite")
    assert outcome.code == 2
    assert "it.running is a link to nothing" in outcome.stderr


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "halved": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "a bit flipped": flip,
}


@pytest.mark.long
def test_every_damage_to_a_checkpoint_is_told(
    tmp_path: Path, reference: Reference, preloaded: Preloaded
) -> None:
    started(tmp_path / "stopped", reference, preloaded, signal.SIGTERM)
    newest = sorted(
        (tmp_path / "stopped" / "adapters" / "it.running" / "checkpoints").glob("step-*")
    )[-1]
    for file in sorted(newest.iterdir()):
        for damage, harm in DAMAGE.items():
            run = shutil.copytree(tmp_path / "stopped", tmp_path / f"{file.stem} {damage}")
            harm(run / file.relative_to(tmp_path / "stopped"))
            outcome = preloaded.run(run, *TRAIN, "--resume")
            assert outcome.code == 0, (file, damage, outcome.stderr)
            assert f"skipping the damaged checkpoint {newest.name}" in outcome.stderr, (
                file,
                damage,
            )
            assert file.name in outcome.stderr, (file, damage)
            check_same(run, reference)


def test_all_checkpoints_damaged_is_a_clear_stop(
    tmp_path: Path, reference: Reference, preloaded: Preloaded
) -> None:
    started(tmp_path / "run", reference, preloaded, signal.SIGTERM)
    for path in (tmp_path / "run").rglob("adapter.safetensors"):
        flip(path)
    outcome = preloaded.run(tmp_path / "run", *TRAIN, "--resume")
    assert outcome.code == 3
    assert "every checkpoint" in outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("verb", sorted(VERBS))
def test_other_verbs_end_at_once_and_leave_nothing(
    trained: Path, preloaded: Preloaded, verb: str, number: int
) -> None:
    before = names(trained)
    outcome = preloaded.run(trained, *VERBS[verb], kill_after=0.08, signal=number)
    assert outcome.code in (128 + number, -number), outcome.stderr  # the latter: it had not begun
    assert outcome.code < 0 or "; no incomplete files are left" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.seconds < 10
    assert names(trained) == before


def test_a_deadline_is_met_with_exit_code_1(
    tmp_path: Path, reference: Reference, preloaded: Preloaded
) -> None:
    folder = shutil.copytree(reference.start, tmp_path / "run")
    words = (*TRAIN, "--set", "training.max_steps=2000", "--json")
    first = preloaded.run(folder, *words, "--stop-after", "1s", "--overwrite")
    assert first.code == 1, first.stderr
    assert '"stopped": "deadline"' in first.stdout
    assert '"adapter": null' in first.stdout
    assert "\n--stop-after 1s: stopped after step " in first.stderr
    command = f"lora-s2s {shlex.join(words)} --stop-after 1s --resume"
    assert f"hint: continue: {command}\n" in first.stderr
    second = preloaded.run(folder, *shlex.split(command)[1:])
    assert "resuming after step" in second.stderr
    assert preloaded.run(folder, *words, "--stop-after", "1 hour").code == 2
