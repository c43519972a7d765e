"""Real disks too small for what is written, and read-only ones: every verb on each, whatever
library does the writing.

    unshare -rm python tests/faults/small_disks.py --sizes 20

Mounts file systems in memory, so it runs where that is allowed: as root, or in a user namespace of
its own. Prints what happened as one JSON object; ends with an AssertionError where something is not
as it should be.
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
    VERBS,
    check_continued,
    check_failure,
    make_reference,
    names,
    undisturbed,
)
from preloaded import Preloaded

KIB = 1024


@contextmanager
def disk(folder: Path, content: Path) -> Iterator[None]:
    """Mounts a large file system with a folder's content."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1G", "small", str(folder)], check=True)
    try:
        shutil.copytree(content, folder, dirs_exist_ok=True)
        yield
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


def main() -> None:
    """Runs every verb on disks of ever larger sizes, and goes on each time on one that is large
    enough.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, default=20, help="for each verb")
    count = parser.parse_args().sizes
    told: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name, Preloaded() as preloaded:
        where = Path(name)
        reference, mounted = make_reference(where / "train", preloaded), where / "disk"
        verbs = {
            verb: undisturbed(where / verb, reference.whole, VERBS[verb], preloaded)
            for verb in VERBS
        }
        for verb, run in {"train": reference, **verbs}.items():
            with disk(mounted, run.start):
                least = used(mounted)
                assert preloaded.run(mounted, *run.words).code == 0
                most = used(mounted)
            told[verb] = Counter()
            # A file that takes another's place stands beside it for a moment.
            for size in range(
                least, most + (most - least) // 2, max((most - least) // count, 4 * KIB)
            ):
                with disk(mounted, run.start):
                    remount(mounted, f"size={size}")
                    outcome = preloaded.run(mounted, *run.words)
                    remount(mounted, "size=1G")
                    case = f"{verb} on a disk of {size:,} bytes: {outcome}"
                    check_failure(outcome, "full", case)
                    check_continued(mounted, run, outcome.code, case, preloaded)
                    told[verb][str(outcome.code)] += 1
            with disk(mounted, run.start):
                remount(mounted, "ro")
                outcome = preloaded.run(mounted, *run.words)
                assert outcome.code == 2, f"{verb} on a read-only disk: {outcome}"
                assert outcome.stderr.count("error: cannot write into") == 1, (
                    f"{verb} on a read-only disk: {outcome}"
                )
                assert outcome.seconds < 2, "it was not told before the work"
                assert names(mounted) == run.before
                told[verb]["read-only: 2"] += 1
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
