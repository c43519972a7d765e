"""What a GPU shows at its first run: parity, memory, speed, decoding, export, recompilation.

    python benchmarks/gpu_first_run.py                  under 8 minutes on one GPU
    python benchmarks/gpu_first_run.py --device cpu     the same code on tiny shapes

Each part runs in a process of its own with a time limit; one that fails is reported with its cause,
and the rest go on. Writes benchmarks/results/gpu-first-run-DEVICE.json and a verdict to stdout; the
exit code is 1 where a part failed.

No CUDA-only line of the package has run in its tests but by simulation: ``CUDA_ONLY`` says which
part reaches each, and a test compares it with the code.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import decode
import gpu_memory
import throughput
import torch
from memory_step import SHAPES, machine, write_checkpoint
from our_side import our_model
from train_and_score import RESULTS
from workload import ProfileRows

from lora_s2s.data.collate import Batch, collate
from lora_s2s.fast_t5 import choose, operations
from lora_s2s.fast_t5.t5 import PaddingFree
from lora_s2s.inference.loading import load_predictor
from lora_s2s.models.t5_parts import stacks_of
from lora_s2s.pipeline.export import export_model

ROOT = Path(__file__).parents[1]
# Function → the part that reaches its lines that only a GPU runs.
CUDA_ONLY = {
    "fast_t5/attention.py:_flex": "parity",
    "fast_t5/choose.py:kinds_of_attention": "parity",
    "fast_t5/operations.py:call": "parity",
    "lora/inject.py:wrap": "parity",
    "models/precision.py:device_name": "commands",
    "models/precision.py:resolve_device": "parity",
    "models/precision.py:resolve_dtype": "commands",
    "models/row_memory.py:row_cost": "commands",
    "models/row_memory.py:device_memory": "commands",
    "pipeline/imports.py:<module>": "commands",
    "pipeline/launch.py:in_processes": "commands",
    "pipeline/planned.py:of_memory": "commands",
    "pipeline/planned.py:bytes_each": "commands",
    "pipeline/planned.py:_libraries": "commands",
    "pipeline/ranks.py:together": "commands",
    "pipeline/workers.py:_its_share_of_the_machine": "commands",
    "commands/_plan.py:show_plan": "commands",
    "recipe/defaults.py:_batch_tokens": "commands",
    "training/duration.py:_wait": "commands",
    "training/loader.py:_on_gpu": "commands",
    "training/memory.py:peak_memory_bytes": "commands",
    "training/memory.py:halving_when_out_of_memory": "memory, xl under 4 GB",
}
_FORWARDS = {  # name → dtype, quantization, checkpointing
    "float32": ("float32", "none", False),
    "float32, checkpointing": ("float32", "none", True),
    "bfloat16": ("bfloat16", "none", False),
    "float16": ("float16", "none", False),
    "nf4": ("float32", "nf4", False),
    "nf4, bfloat16": ("bfloat16", "nf4", False),
}


_ON_A_CPU = 10  # times the limits: a busy machine is slow, and the shapes are tiny


class Part(NamedTuple):
    """What a GPU will show, how it is found, and in how many seconds at most on a GPU."""

    shows: str
    run: Callable[[str], dict[str, Any]]
    seconds: int


def few_rows(shape: str, count: int, first: int = 0) -> Batch:
    """Rows of the lengths of E2E."""
    rows = ProfileRows("e2e", SHAPES[shape][-1])
    return collate([rows.features(row) for row in range(first, first + count)], 0)


@contextlib.contextmanager
def checkpoint_of(shape: str) -> Iterator[Path]:
    """A random checkpoint of a shape."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(shape, Path(folder))
        yield Path(folder)


def parity(device: str) -> dict[str, Any]:
    """Loss and gradients of each forward beside transformers', by the comparison of training."""
    shape, found = "small" if device == "cuda" else "tiny", {}
    with checkpoint_of(shape) as folder:
        for name, (dtype, quantization, again) in _FORWARDS.items():
            model = our_model(folder, device=device, dtype=dtype, quantization=quantization)
            base = model.get_base_model()
            if again:
                base.gradient_checkpointing_enable()
                model.enable_input_require_grads()
            stacks, batch = stacks_of(base, operations.ACTIVATIONS), few_rows(shape, 4).to(device)
            for attention in choose.kinds_of_attention(base, device):
                forward = PaddingFree(base, stacks, attention)
                for compiled in (False, True):
                    key = f"{name}, {attention.__name__}{', compiled' * compiled}"
                    with compiling(device if compiled else None) as kept:
                        problem = choose._difference(model, forward, batch)
                    lost = "compilation failed; see stderr" if compiled and not kept else None
                    found[key] = problem or lost or "equal"
    wrong = {name: text for name, text in found.items() if text != "equal"}
    return {"forwards": found, "problem": "; ".join(f"{k}: {v}" for k, v in wrong.items()) or None}


