"""How fast answers come: transformers' generate, this package's decoding, and exported engines.

    python benchmarks/decode.py            about ten minutes on two cores; writes
    benchmarks/results/decode-cpu.json

Two models: the demo adapter on the demo's test set, and a random model of Flan-T5 small's shape
(vocabulary 32,128) with an adapter on every linear layer, on random sources, whose answers have 32
tokens. On both, every way answers the same sources, greedy and with four beams: transformers'
generate on batches of 16 in file order, the same sorted by length, `eval`'s decoding (our own), the
same by generate (batches by tokens), and each export through the same decoding; also one source at
a time and 32 at a time. Every way runs twice in turn, and the faster run counts. Exports and our
own decoding come with the share of answers that are generate's.

`--end-to-end ADAPTER FILE` adds `eval` by generate, `eval` and `eval --engine ct2` as commands:
whole processes with loading, exporting and comparing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from train_and_score import RESULTS
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from lora_s2s.demo.task import examples
from lora_s2s.errors import Error
from lora_s2s.fast_t5.choose import VARIABLE
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.predictor import Predictor
from lora_s2s.lora.inject import inject_lora
from lora_s2s.models.loading import load_base
from lora_s2s.pipeline.export import export_model
from lora_s2s.recipe.schema import LoraSection

ROOT = Path(__file__).parents[1]
EXPORTS = (("ct2", "float32"), ("ct2", "int8"), ("onnx", "float32"), ("onnx", "int8"))
BEAMS = (1, 4)
PARTS = ["demo", "small", "end-to-end"]
WORDS = 32_100

Answers = list[list[int]]


def small_model(folder: Path) -> Path:
    """Writes a random model of Flan-T5 small's shape with a tokenizer of words."""
    torch.manual_seed(0)
    config = T5Config(  # transformers 5 ties its head whatever the config says
        d_model=512,
        d_ff=1024,
        d_kv=64,
        num_heads=6,
        num_layers=8,
        vocab_size=32_128,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        model.shared.weight *= 0.35  # logits as peaked as a trained model's, so that few beams tie
    model.save_pretrained(folder)
    marks = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    vocabulary = {**marks, **{f"w{number}": number for number in range(3, config.vocab_size)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def with_adapter(predictor: Predictor) -> Predictor:
    """Adds a LoRA of rank 16 to every linear layer, which has yet to learn: answers stay."""
    base = load_base(predictor.name, dtype="float32", device="cpu")
    section = LoraSection(r=16, alpha=32, target_modules="all-linear")
    model = inject_lora(base, section, seed=0).eval()
    return replace(predictor, engine=replace(predictor.torch, model=model, has_adapter=True))


def random_sources(count: int) -> list[str]:
    """Returns sources of 10 to 80 words."""
    chosen = random.Random(0)
    return [
        " ".join(f"w{chosen.randrange(3, WORDS)}" for _ in range(chosen.randint(10, 80)))
        for _ in range(count)
    ]


def in_batches(
    predictor: Predictor, rows: Sequence[list[int]], settings: DecodingSettings, size: int
) -> Answers:
    """Answers rows of ids in batches of a size, as given."""
    answers: Answers = []
    for start in range(0, len(rows), size):
        answers += predictor.engine.answers(rows[start : start + size], settings)
    return answers


def sorted_batches(
    predictor: Predictor, rows: Sequence[list[int]], settings: DecodingSettings, size: int
) -> Answers:
    """The same, sorted by length."""
    places = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
    answers = in_batches(predictor, [rows[place] for place in places], settings, size)
    return [answer for _, answer in sorted(zip(places, answers, strict=True))]


@contextmanager
def by_generate() -> Iterator[None]:
    """While entered, models in torch answer by transformers' generate."""
    os.environ[VARIABLE] = "reference"
    try:
        yield
    finally:
        del os.environ[VARIABLE]


def generated(call: Callable[[], object]) -> Callable[[], object]:
    """Returns the same by transformers' generate."""

    def by_theirs() -> object:
        with by_generate():
            return call()

    return by_theirs


def measure(
    torch_model: Predictor, exports: dict[str, Predictor], texts: Sequence[str], most: int
) -> dict[str, Any]:
    """Returns rows a second of every way, and the share of answers that are generate's own."""
    rows = [torch_model.encode(torch_model.render(text)) for text in texts]
    sources = [torch_model.render(text) for text in texts]
    some = rows[:: max(1, len(rows) // 32)]
    result: dict[str, Any] = {}
    for beams in BEAMS:
        # Every runtime ends a beam search by the same rule, so that the answers can be compared.
        settings = DecodingSettings(most, num_beams=beams, early_stopping=beams > 1 or None)
        ways: dict[str, Callable[[], object]] = {
            "generate, batches of 16": partial(in_batches, torch_model, rows, settings, 16),
            "generate, sorted": partial(sorted_batches, torch_model, rows, settings, 16),
            "generate, batches of 32": partial(in_batches, torch_model, rows, settings, 32),
            "generate, one by one": partial(in_batches, torch_model, some, settings, 1),
            "generate, eval's batches": partial(decode, torch_model, sources, settings),
        }
        ways = {name: generated(way) for name, way in ways.items()}
        ways["eval"] = partial(decode, torch_model, sources, settings)
        ways["eval, batches of 32"] = partial(in_batches, torch_model, rows, settings, 32)
        ways["eval, one by one"] = partial(in_batches, torch_model, some, settings, 1)
        for name, export in exports.items():
            ways[name] = partial(decode, export, sources, settings)
            ways[f"{name}, batches of 32"] = partial(in_batches, export, rows, settings, 32)
            ways[f"{name}, one by one"] = partial(in_batches, export, some, settings, 1)
        with by_generate():
            expected = [answer.text for answer in decode(torch_model, sources, settings)]
        table: dict[str, Any] = {}
        for name, way in ways.items():
            try:
                table[name] = {"seconds": min(timed(way), timed(way))}
            except Error as error:
                table[name] = {"refused": error.message}
                continue
            count = len(some) if name.endswith("one by one") else len(rows)
            table[name]["rows_per_second"] = round(count / table[name]["seconds"], 2)
            print(f"beams {beams}  {name}: {table[name]['rows_per_second']:.1f} rows/s", flush=True)
        for name, export in {"eval": torch_model, **exports}.items():
            if "seconds" in table[name]:
                found = [answer.text for answer in decode(export, sources, settings)]
                same = sum(map(str.__eq__, expected, found))
                table[name]["equal_answers"] = round(same / len(found), 4)
        for entry in table.values():
            if "rows_per_second" in entry:
                for name, other in (
                    ("plain", "batches of 16"),
                    ("eval_by_generate", "eval's batches"),
                ):
                    rate = table[f"generate, {other}"]["rows_per_second"]
                    entry[f"times_{name}"] = round(entry["rows_per_second"] / rate, 2)
        result[f"beams {beams}"] = table
    return result


def timed(call: Callable[[], object]) -> float:
    """Returns the seconds that a call takes."""
    began = time.perf_counter()
    call()
    return round(time.perf_counter() - began, 3)


def exported(
    model: Path | str, work: Path, data: str, *, compared: bool = True
) -> dict[str, Predictor]:
    """Exports a model to every runtime that is installed and takes it.

    Args:
        compared: refuse exports that answer differently. Random weights in 8 bits always do, so
            their share of equal answers is only reported.
    """
    found = {}
    gate = nullcontext() if compared else patch("lora_s2s.exporters.parity.check")
    for runtime, precision in EXPORTS:
        out = work / f"{runtime}-{precision}"
        try:
            with gate:
                export_model(str(model), out, format=runtime, precision=precision, data=data)
            found[f"{runtime} {precision}"] = load_predictor(str(out))
        except Error as error:
            print(f"{runtime} {precision}: {error.message}", flush=True)
    return found


def end_to_end(adapter: str, data: Path) -> dict[str, Any]:
    """Returns the seconds of whole `eval` commands, in turn, the faster of two each."""
    seconds: dict[str, float] = {}
    command = [sys.executable, "-m", "lora_s2s", "eval", adapter, "--data", str(data)]
    for _ in range(2):
        for name, engine in (("generate", "torch"), ("torch", "torch"), ("ct2", "ct2")):
            with tempfile.TemporaryDirectory() as out:
                words = [*command, "--engine", engine, "--out", f"{out}/scores"]
                call = partial(subprocess.run, words, check=True, capture_output=True)
                took = timed(generated(call) if name == "generate" else call)
            seconds[name] = min(took, seconds.get(name, took))
    ratios = {name: round(seconds[name] / seconds["ct2"], 2) for name in ("generate", "torch")}
    return {"data": data.name, "seconds": seconds, "times_ct2_is_faster_than": ratios}


def main() -> None:
    """Measures both models and keeps the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--end-to-end", nargs=2, metavar=("ADAPTER", "FILE"))
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    result: dict[str, Any] = {
        "command": "python benchmarks/decode.py",
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers", "ctranslate2")},
    }
    kept = RESULTS / "decode-cpu.json"
    if kept.exists() and arguments.parts != PARTS:  # the others stay
        result = {**json.loads(kept.read_text("utf-8")), **result}
    with tempfile.TemporaryDirectory() as work:
        for part in arguments.parts:
            if part == "demo":
                result["demo"] = measure_demo(arguments.rows, Path(work))
            elif part == "small":
                result["flan-t5-small shape"] = measure_small(arguments.rows // 2, Path(work))
            elif arguments.end_to_end:
                adapter, data = arguments.end_to_end
                result["end to end"] = end_to_end(adapter, Path(data))
            kept.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def measure_demo(rows: int, work: Path) -> dict[str, Any]:
    """Measures the demo adapter on sources of its test set."""
    demo = ROOT / "adapters" / "demo"
    predictor = load_predictor(str(demo), dtype="float32", device="cpu")
    texts = [source for source, _ in examples("test", rows)]
    return measure(predictor, exported(demo, work, "demo:test"), texts, 64)


def measure_small(rows: int, work: Path) -> dict[str, Any]:
    """Measures a random model of Flan-T5 small's shape on random sources."""
    folder, lines = small_model(work / "small"), work / "data.jsonl"
    texts = random_sources(rows)
    pairs = [json.dumps({"source": text, "target": "w5"}) for text in texts[:8]]
    lines.write_text("\n".join(pairs) + "\n", "utf-8")
    small = with_adapter(load_predictor(str(folder), dtype="float32", device="cpu"))
    exports = exported(folder, work / "exports", str(lines), compared=False)
    return measure(small, exports, texts, 32)


if __name__ == "__main__":
    main()
