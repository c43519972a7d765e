"""Operations that change files, failed in turn: nothing whole is replaced by what is not, and it is
told.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import SHORT, VERBS, Reference, fail_and_continue
from layer import KINDS, VARIABLE
from preloaded import Preloaded
from programs import ROOT, environment

HERE = Path(__file__).parent


@pytest.mark.slow
def test_some_file_operations_fail(
    tmp_path: Path, short_reference: Reference, preloaded: Preloaded
) -> None:
    operations = len(short_reference.operations)
    assert operations > 100
    for turn, number in enumerate(range(11, operations, 53)):
        fail_and_continue(
            tmp_path / str(number), number, KINDS[turn % 4], short_reference, preloaded
        )


@pytest.mark.long
def test_every_fourth_file_operation_fails(
    tmp_path: Path, short_reference: Reference, preloaded: Preloaded
) -> None:
    operations = len(short_reference.operations)

    def half(part: int) -> list[int]:
        with Preloaded() as own:
            return [
                fail_and_continue(tmp_path / str(n), n, KINDS[(n // 4) % 4], short_reference, own)
                for n in range(1 + 4 * part, operations + 1, 8)
            ]

    with ThreadPoolExecutor(2) as pool:
        codes = [code for part in pool.map(half, range(2)) for code in part]
    assert len(codes) >= operations // 4
    assert sum(code != 0 for code in codes) > 0.75 * len(codes)


@pytest.mark.long  # what it fails in a fork, it fails here: this is for work by hand
def test_the_layer_works_in_a_process_of_its_own(
    tmp_path: Path, short_reference: Reference
) -> None:
    folder = shutil.copytree(short_reference.start, tmp_path / "run")
    places = os.pathsep.join([str(HERE / "site"), str(HERE), str(ROOT)])
    ended = subprocess.run(
        [sys.executable, "-m", "lora_s2s", *SHORT],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": places, VARIABLE: f"{folder}|40|enospc|"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 4, ended.stderr
    assert "error: " in ended.stderr
    assert "free some space" in ended.stderr


@pytest.mark.long
def test_disks_that_are_too_small_and_read_only_ones() -> None:
    alone = ["unshare", "-rm"]
    trial = [*alone, "mount", "-t", "tmpfs", "trial", "/mnt"]
    if shutil.which("unshare") is None or subprocess.run(trial, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    command = [*alone, sys.executable, str(HERE / "small_disks.py"), "--sizes", "8"]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert set(told) == {"train", *VERBS}
    assert all(codes["4"] and codes["read-only: 2"] for codes in told.values())
