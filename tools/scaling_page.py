"""Writes docs/SCALING.md and benchmarks/results/scaling-on-paper.json: what a step sends, and the
efficiency that follows for up to 64 GPUs, from the sizes of Flan-T5, two measured steps and
assumptions about networks. Nothing is run.

python tools/scaling_page.py            write the page and the result
python tools/scaling_page.py --check    say whether the committed page is theirs
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pages import table, write_or_check

from lora_s2s.models.known_bases import known_settings

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "SCALING.md"
RESULT = RESULTS / "scaling-on-paper.json"
SIZES = ("small", "base", "large", "xl", "xxl")
METHODS = ("LoRA, q and v", "LoRA, all-linear", "full")
RANK, TOKENS_A_STEP, GPUS_A_MACHINE = 16, 16_384, 8
BYTES = 4  # gradients are float32, whatever the base's dtype
MESSAGES = 4  # a step: token counts, gradients, loss, signals


@dataclass(frozen=True)
class Link:
    """A network between GPUs, assumed: what one GPU sends and receives at a time."""

    name: str
    bytes_a_second: float
    latency: float


@dataclass(frozen=True)
class Case:
    """So many GPUs and the slowest link of their ring."""

    gpus: int
    link: Link


NVLINK = Link("NVLink", 300e9, 5e-6)
PCIE = Link("PCIe 4", 20e9, 10e-6)
FAST = Link("100 GbE", 10e9, 20e-6)
SLOW = Link("10 GbE", 1.1e9, 50e-6)
CASES = (
    Case(8, NVLINK),
    Case(2, PCIE),
    Case(8, PCIE),
    Case(16, FAST),
    Case(64, FAST),
    Case(16, SLOW),
    Case(64, SLOW),
)
# Half of what their data sheets say of 16-bit products.
GPUS = {"H100": 495e12, "RTX 4090": 82e12}


def parameters(size: str, method: str) -> int:
    """Weights that train, whose gradients are sent."""
    sizes = _sizes(size)
    width, inner = sizes["d_model"], sizes["num_heads"] * sizes["d_kv"]
    hidden, layers = sizes["d_ff"], sizes["num_layers"]
    if method == METHODS[0]:
        return 3 * layers * 2 * RANK * (width + inner)
    if method == METHODS[1]:
        return layers * RANK * (3 * 4 * (width + inner) + 2 * 3 * (width + hidden))
    blocks = layers * (3 * 4 * width * inner + 2 * 3 * width * hidden + 5 * width)
    positions = 2 * 32 * sizes["num_heads"]
    return 2 * sizes["vocab_size"] * width + blocks + 2 * width + positions


def measured() -> dict[str, dict[str, float]]:
    """Steps of the runs in benchmarks/results: seconds, tokens, and operations a token."""
    found = {}
    for size in SIZES[:2]:
        path = RESULTS / f"throughput-cpu-{size}-float32-none-lognormal.json"
        side = json.loads(path.read_text(encoding="utf-8"))["sides"]["ours"]
        found[size] = {
            "seconds_a_step": round(side["seconds"] / side["steps"], 3),
            "tokens_a_step": round(side["real_tokens"] / side["steps"], 1),
            "gflop_a_token": round(side["needed_gflop"] / side["real_tokens"], 4),
        }
    return found


def flop_a_token(size: str, method: str, steps: Mapping[str, Mapping[str, float]]) -> float:
    """Operations of forward and backward a token: measured for small and base, for larger ones as
    base's, by the weights of their blocks; half as much again if all weights train.
    """
    if size in steps:
        flop = steps[size]["gflop_a_token"] * 1e9
    else:
        flop = steps["base"]["gflop_a_token"] * 1e9 * _blocks(size) / _blocks("base")
    return flop * (1.5 if method == "full" else 1.0)


def communication(size: int, case: Case) -> float:
    """Seconds that a step waits for a ring all-reduce of ``size`` bytes: each GPU sends and
    receives 2 (N − 1) / N of them, in 2 (N − 1) messages; the small sums of a step cost latency
    alone.
    """
    rounds = 2 * (case.gpus - 1)
    sent = rounds / case.gpus * size
    return sent / case.link.bytes_a_second + MESSAGES * rounds * case.link.latency


def efficiency(step: float, size: int, case: Case) -> float:
    """The share of a step that computes, with the same tokens for each GPU and nothing
    overlapped.
    """
    return step / (step + communication(size, case))


def computed() -> dict[str, Any]:
    """All figures of the page."""
    steps = measured()
    rows = []
    for size in SIZES:
        for method in METHODS:
            trained = parameters(size, method)
            flop = flop_a_token(size, method, steps) * TOKENS_A_STEP
            seconds = {gpu: flop / speed for gpu, speed in GPUS.items()}
            sent = BYTES * trained
            rows.append(
                {
                    "size": size,
                    "method": method,
                    "parameters": trained,
                    "bytes_a_step": sent,
                    "seconds_a_step": {gpu: round(one, 5) for gpu, one in seconds.items()},
                    "efficiency": {
                        gpu: [round(efficiency(one, sent, case), 4) for case in CASES]
                        for gpu, one in seconds.items()
                    },
                }
            )
    assumed = {
        "tokens_a_step_of_each_gpu": TOKENS_A_STEP,
        "flop_a_second": GPUS,
        "cases": [{"gpus": case.gpus, **vars(case.link)} for case in CASES],
    }
    return {
        "command": "python tools/scaling_page.py",
        "measured": steps,
        "assumed": assumed,
        "rows": rows,
    }


def render(result: Mapping[str, Any]) -> str:
    """Returns the page."""
    rows = result["rows"]
    heads = [f"{case.gpus} × {case.link.name}" for case in CASES]
    sent = [["Flan-T5", *METHODS]]
    for size in SIZES:
        of_size = [row for row in rows if row["size"] == size]
        sent.append([size, *(_sized(row["bytes_a_step"]) for row in of_size)])
    parts = [INTRO, _measured_table(result["measured"]), SENT, table(sent), FORMULA, _links()]
    for gpu in GPUS:
        lines = [["Flan-T5", "method", "ms a step", *heads]]
        for row in rows:
            shares = [f"{100 * one:.0f} %" for one in row["efficiency"][gpu]]
            milliseconds = f"{1000 * row['seconds_a_step'][gpu]:,.1f}"
            lines.append([row["size"], row["method"], milliseconds, *shares])
        parts.append(f"### {gpu}, {GPUS[gpu] / 1e12:.0f} TFLOP/s\n\n{table(lines)}")
    return "\n".join([*parts, READING])


def _sizes(size: str) -> dict[str, int]:
    """The whole numbers of a size's config."""
    settings = known_settings(f"google/flan-t5-{size}") or {}
    return {key: value for key, value in settings.items() if isinstance(value, int)}