@contextlib.contextmanager
def compiling(device: str | None) -> Iterator[set[str]]:
    """Elementwise steps are compiled on a device, for a CPU without code of its own."""
    on = {device} if device else set()
    backend = "inductor" if device == "cuda" else "eager"
    with patch.object(operations, "COMPILED_ON", on), patch.object(operations, "_BACKEND", backend):
        yield on


def recompiles(device: str) -> dict[str, Any]:
    """Graphs that are compiled for the first batch, for some more, and for as many again."""
    from torch._dynamo.utils import counters

    shape, counts = "small" if device == "cuda" else "tiny", []
    with checkpoint_of(shape) as folder, compiling(device):
        model = our_model(folder, device=device, dtype="float32", quantization="none")
        base = model.get_base_model()
        attention = choose.kinds_of_attention(base, device)[0]
        forward = PaddingFree(base, stacks_of(base, operations.ACTIVATIONS), attention)
        for first, batches in ((0, 1), (4, 5), (24, 5)):
            for start in range(first, first + 4 * batches, 4):
                choose._difference(model, forward, few_rows(shape, 4, start).to(device))
            counts.append(counters["stats"]["unique_graphs"])
    grows = counts[2] - counts[1]
    problem = f"{grows} graphs are compiled for batches 7 to 11" if grows else None
    return {"graphs": counts, "problem": problem}


def of_script(script: Any, name: str, *words: str) -> dict[str, Any]:
    """Runs another benchmark in this process; returns the result that it keeps."""
    with tempfile.TemporaryDirectory() as out:
        argv = patch.object(sys, "argv", [name, *words, "--out", out])
        with argv, contextlib.redirect_stdout(io.StringIO()):
            script.main()
        (kept,) = Path(out).glob("*.json")
        found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
    return found


def memory(cap: str, device: str) -> dict[str, Any]:
    """Trains a shape in nf4 under a hard cap."""
    words = ["--device", device, "--only", "ours", "--steps", "3"]
    tiny = ["--caps", "tiny:8", "--source", "24", "--target", "8"]
    words += ["--caps", cap] if device == "cuda" else tiny
    (run,) = of_script(gpu_memory, "gpu_memory.py", *words)["runs"]
    return {"run": run, "problem": None if run["trained"] else run["why"]}


def speed(device: str) -> dict[str, Any]:
    """Tokens a second beside HF's Trainer, eager and compiled."""
    shape, rows = ("base", "32,64") if device == "cuda" else ("tiny", "8")
    words = ["--device", device, "--shape", shape, "--rows-tried", rows, "--steps-parity", "0"]
    words += ["--batches", "8" if device == "cuda" else "3", "--profile", "e2e"]
    result = of_script(throughput, "throughput.py", *words, "--sides", "hf-best,hf-compiled,ours")
    speeds = {name: side.get("tokens_per_second") for name, side in result["sides"].items()}
    forward = result["sides"]["ours"].get("forward")
    fast = forward == "padding-free"
    return {
        "tokens_per_second": speeds,
        "ratios": result["ratios"],
        "problem": None if fast else f"ours ran by the forward: {forward}",
    }


def decoding(device: str) -> dict[str, Any]:
    """Rows a second of our decoding beside generate, and equal answers."""
    with tempfile.TemporaryDirectory() as work, contextlib.redirect_stdout(io.StringIO()):
        if device == "cuda":
            folder, texts, most = decode.small_model(Path(work)), decode.random_sources(64), 32
        else:
            folder, texts, most = ROOT / "adapters" / "demo", ["a table for two"], 4
        model = load_predictor(str(folder), dtype="float32", device=device)
        found = decode.measure(model, {}, texts, most)
    shares = {beams: ways["eval"]["equal_answers"] for beams, ways in found.items()}
    different = min(shares.values()) < 0.95
    return {"ways": found, "problem": f"equal answers: {shares}" if different else None}


def ct2_float16(device: str) -> dict[str, Any]:
    """Exports to CTranslate2 in float16, compared with the model; on a GPU it answers there."""
    import ctranslate2

    with tempfile.TemporaryDirectory() as work:
        out, source = Path(work) / "ct2", "a table for two on friday"
        model = str(ROOT / "adapters" / "demo")
        export_model(model, out, format="ct2", precision="float16", data="demo:test")
        predictor = load_predictor(str(out))
        ids = predictor.encode(predictor.render(source))
        kind = "float16" if device == "cuda" else "float32"
        translator = ctranslate2.Translator(str(out), device=device, compute_type=kind)
        tokens = predictor.tokenizer.convert_ids_to_tokens(ids)
        there = translator.translate_batch([tokens], beam_size=1)[0].hypotheses[0]
        here = decode.decode(predictor, [predictor.render(source)])[0].text
        answer = predictor.tokenizer.convert_tokens_to_string(list(there)).strip()
    return {"answer": answer, "problem": None if answer == here.strip() else f"not '{here}'"}


