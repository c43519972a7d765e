"""Real tokens per second and peak memory of LoRA training: this package beside HF's Trainer with
PEFT, in one run.

Four sides train a random T5 v1.1 of a published shape, LoRA r=16 on q and v, on the same 4,096
seeded rows, each in a process of its own, one after another: `hf-defaults` as a user gets it,
`hf-best` at the fastest batch size of several, `hf-max-length` padded as tutorials do, and `ours`.
Each runs a stratified sample of an epoch of its own batches, with about as many real tokens as the
others, after one step to warm up. Padding is no real token. The same run takes the first losses of
both sides on the same batches, and the machine's speed at plain matrix products.

    OMP_NUM_THREADS=1 python benchmarks/throughput.py --shape small               flan-t5-small's
    shape on a CPU python benchmarks/throughput.py --device cuda --shape base,large,xl
    bfloat16 on a GPU python benchmarks/throughput.py --ablation
    our step without one part at a time python benchmarks/throughput.py --method full
    all weights train; a share of the peak is not given for it

Memory on a CPU is what is resident, on a GPU what torch has allocated, over the loaded model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from memory_step import LORA, SHAPES, machine, shape_settings, write_checkpoint
from roofline import matrix_peak, needed_flops
from train_and_score import RESULTS
from workload import PROFILES, ProfileRows, hf_batches, mean_tokens, sample

OURS = "ours"
SIDES = ("hf-defaults", "hf-best", "hf-max-length", OURS)
COMPILED = "hf-compiled"  # hf-best by torch.compile, where it is asked for
# A part of our step taken away: name → (environment, what differs in `training:`, or the order of
# HF's sampler).
ABLATIONS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "as shipped": ({}, {}),
    "transformers' forward": ({"LORA_S2S_FORWARD": "reference"}, {}),
    "random order, as many rows": ({}, {"order": "random"}),
    "grouped by source, as many rows": ({}, {"order": "grouped"}),
    "transformers' forward, grouped by source": (
        {"LORA_S2S_FORWARD": "reference"},
        {"order": "grouped"},
    ),
    "packed, random order": ({}, {"packing": True}),
}
# Sizes that HF's best side tries: a GPU fills up only with many rows, on a CPU few are grouped
# best.
_TRIED_ROWS = {"cpu": "2,4,8,16", "cuda": "8,16,32,64,128,256"}
_PARITY_ROWS = 4
_WHERE = ("device", "dtype", "quantization", "method")
_OUT_OF_MEMORY = 4
_KILLED = -9


def one_side(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one side in this process on its sample of an epoch; returns its figures and the work it
    needed.
    """
    from hf_sides import HF_SIDES, run_hf
    from our_side import our_epoch, run_ours

    sizes = SHAPES[arguments.shape]
    where = {name: getattr(arguments, name) for name in _WHERE}
    rows = ProfileRows(arguments.profile, sizes[-1])
    tokens = arguments.batches * mean_tokens(rows, our_epoch(rows, arguments.tokens_per_batch, {}))
    if arguments.only == OURS:
        changed = ABLATIONS[arguments.part][1]
        batches = sample(rows, our_epoch(rows, arguments.tokens_per_batch, changed), tokens)
        found = {"changed": changed} if changed else {}
        found |= {"batches": f"at most {arguments.tokens_per_batch} tokens with padding"}
        found |= run_ours(arguments.model, rows, batches, **where)
    else:
        side = HF_SIDES[arguments.only]
        batches = sample(rows, hf_batches(rows, side.order, arguments.rows), tokens)
        found = run_hf(arguments.model, rows, batches, side, **where)
    counted = [row for batch in batches[1:] for row in batch]
    flops = needed_flops(
        sizes,
        rows.source_lengths[counted],
        rows.target_lengths[counted],
        rank=LORA["r"] if arguments.method == "lora" else 0,
    )
    real = rows.real_tokens(batches[1:])
    speeds = {
        f"tokens_per_{name}second": round(real / found[f"{name}seconds"], 1)
        for name in ("", "cpu_")
    }
    counts = {"steps": len(batches) - 1, "real_tokens": real, "needed_gflop": round(flops / 1e9, 3)}
    return {**counts, **speeds, **found}


