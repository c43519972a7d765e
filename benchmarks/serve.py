"""The server under load: throughput, latency, memory, each answer checked against its question.

Starts ``lora-s2s serve MODEL`` and keeps it busy from a number of connections; every second request
is streamed. Known answers are those of ``predict`` on the same folder. Then one connection alone,
and answering one by one without a server, for comparison.

    OMP_NUM_THREADS=1 python benchmarks/serve.py                                    the demo adapter
    OMP_NUM_THREADS=1 python benchmarks/serve.py --model demo-int8 --name ct2-int8  an exported one
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import httpx2

import lora_s2s

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ADAPTER = ROOT / "adapters" / "demo"
_PACKAGES = ("torch", "transformers", "peft", "ctranslate2", "fastapi", "uvicorn")
_SAMPLE_SECONDS = 2.0


@dataclass
class Load:
    """What one phase found."""

    latencies: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Returns what is kept of it."""
        ordered = sorted(self.latencies)
        return {
            "answers": len(ordered),
            "seconds": round(self.seconds, 2),
            "answers_per_second": round(len(ordered) / self.seconds, 2),
            "p50_ms": round(1000 * statistics.median(ordered), 1),
            "p95_ms": round(1000 * ordered[int(0.95 * (len(ordered) - 1))], 1),
            "wrong_answers": len(self.wrong),
            "errors": self.errors,
        }


async def _ask(client: httpx2.AsyncClient, question: str, *, stream: bool) -> str:
    body = {"prompt": question, "stream": stream}
    response = await client.post("/completions", json=body)
    response.raise_for_status()
    if not stream:
        answer: str = response.json()["choices"][0]["text"]
        return answer
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    if events.pop() != "[DONE]":
        raise ValueError("a stream without its end")
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)


async def _loaded(address: str, answers: dict[str, str], connections: int, seconds: float) -> Load:
    load, questions, numbers = Load(), list(answers), count()
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx2.AsyncClient(base_url=address, limits=limits, timeout=120) as client:
        start = time.monotonic()

        async def connection() -> None:
            while time.monotonic() - start < seconds:
                number = next(numbers)
                question, began = questions[number % len(questions)], time.monotonic()
                try:
                    answer = await _ask(client, question, stream=number % 2 == 1)
                except (httpx2.HTTPError, ValueError) as error:
                    name = f"{type(error).__name__}: {error}"[:80]
                    load.errors[name] = load.errors.get(name, 0) + 1
                    continue
                load.latencies.append(time.monotonic() - began)
                if answer != answers[question]:
                    load.wrong.append(question)

        await asyncio.gather(*(connection() for _ in range(connections)))
        load.seconds = time.monotonic() - start
    return load


def _resident_mib(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return round(int(found[1]) / 1024, 1) if found else 0.0


class Memory(threading.Thread):
    """The server's memory every few seconds, until it is stopped."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self._process, self._end, self.mib = process, threading.Event(), list[float]()

    def run(self) -> None:
        """Takes samples."""
        while not self._end.wait(_SAMPLE_SECONDS):
            self.mib.append(_resident_mib(self._process))

    def stop(self) -> list[float]:
        """Returns the samples."""
        self._end.set()
        self.join()
        return self.mib


def _started(model: str) -> tuple[subprocess.Popen[str], str]:
    words = [sys.executable, "-m", "lora_s2s", "serve", model, "--port", "0"]
    server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    if server.stderr is None:
        raise RuntimeError("no stderr")
    line = next((line for line in server.stderr if line.startswith("serving ")), "")
    if not line:
        raise RuntimeError(f"the server did not start: {server.wait()}")
    threading.Thread(target=server.stderr.read, daemon=True).start()
    return server, line.split(" on ")[1].partition(";")[0]


def _one_by_one(model: Any, questions: list[str], seconds: float) -> dict[str, Any]:
    load, start = Load(), time.monotonic()
    for number in count():
        began = time.monotonic()
        model(questions[number % len(questions)])
        load.latencies.append(time.monotonic() - began)
        if time.monotonic() - start > seconds:
            break
    load.seconds = time.monotonic() - start
    figures = load.figures()
    return {key: figures[key] for key in ("answers", "answers_per_second", "p50_ms", "p95_ms")}


def measured(model: str, connections: int, seconds: float) -> dict[str, Any]:
    """Returns the figures of one model."""
    kept = ADAPTER / "evaluations" / "demo-test" / "predictions.jsonl"
    rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    questions = [row["source"] for row in rows]
    loaded = lora_s2s.load(model, progress=False)
    answers = dict(zip(questions, loaded(questions), strict=True))
    alone = _one_by_one(loaded, questions, seconds / 4)
    exact = [answers[row["source"]] in row["references"] for row in rows]
    server, address = _started(model)
    try:
        asyncio.run(_loaded(address, answers, connections, seconds / 6))
        start, memory = _resident_mib(server.pid), Memory(server.pid)
        memory.start()
        load = asyncio.run(_loaded(address, answers, connections, seconds))
        samples, end = memory.stop(), _resident_mib(server.pid)
        one = asyncio.run(_loaded(address, answers, 1, seconds / 4))
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    return {
        "model": Path(model).name,
        "connections": connections,
        "exact_match": round(100 * sum(exact) / len(exact), 1),
        "under_load": load.figures(),
        "memory_MiB": {"start": start, "end": end, "most": max([*samples, start, end])},
        "one_connection": one.figures(),
        "one_by_one_without_a_server": alone,
        "exit_code": code,
    }


def main() -> None:
    """Measures one model and keeps the figures beside those of others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(ADAPTER))
    parser.add_argument("--name", default="adapter")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    path = options.out / "serve.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    figures = measured(options.model, options.connections, options.seconds)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    machine = {"cores": os.cpu_count(), "OMP_NUM_THREADS": threads, "load": os.getloadavg()[0]}
    versions = {name: version(name) for name in _PACKAGES}
    about = {**machine, "python": platform.python_version(), "versions": versions}
    found[options.name] = {**figures, "machine": about}
    text = json.dumps(found, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
