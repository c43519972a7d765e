"""Real disks too small for what is written, and read-only ones: every verb on each, whatever library does the writing.

    unshare -rm python tests/faults/small_disks.py --sizes 20

Mounts file systems in memory, so it runs where that is allowed: as root, or in a user namespace of its own. Prints what
happened as one JSON object; ends with an AssertionError where something is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import (
    TRAIN,
    VERBS,
    Outcome,
    Preloaded,
    check_left,
    check_same,
    check_whole,
    make_reference,
    names,
    undisturbed,
)

KIB = 1024


@contextmanager
def disk(folder: Path, content: Path) -> Iterator[list[str]]:
    """Mounts a large file system with a folder's content, and yields the names in it."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1G", "small", str(folder)], check=True)
    try:
        shutil.copytree(content, folder, dirs_exist_ok=True)
        yield names(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def remount(folder: Path, options: str) -> None:
    """Changes a mounted file system's options."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def used(folder: Path) -> int:
    """Returns the bytes taken on a mounted file system."""
    about = os.statvfs(folder)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


def check_told(outcome: Outcome, code: int, words: str, case: str) -> None:
    """One message, with its exit code."""
    assert outcome.code == code, f"{case}: {outcome}"
    assert words in outcome.stderr, f"{case}: {outcome.stderr}"
    assert "error: " in outcome.stderr, f"{case}: {outcome.stderr}"
    assert not {"Traceback", "unforeseen"} & {*outcome.stderr.replace(":", " ").split()}, f"{case}: {outcome.stderr}"


def main() -> None:
    """Runs every verb on disks of ever larger sizes, and goes on each time on one that is large enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, default=20, help="for each verb")
    count = parser.parse_args().sizes
    told: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name, Preloaded() as preloaded:
        where = Path(name)
        reference = make_reference(where / "reference", preloaded)
        start, whole = reference.start, where / "reference" / "whole"
        mounted = where / "disk"
        for verb, words in {"train": TRAIN, **VERBS}.items():
            begins = start if verb == "train" else whole
            run = undisturbed(where / verb, begins, words, preloaded)
            with disk(mounted, begins):
                least = used(mounted)
                assert preloaded.run(mounted, *words).code == 0
                most = used(mounted)
            told[verb] = Counter()
            # A file that takes another's place stands beside it for a moment.
            for size in range(least, most + (most - least) // 2, max((most - least) // count, 4 * KIB)):
                case = f"{verb} on a disk of {size:,} bytes"
                with disk(mounted, begins) as before:
                    remount(mounted, f"size={size}")
                    outcome = preloaded.run(mounted, *words)
                    told[verb][str(outcome.code)] += 1
                    if outcome.code:
                        check_told(outcome, 4, "disk", case)
                    if outcome.code and verb != "train":
                        check_left(mounted, run, case)
                    check_whole(mounted)
                    remount(mounted, "size=1G")
                    if verb == "train":
                        again = preloaded.run(mounted, *words, "--resume")
                        assert again.code == 0, f"{case}: {again.stderr}"
                        check_same(mounted, reference)
                    elif outcome.code:
                        assert preloaded.run(mounted, *words).code == 0, case
                        assert names(mounted) == run.after, case
            with disk(mounted, begins) as before:
                remount(mounted, "ro")
                outcome = preloaded.run(mounted, *words)
                check_told(outcome, 2, "cannot write into", f"{verb} on a read-only disk")
                assert outcome.seconds < 2, "it was not told before the work"
                assert names(mounted) == before
                told[verb]["read-only: 2"] += 1
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