def parity(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains both sides in float32 from one adapter on the same few rows; returns the losses of
    every step.
    """
    from hf_sides import HF_SIDES, hf_model, hf_trainer
    from our_side import our_model, our_steps

    from lora_s2s.lora.adapter import save_adapter

    side = HF_SIDES["hf-parity"]
    where = {"device": arguments.device, "dtype": "float32"}
    rows = ProfileRows(arguments.profile, SHAPES[arguments.shape][-1])
    batches = [
        list(range(_PARITY_ROWS * step, _PARITY_ROWS * (step + 1)))
        for step in range(arguments.steps_parity)
    ]
    # transformers keeps `wo` out of 4 bits; so that both have the same weights, ours does here.
    skip = () if arguments.quantization == "none" else ("wo",)
    with tempfile.TemporaryDirectory() as folder:
        how = {"quantization": arguments.quantization, "method": arguments.method}
        model = our_model(arguments.model, skip=skip, **how, **where)
        if arguments.method == "lora":
            save_adapter(model, Path(folder))
        ours, _ = our_steps(model, rows, batches)
        del model
        theirs = hf_model(
            arguments.model,
            side,
            **how,
            adapter=Path(folder) if arguments.method == "lora" else None,
            **where,
        )
        trainer = hf_trainer(theirs, rows, batches, side, out=folder, **where)
        trainer.train()
    expected = [float(loss) for loss in trainer.losses]
    apart = max(abs(own - other) / abs(other) for own, other in zip(ours, expected, strict=True))
    return {OURS: ours, "hf": expected, "max_loss_difference": apart}


def child(
    only: str, arguments: argparse.Namespace, *words: str, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Runs one side in a fresh process and returns its figures, or what failed where memory ran
    out.
    """
    named = (
        "shape",
        "quantization",
        "profile",
        "device",
        "dtype",
        "method",
        "batches",
        "tokens_per_batch",
        "steps_parity",
    )
    given = [
        word
        for name in (*named, "model")
        for word in (f"--{name.replace('_', '-')}", str(getattr(arguments, name)))
    ]
    command = [sys.executable, __file__, "--only", only, *given, *words]
    env = {**os.environ, **(environment or {})}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=env)
    if done.returncode in (_OUT_OF_MEMORY, _KILLED):
        return {"failed": "out of memory"}
    if done.returncode:
        sys.exit(f"{only} failed with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def fastest(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the fastest of several batch sizes, and all tries; a size that does not fit ends the
    search.
    """
    tries: list[dict[str, Any]] = []
    for size in arguments.rows_tried.split(","):
        tries.append({"rows": int(size), **child(side, arguments, "--rows", size)})
        if "failed" in tries[-1]:
            break
    best = max(tries, key=lambda found: found.get("tokens_per_second", 0.0))
    return {**best, "tries": tries}


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures all sides of one shape, quantisation and profile, the matrix peak before and after
    them.
    """
    peak = matrix_peak(arguments.device, arguments.dtype)
    if arguments.ablation:
        key, first, same = "ablation", next(iter(ABLATIONS)), {}
        found = {
            name: child(OURS, arguments, "--part", name, environment=environment)
            for name, (environment, _) in ABLATIONS.items()
        }
    else:
        key, first = "sides", OURS
        sides = arguments.sides.split(",")
        found = {
            side: fastest(side, arguments)
            if side in ("hf-best", COMPILED)
            else child(side, arguments)
            for side in sides
        }
        same = {"parity": child("parity", arguments)} if arguments.steps_parity else {}
    peak = max(peak, matrix_peak(arguments.device, arguments.dtype))
    for side in found.values():
        for run in (side, *side.get("tries", [])):
            if "seconds" in run and arguments.method == "lora":
                run["share_of_peak"] = round(run["needed_gflop"] / run["seconds"] / peak, 3)
    return {"peak_gflops": round(peak, 1), key: found, "ratios": ratios(found, first), **same}


def ratios(sides: dict[str, dict[str, Any]], first: str) -> dict[str, dict[str, float]]:
    """Returns how many times faster, and with how many times less memory, the first side trains
    than each other.

    The CPU's time is what counts where other work shares the machine.
    """
    found = {}
    for name, other in sides.items():
        own = sides.get(first, {})
        if name != first and "seconds" in own and "seconds" in other:
            times = {
                "times_faster": own["tokens_per_second"] / other["tokens_per_second"],
                "times_faster_by_cpu_time": own["tokens_per_cpu_second"]
                / other["tokens_per_cpu_second"],
                "times_less_memory": other["peak_MiB_over_model"]
                / max(own["peak_MiB_over_model"], 0.1),
            }
            found[f"{first}/{name}"] = {key: round(value, 2) for key, value in times.items()}
    return found


def report(result: dict[str, Any]) -> None:
    """Prints a table for people."""
    sides = result.get("sides") or result["ablation"]
    names = (
        "tokens_per_second",
        "tokens_per_cpu_second",
        "peak_MiB_over_model",
        "share_of_peak",
        "steps",
    )
    print(f"{result['shape']}, {result['quantization']}, {result['profile']}", file=sys.stderr)
    lines = [
        ["", *names],
        *([side, *(str(found.get(name, "-")) for name in names)] for side, found in sides.items()),
    ]
    for side, *figures in lines:
        print(f"{side:42}" + "".join(f"{figure:>23}" for figure in figures), file=sys.stderr)
    print(json.dumps({**result["ratios"], **result.get("parity", {})}), file=sys.stderr)


def command_line() -> str:
    """Returns the command that repeats this run; where its result goes is no part of it."""
    words, kept = iter(sys.argv[1:]), []
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out="):
            kept.append(word)
    threads = os.environ.get("OMP_NUM_THREADS")
    return " ".join(
        [
            *([f"OMP_NUM_THREADS={threads}"] if threads else []),
            "python benchmarks/throughput.py",
            *kept,
        ]
    )


def parsed() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="small", help=f"one or several of {', '.join(SHAPES)}")
    parser.add_argument("--quantization", default="none", help="none, nf4, or both")
    parser.add_argument(
        "--profile", default="lognormal", help=f"lengths: one or several of {', '.join(PROFILES)}"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="of ours and hf-best; a CPU's is float32"
    )
    parser.add_argument("--method", default="lora", choices=["lora", "full"])
    parser.add_argument(
        "--batches",
        type=int,
        default=16,
        help="batches of ours; the others get as many real tokens",
    )
    parser.add_argument("--tokens-per-batch", type=int, default=4096, help="ours")
    parser.add_argument("--rows-tried", help="batch sizes that hf-best tries, such as 8,16")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument(
        "--steps-parity", type=int, default=3, help="steps on the same batches; 0: none"
    )
    parser.add_argument(
        "--ablation", action="store_true", help="our step without one part at a time, instead"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    for hidden, kind in {"only": str, "model": Path, "part": str, "rows": int}.items():
        default = {"part": next(iter(ABLATIONS)), "rows": 8}.get(hidden)
        parser.add_argument(f"--{hidden}", type=kind, default=default, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    known = {
        "shape": SHAPES,
        "quantization": ("none", "nf4"),
        "profile": PROFILES,
        "sides": (*SIDES, COMPILED),
    }
    for name, choices in known.items():
        if wrong := [word for word in getattr(arguments, name).split(",") if word not in choices]:
            parser.error(f"--{name}: {wrong[0]} is none of {', '.join(choices)}")
    arguments.dtype = arguments.dtype or {"cpu": "float32", "cuda": "bfloat16"}[arguments.device]
    arguments.rows_tried = arguments.rows_tried or _TRIED_ROWS[arguments.device]
    return arguments


def child_main(arguments: argparse.Namespace) -> None:
    """Prints one side's figures as the last line; ends with 4 where memory ran out."""
    try:
        print(json.dumps(parity(arguments) if arguments.only == "parity" else one_side(arguments)))
    except Exception as error:
        # This package says it in its own words, with torch's behind them.
        if not any(
            isinstance(told, torch.OutOfMemoryError | MemoryError)
            for told in (error, error.__cause__)
        ):
            raise
        sys.exit(_OUT_OF_MEMORY)


def main() -> None:
    """Measures every combination asked for, prints it, and writes each to a file of its own."""
    arguments = parsed()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA GPU here; --device cpu runs the same code")
    if arguments.only:
        child_main(arguments)
        return
    quantizations, profiles = arguments.quantization.split(","), arguments.profile.split(",")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for shape in arguments.shape.split(","):
        with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
            write_checkpoint(shape, Path(folder))
            config = {**shape_settings(shape), "dropout_rate": 0.1}
            (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            for quantization, profile in ((q, p) for q in quantizations for p in profiles):
                chosen = {
                    "dtype": arguments.dtype,
                    "shape": shape,
                    "quantization": quantization,
                    "profile": profile,
                    "method": arguments.method,
                }
                one = argparse.Namespace(**{**vars(arguments), **chosen, "model": Path(folder)})
                result = {
                    "command": command_line(),
                    **machine(),
                    "on": one.device,
                    **chosen,
                    **measured(one),
                }
                kind = "throughput" if one.method == "lora" else one.method
                kind = "ablation" if arguments.ablation else kind
                text = json.dumps(result, indent=2)
                name = (
                    f"{kind}-{arguments.device}-{shape}-{one.dtype}-{quantization}-{profile}.json"
                )
                (arguments.out / name).write_text(text + "\n", encoding="utf-8")
                report(result)
                print(text)


if __name__ == "__main__":
    main()