def _blocks(size: str) -> int:
    sizes = _sizes(size)
    return parameters(size, "full") - 2 * sizes["vocab_size"] * sizes["d_model"]


def _sized(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _measured_table(steps: Mapping[str, Mapping[str, float]]) -> str:
    lines = [["Flan-T5", "seconds a step", "tokens a step", "GFLOP a token"]]
    for size, step in steps.items():
        values = (step[key] for key in ("seconds_a_step", "tokens_a_step", "gflop_a_token"))
        lines.append(
            [size, *(f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in values)]
        )
    return table(lines)


def _links() -> str:
    lines = [["link", "bytes/s of one GPU", "latency of a message"]]
    for link in (NVLINK, PCIE, FAST, SLOW):
        speed = f"{link.bytes_a_second / 1e9:,.1f} GB/s"
        lines.append([link.name, speed, f"{link.latency * 1e6:.0f} µs"])
    return table(lines)


INTRO = """# Scaling on paper

Generated by `tools/scaling_page.py`; do not edit. **No step of this package has run on several GPUs**: this page predicts, from
sizes that are exact, two steps that were measured on a CPU, and networks that are assumed. [From one to many](ONE_TO_MANY.md)
has the commands.

## Measured

LoRA r=16 on q and v, float32, two CPU threads, mean of the steps of one run ([speed](SPEED.md) has the commands):
"""  # noqa: E501
SENT = """Summing gradients was measured between processes on one CPU only, over loopback ([log](../benchmarks/LOG.md)): 4.3 ms for 2.8 MB
and two processes, of a step of 0.8 s.

## What a step sends

The gradients of what trains, in float32, once a step whatever the accumulation; the base is not sent
(unless `training.sharding` divides it, which is not predicted here). Bytes of one step's
gradients, r=16:
"""  # noqa: E501
FORMULA = f"""## Predicted efficiency

    efficiency = t / (t + c)
    t = {TOKENS_A_STEP:,} tokens · FLOP a token / FLOP a second of the GPU
    c = 2 (N − 1) / N · bytes / bandwidth + {MESSAGES} · 2 (N − 1) · latency

N GPUs, each with {TOKENS_A_STEP:,} real tokens of a step: the recipe's step has N times as many, since processes share its rows. c is a ring all-reduce: every GPU sends and
receives 2 (N − 1) / N of the bytes; up to {GPUS_A_MACHINE} GPUs in a machine, beyond that the network card is the slowest link of the
ring and sets its pace. {MESSAGES} messages a step: gradients, token counts, loss, signals. Nothing is overlapped with compute, and all
GPUs wait for none that has longer rows: the first assumption is pessimistic, the second optimistic. FLOP a token are measured for
small and base; for larger bases they are base's by the weights of the blocks; half as many again where all weights train. A GPU
reaches half of its data sheet's 16-bit products (assumed). Links, all assumed:
"""  # noqa: E501
READING = """## Reading it

- An adapter of a large base scales over machines: XL on q and v sends 38 MB in a step of 200 ms on an H100. A small base on a fast
  GPU does not: its step of a few milliseconds waits for the network's latency, and one GPU trains it fast enough.
- More tokens in a step (`training.tokens_per_batch`, `training.gradient_accumulation`) lengthen t and leave c as it is: with twice the
  tokens, 67 % become 80 %. All-linear adapters send four times as much as q and v.
- Full fine-tuning sends all weights in float32: it wants NVLink, or much accumulation. On 10 GbE it is hopeless.
- Sharding a base gathers its weights in every forward and backward, which is not counted here.
"""  # noqa: E501


def main() -> None:
    """Writes the page and the result, or with ``--check`` exits 1 where the page differs."""
    result = computed()
    if "--check" not in sys.argv[1:]:
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write_or_check(PAGE, render(result), source="the sizes")


if __name__ == "__main__":
    main()
