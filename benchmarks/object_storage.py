"""Data larger than memory from an S3 server of this machine: made up, prepared to the server, and
trained on from it, each in a process of its own whose peak memory is read at its end.

The peak is VmHWM, which counts pages of mapped files too. The base is the bundled one, so that the
data is what takes memory. Needs `lora-s2s[s3]`, `moto[s3]` and flask-cors, and disk for about seven
times the rows.

    python benchmarks/object_storage.py --gigabytes 2.5    # benchmarks/results/object-storage.json
    python benchmarks/object_storage.py --gigabytes 5 --prepared local

moto reads a whole object into memory for every range that is asked for, so that a prepared folder
of 10 GB stays on this machine; its rows come from the server.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from prepare_scale import words
from train_and_score import RESULTS, device

PORT = 5055
FILES = 8
# Runs the command line, and writes the process's peak memory at the end.
RUN = """
import atexit, re, sys
from lora_s2s.cli import main
def write_peak(path=sys.argv.pop(1)):
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    open(path, "w").write(peak)
atexit.register(write_peak)
main()
"""


def lines(size: int, seed: int) -> Iterator[bytes]:
    """Yields JSON lines of so many bytes together: sources of 120 words, targets of 30."""
    rng, known, made = np.random.default_rng(seed), np.array(words("demo"), dtype=object), 0
    while made < size:
        chosen = known[rng.zipf(1.3, (500, 150)) % len(known)]
        rows = [
            {"source": f"{' '.join(row[:120])} {made}", "target": " ".join(row[120:])}
            for row in chosen
        ]
        block = "".join(json.dumps(row) + "\n" for row in rows).encode()
        made += len(block)
        yield block


def run(work: Path, *command: str) -> dict[str, Any]:
    """Runs a command of the package; returns its seconds, peak memory and JSON."""
    peak, begun = work / "peak", time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(peak), *command, "--json"],
        cwd=work,
        stdout=subprocess.PIPE,
        check=True,
    )
    return {
        "seconds": round(time.monotonic() - begun),
        "peak_bytes": int(peak.read_text()) * 1024,
        "json": json.loads(done.stdout),
    }


def measured(work: Path, size: int, steps: int, *, local: bool) -> dict[str, Any]:
    """Makes, prepares and trains.

    Args:
        local: the prepared folder stays on this machine.
    """
    system = fsspec.filesystem("s3")
    for attempt in range(100):
        try:
            system.mkdir("bench")
            break
        except OSError:
            time.sleep(0.2 * (attempt + 1))
    for part in range(FILES):
        with system.open(f"bench/rows/{part}.jsonl", "wb", block_size=16 << 20) as file:
            for block in lines(size // FILES, part):
                file.write(block)
    out = "p" if local else "s3://bench/p"
    prepared = run(
        work,
        *("prepare", "--data", "s3://bench/rows/", "--model", "demo", "--out", out),
        *("--set", "data.validation_fraction=0.0002"),
    )
    print("prepared", {key: prepared[key] for key in ("seconds", "peak_bytes")}, flush=True)
    for folder in ("cache", "prepared"):
        shutil.rmtree(work / folder, ignore_errors=True)
    made = fsspec.filesystem("file") if local else system
    about = made.info(f"{work}/p/train.arrow" if local else "bench/p/train.arrow")
    few = {"training.max_steps": steps, "training.evaluate_every": steps, "evaluation.limit": 8}
    sets = [word for key, value in few.items() for word in ("--set", f"{key}={value}")]
    trained = run(work, "train", out, *sets)
    rows = prepared["json"]["rows"]
    return {
        "rows": rows["kept"],
        "bytes": sum(system.info(name)["size"] for name in system.ls("bench/rows")),
        "train_arrow_bytes": about["size"],
        "prepared": "local" if local else "s3",
        "prepare": {key: prepared[key] for key in ("seconds", "peak_bytes")},
        "train": {
            **{key: trained[key] for key in ("seconds", "peak_bytes")},
            **{key: trained["json"][key] for key in ("steps", "tokens", "train_loss")},
        },
    }


def main() -> None:
    """Writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.5)
    parser.add_argument("--prepared", choices=("s3", "local"), default="s3")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--work", type=Path, help="folder for all files; temporary by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        os.environ |= {
            "TMPDIR": folder,
            "LORA_S2S_CACHE": f"{folder}/cache",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(PORT)]
        with (work / "server.log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            size, local = int(arguments.gigabytes * 1e9), arguments.prepared == "local"
            result = measured(work, size, arguments.steps, local=local)
        finally:
            server.terminate()
            server.wait(30)
    result = {"device": device(), **result}
    name = "object-storage.json" if not local else "object-storage-local.json"
    (RESULTS / name).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