def commands(device: str) -> dict[str, Any]:
    """The command line: doctor, plan, training with a resume, answers, and several processes."""
    made, ends = ["--set", "training.max_steps=4", "--set", "output.name=first"], {}
    told = ["adapters/first", "hello", "--set", "evaluation.max_new_tokens=4"]
    asked = {
        "doctor": ["doctor", "--json"],
        "plan": ["plan", "demo", "--json"],
        "train": ["train", "demo", *made, "--json"],
        "predict": ["predict", *told],
        "predict, 2 processes": ["predict", *told, "--processes", "2"],
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    run = partial(subprocess.run, env=environment, capture_output=True, text=True, check=False)
    with tempfile.TemporaryDirectory() as work:
        for name, words in asked.items():
            done = run([sys.executable, "-m", "lora_s2s", *words], cwd=work)
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            ends[name] = errors[0] if errors else done.returncode
    refused = f"error: 2 processes need 2 GPUs; there are {torch.cuda.device_count()}"
    few = device == "cuda" and torch.cuda.device_count() < 2
    wrong = [f"{k}: {v}" for k, v in ends.items() if v != 0 and not (few and v == refused)]
    return {"ends": ends, "problem": "; ".join(wrong) or None}


PARTS = {
    "parity": Part("loss and gradients of each forward, compiled and not", parity, 80),
    "recompiles": Part("graphs compiled after the first batches: none", recompiles, 25),
    "decoding": Part("answers equal to generate's, rows a second", decoding, 40),
    "ct2 float16": Part("an export that answers as the model does", ct2_float16, 20),
    "commands": Part("doctor, plan, train, predict on the device", commands, 55),
    "throughput": Part("tokens a second beside HF, eager and compiled", speed, 70),
    "memory, xl under 4 GB": Part("xl trains in nf4 under 4 GB", partial(memory, "xl:4"), 45),
    "memory, xxl under 8 GB": Part("xxl trains in nf4 under 8 GB", partial(memory, "xxl:8"), 140),
}


def _isolated(part: Part, device: str, pipe: Connection) -> None:
    os.setsid()  # what it starts ends with it
    try:
        pipe.send(part.run(device))
    except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever it is, the rest go on)
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        pipe.send({"problem": f"{type(error).__name__}: {error} ({where})"})


def finished(part: Part, device: str, seconds: float) -> dict[str, Any]:
    """Runs a part in a process of its own, until its limit."""
    context = multiprocessing.get_context("fork")  # nothing here has touched the GPU yet
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_isolated, args=(part, device, there))
    began = time.monotonic()
    process.start()
    there.close()
    found: dict[str, Any] = {"problem": f"not done after {seconds:.0f} s"}
    if here.poll(seconds):
        try:
            found = here.recv()
        except EOFError:
            process.join()
            found = {"problem": f"ended with {process.exitcode}"}
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    return {"shows": part.shows, "seconds": round(time.monotonic() - began, 1), **found}


def verdict(results: dict[str, dict[str, Any]]) -> str:
    """One line a part."""
    lines = [
        f"{'FAILED' if one['problem'] else 'ok':7}{name}: {one['problem'] or one['shows']}"
        f" ({one['seconds']:.0f} s)"
        for name, one in results.items()
    ]
    failed = sum(bool(one["problem"]) for one in results.values())
    return "\n".join([*lines, f"{len(results) - failed} of {len(results)} parts passed"])


def main(words: Sequence[str] | None = None) -> int:
    """Runs all parts; returns how many failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(words)
    results: dict[str, dict[str, Any]] = {}
    slack = 1 if asked.device == "cuda" else _ON_A_CPU
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.only:
        part = PARTS[name]
        results[name] = finished(part, asked.device, slack * part.seconds)
        about = {"command": "python benchmarks/gpu_first_run.py", **machine(), "parts": results}
        kept = asked.out / f"gpu-first-run-{asked.device}.json"
        kept.write_text(json.dumps(about, indent=1) + "\n", "utf-8")
        print(f"{name}: {results[name]['problem'] or 'ok'}", file=sys.stderr, flush=True)
    print(verdict(results))
    return sum(bool(one["problem"]) for one in results.values())


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
