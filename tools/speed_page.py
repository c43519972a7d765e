"""Writes docs/SPEED.md from the results that `benchmarks/throughput.py` left in benchmarks/results.

python tools/speed_page.py            write the page
python tools/speed_page.py --check    say whether the committed page is theirs
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages import table, write_or_check

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "SPEED.md"
INTRO = """# Speed and memory

Written by `tools/speed_page.py` from `benchmarks/results`; not by hand. Random weights of T5 v1.1's published shapes,
LoRA r=16 on q and v, one optimizer step a batch, the sides one after another in one run on the same rows:

- `hf-defaults`: Seq2SeqTrainer and PEFT by default: float32, 8 random rows, padded to the longest, dropout 0.1;
- `hf-best`: the same grouped by length, dropout 0, SDPA, in ours' number format, the fastest batch size of several;
- `hf-max-length`: the defaults, with every row padded to 512 + 128 tokens, as tutorials do;
- `ours`: this package as it trains, dropout 0.

Tokens are real ones of source and target, never padding. Memory is the peak over the loaded model. The share of the
machine's peak is the work that the real tokens need, over what plain matrix products reach in the same run. Where other
work shares the machine, wall time is up to chance: then the CPU's time is the one to compare.
"""  # noqa: E501
EMPTY = "No result is kept yet.\n"
_SHAPES = ("tiny", "small", "base", "large", "xl", "xxl")

Result = dict[str, Any]


def kept(folder: Path) -> list[Result]:
    """Returns the results in a folder, in the page's order: by device, shape, quantisation and
    profile.
    """
    paths = [
        path
        for kind in ("throughput", "ablation")
        for path in sorted(folder.glob(f"{kind}-*.json"))
    ]
    results: list[Result] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return sorted(results, key=lambda found: (found["on"], _SHAPES.index(found["shape"])))


def render(results: Sequence[Result]) -> str:
    """Returns the page."""
    sections = [section for result in results for section in _section(result)]
    return "\n".join([INTRO, *(sections or [EMPTY])])


def _section(result: Result) -> list[str]:
    ablation = "ablation" in result
    weights = f"{'nf4 and ' if result['quantization'] == 'nf4' else ''}{result['dtype']}"
    title = f"{result['shape']}, {weights}, {result['profile']} lengths, {result['on'].upper()}"
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    threads = f", {result['threads']} of {result['cores']} cores" if result["on"] == "cpu" else ""
    return [
        f"## {'One part less: ' if ablation else ''}{title}\n",
        f"    {result['command']}\n",
        f"{result['device']}{threads}; matrix products reach {result['peak_gflops']:,.0f} "
        f"GFLOP/s; {versions}.\n",
        _sides(result, result["ablation" if ablation else "sides"], "part" if ablation else "side"),
        *_remarks(result),
    ]


def _sides(result: Result, sides: dict[str, Result], kind: str) -> str:
    first, on_cpu = "as shipped" if kind == "part" else "ours", result["on"] == "cpu"
    speeds = ["tokens/s", *(["tokens/CPU s"] if on_cpu else [])]
    times = ["times_faster", *(["times_faster_by_cpu_time"] if on_cpu else []), "times_less_memory"]
    own = [
        f"{first}: {times[0].replace('_', ' ')}",
        *(name.replace("_", " ") for name in times[1:]),
    ]
    lines = [[kind, *speeds, "memory, MiB", "share of peak", *own]]
    for name, found in sides.items():
        if "failed" in found:
            lines.append([name, found["failed"], *[""] * (len(lines[0]) - 2)])
            continue
        per = ("second", "cpu_second")[: len(speeds)]
        figures = [*(found[f"tokens_per_{unit}"] for unit in per), found["peak_MiB_over_model"]]
        ratio = result["ratios"].get(f"{first}/{name}", {})
        share = f"{100 * found['share_of_peak']:.0f} %"
        lines.append(
            [
                name,
                *(f"{figure:,.0f}" for figure in figures),
                share,
                *(str(ratio.get(key, "")) for key in times),
            ]
        )
    return table(lines)


def _remarks(result: Result) -> list[str]:
    """Says what else was measured: the batch sizes that HF's best side tried, and how far the first
    losses differ.
    """
    remarks = []
    for found in result.get("sides", {}).values():
        if "tries" in found:
            tries = (f"{one['rows']} rows {_speed(one)}" for one in found["tries"])
            remarks.append(f"`hf-best` tried {', '.join(tries)}; the fastest counts.\n")
    if "max_loss_difference" in result.get("parity", {}):
        apart, steps = result["parity"]["max_loss_difference"], len(result["parity"]["ours"])
        remarks.append(
            f"First {steps} losses in float32 on the same batches: {apart:.0e} apart, relative.\n"
        )
    if result["quantization"] == "nf4" and "sides" in result:
        remarks.append(
            "transformers leaves `wo` out of the 4 bits; `ours` does so for the first losses "
            "alone.\n"
        )
    return remarks


def _speed(found: Result) -> str:
    if "failed" in found:
        return f"({found['failed']})"
    return f"({found['tokens_per_second']:,.0f} tokens/s, {found['peak_MiB_over_model']:,.0f} MiB)"


def main() -> None:
    """Writes the page, or with ``--check`` exits 1 where the committed one says something else."""
    write_or_check(PAGE, render(kept(RESULTS)), source="the results")


if __name__ == "__main__":
    main()
