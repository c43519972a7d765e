"""Predictions in several processes beside those in one; a process is killed at a random moment, and
the run is continued, until enough have been killed.

python benchmarks/killed_ranks.py --rows 10000 --kills 20      some 20 minutes on two cores
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WORDS = "a table for two three four on monday friday at seven eight pm in rome thai".split()
SAID = r"error: process \d of \d was killed by SIGKILL"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chosen = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        with open("in.jsonl", "w") as stream:
            for number in range(asked.rows):
                text = " ".join(chosen.choices(WORDS, k=chosen.randint(1, 12)))
                stream.write(json.dumps({"id": number, "source": text}) + "\n")
        base = Run(asked.model, "one.jsonl")
        check(base.wait() == 0, base.stderr)
        expected, seconds = Path("one.jsonl").read_bytes(), {1: base.seconds}
        for count in asked.processes:
            run = Run(asked.model, f"{count}.jsonl", "--processes", str(count))
            check(run.wait() == 0, run.stderr)
            check(Path(f"{count}.jsonl").read_bytes() == expected, f"{count}: another file")
            seconds[count] = run.seconds
            print(f"{count} processes: the same file, {run.seconds:.0f} s", file=sys.stderr)
        result = killed(asked, chosen, expected, most=max(seconds.values()))
    print(json.dumps({"rows": asked.rows, "seconds": seconds, **result}))


class Run:
    """A command that answers the rows."""

    def __init__(self, model: str, output: str, *words: str) -> None:
        given = ("--input", "in.jsonl", "--output", output, "--n-best", "1")
        command = ["-m", "lora_s2s", "predict", model, *given, *words]
        settings = ["--set", "evaluation.max_new_tokens=6"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._begun, self.stderr = time.monotonic(), ""
        self._process = subprocess.Popen(
            [sys.executable, *command, *settings],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ranks(self) -> list[int]:
        """The ids of its processes, by rank."""
        folder = Path(f"/proc/{self._process.pid}/task/{self._process.pid}")
        try:
            children = (folder / "children").read_text().split()
        except OSError:
            return []
        return [int(one) for one in children if b"predict" in command_of(int(one))]

    def wait(self) -> int:
        """Waits for its end; returns its exit code."""
        _, self.stderr = self._process.communicate(timeout=3600)
        self.seconds = time.monotonic() - self._begun
        return self._process.returncode


def check(right: bool, problem: str) -> None:
    if not right:
        raise SystemExit(problem)


def command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def killed(
    asked: argparse.Namespace, chosen: random.Random, expected: bytes, *, most: float
) -> dict[str, Any]:
    """Kills a rank of each run until enough were; compares each file that is finished."""
    kills, finished, slowest, continued = 0, 0, 0.0, 0
    while kills < asked.kills:
        count = chosen.choice(asked.processes)
        run = Run(asked.model, "kill.jsonl", "--processes", str(count), "--resume")
        time.sleep(chosen.uniform(0, most))
        ranks = run.ranks()
        moment = time.monotonic()
        if ranks:
            os.kill(chosen.choice(ranks), signal.SIGKILL)
        code = run.wait()
        continued += "continuing: " in run.stderr
        if code == 0:
            check(Path("kill.jsonl").read_bytes() == expected, "another file")
            Path("kill.jsonl").unlink()
            finished += 1
            continue
        kills += 1
        check(code == 128 + signal.SIGKILL, run.stderr)
        errors = [line for line in run.stderr.splitlines() if "rror" in line]
        check(len(errors) == 1 and re.fullmatch(SAID, errors[0]) is not None, run.stderr)
        print(f"{kills} killed, {continued} continued, {finished} finished", file=sys.stderr)
        slowest = max(slowest, time.monotonic() - moment)
    last = Run(asked.model, "kill.jsonl", "--resume")
    check(last.wait() == 0, last.stderr)
    check(Path("kill.jsonl").read_bytes() == expected, "another file")
    ended = {"kills": kills, "continued": continued, "finished": finished + 1}
    return {**ended, "seconds_to_end": round(slowest, 1)}


if __name__ == "__main__":
    main()
