"""Peak host memory of a real nf4 training step of a flan-t5-large-shaped model on a CPU: this
package and HF's path.

Both sides load the same random checkpoint (bfloat16, made once in a temporary folder), put LoRA
r=16 on q and v, use gradient checkpointing and 8-bit AdamW, and train on the same rows, each in a
process of its own. HF's path is `load_in_4bit` (nf4, double quantisation, bfloat16 products),
`prepare_model_for_kbit_training`, `get_peft_model` and `Seq2SeqTrainer`; of its ways to run
(:data:`HF_VARIANTS`) the one with the lowest peak counts. A second ratio is with this package's
setting of the C library's allocator lent to HF's path.

    OMP_NUM_THREADS=1 python benchmarks/memory_step.py                    8 rows of 256 + 64 tokens
    at once OMP_NUM_THREADS=1 python benchmarks/memory_step.py --micro-batch 1    the same step, row
    by row

Steady state: the peak is reset when the first step is done, so loading and the first allocations
are not in it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from train_and_score import RESULTS, device

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
# d_model, d_ff, layers of each stack, heads, d_kv, vocabulary
SHAPES = {
    "tiny": (64, 128, 2, 4, 16, 512),
    "small": (512, 1024, 8, 6, 64, 32128),
    "base": (768, 2048, 12, 12, 64, 32128),
    "large": (1024, 2816, 24, 16, 64, 32128),
    "xl": (2048, 5120, 24, 32, 64, 32128),
    "xxl": (4096, 10240, 24, 64, 64, 32128),
}
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 22)}
# (automatic mixed precision, attention, environment): what a user of HF's path may choose that
# changes memory. Eager attention needs more (4.0 GB and up in an earlier run). An environment is no
# part of HF's path: it is lent.
HF_VARIANTS: dict[str, tuple[bool, str, dict[str, str]]] = {
    "float32 activations, sdpa attention": (False, "sdpa", {}),
    "bfloat16 autocast, sdpa attention": (True, "sdpa", {}),
    "float32 activations, sdpa attention, our allocator setting": (False, "sdpa", _ALLOCATOR),
    "bfloat16 autocast, sdpa attention, our allocator setting": (True, "sdpa", _ALLOCATOR),
}
HF_OPTIMIZERS = {"adamw-8bit": "adamw_8bit", "adamw-paged-8bit": "paged_adamw_8bit"}
LORA = {"r": 16, "alpha": 32, "dropout": 0.0, "target_modules": ["q", "v"]}


class SyntheticRows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Seeded rows of full length: what both trainers get. Ids 2 and up, then ``</s>``."""

    def __init__(self, rows: int, source: int, target: int, vocabulary: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._ids = torch.randint(2, vocabulary, (rows, source + target), generator=generator)
        self._ids[:, [source - 1, -1]] = 1
        self._source = source

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        source, target = self._ids[index, : self._source], self._ids[index, self._source :]
        return {"input_ids": source, "attention_mask": torch.ones_like(source), "labels": target}

    def features(self, index: int) -> Any:
        """Returns a row as this package's collate takes it."""
        row = self[index]
        return SimpleNamespace(input_ids=row["input_ids"].tolist(), labels=row["labels"].tolist())


def shape_settings(shape: str) -> dict[str, Any]:
    """Returns the T5 v1.1 config of a shape, dropout off."""
    d_model, d_ff, layers, heads, d_kv, vocabulary = SHAPES[shape]
    return {
        "model_type": "t5",
        "d_model": d_model,
        "d_ff": d_ff,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "d_kv": d_kv,
        "vocab_size": vocabulary,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
        "scale_decoder_outputs": False,
        "is_encoder_decoder": True,
        "architectures": ["T5ForConditionalGeneration"],
    }


def write_checkpoint(shape: str, folder: Path, *, shard_bytes: int = 1 << 30) -> None:
    """Writes a random bfloat16 checkpoint of a shape in shards, its head its own, with T5's own
    spread of values.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    with torch.device("meta"):
        skeleton = T5ForConditionalGeneration(T5Config(**shape_settings(shape)))
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, weight in [*skeleton.named_parameters(), ("lm_head.weight", skeleton.lm_head.weight)]:
        spread = 1.0 if name.startswith("shared") else weight.shape[-1] ** -0.5
        drawn = torch.ones(weight.shape) if weight.ndim == 1 else torch.randn(weight.shape) * spread
        if name.endswith(".q.weight"):
            drawn *= skeleton.config.d_kv**-0.5
        if sum(tensor.nbytes for tensor in shards[-1].values()) > shard_bytes:
            _write_shard(shards, folder)
        shards[-1][name] = drawn.to(torch.bfloat16)
    _write_shard(shards, folder)
    owners = {
        name: f"model-{number:05d}.safetensors"
        for number, shard in enumerate(shards)
        for name in shard
    }
    index = json.dumps({"metadata": {}, "weight_map": owners})
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(shape_settings(shape)), encoding="utf-8")


def _write_shard(shards: list[dict[str, torch.Tensor]], folder: Path) -> None:
    """Writes the last shard, keeps its names alone, and begins another."""
    from safetensors.torch import save_file

    save_file(
        shards[-1], folder / f"model-{len(shards) - 1:05d}.safetensors", metadata={"format": "pt"}
    )
    shards[-1] = dict.fromkeys(shards[-1], torch.empty(0))
    shards.append({})


class HostPeak:
    """The peak of this process's resident memory since :meth:`reset`, in bytes (Linux, glibc)."""

    def reset(self) -> None:
        """Gives freed memory back to the system first: how much the allocator kept of loading is an
        accident.
        """
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def now(self) -> int:
        """Returns what is held at the moment."""
        return self.read("VmRSS")

    def read(self, field: str = "VmHWM") -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def hf_trainer(
    model: Any,
    rows: SyntheticRows,
    *,
    steps: int,
    micro_batch: int,
    autocast: bool,
    optimizer: str,
    out: str,
) -> Any:
    """Returns Seq2SeqTrainer on HF's own preparation of a model loaded in 4 bits, adapter
    injected.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, default_data_collator

    model = prepare_model_for_kbit_training(
        model, gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    model.config.use_cache = False
    lora = LoraConfig(
        task_type="SEQ_2_SEQ_LM",
        r=LORA["r"],
        lora_alpha=LORA["alpha"],
        target_modules=LORA["target_modules"],
    )
    settings = Seq2SeqTrainingArguments(
        output_dir=out,
        max_steps=steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=len(rows) // micro_batch,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        optim=HF_OPTIMIZERS[optimizer],
        learning_rate=5e-4,
        bf16=autocast,
        use_cpu=model.device.type == "cpu",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
    )
    adapted = get_peft_model(model, lora)
    return Seq2SeqTrainer(
        model=adapted, args=settings, train_dataset=rows, data_collator=default_data_collator
    )


def run_hf(arguments: argparse.Namespace, rows: SyntheticRows, peak: Any) -> dict[str, Any]:
    """HF's path, in this process."""
    import bitsandbytes  # noqa: F401
    import transformers
    from peft import get_peft_model, prepare_model_for_kbit_training  # noqa: F401
    from transformers import (
        AutoModelForSeq2SeqLM,
        BitsAndBytesConfig,
        T5ForConditionalGeneration,
        TrainerCallback,
    )

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    _ = (
        T5ForConditionalGeneration,
        transformers.Seq2SeqTrainer,
    )  # imported lazily: now, so that the baseline has them
    baseline = peak.now()
    autocast, attention, _ = HF_VARIANTS[arguments.variant]
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForSeq2SeqLM.from_pretrained(
        arguments.model,
        quantization_config=quantization,
        dtype=torch.bfloat16,
        device_map=arguments.device,
        attn_implementation=attention,
    )
    times: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(-time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times[-1] += time.perf_counter()
            if len(times) == 1:
                peak.reset()

    with tempfile.TemporaryDirectory() as out:
        trainer = hf_trainer(
            model,
            rows,
            steps=arguments.steps,
            micro_batch=arguments.micro_batch,
            autocast=autocast,
            optimizer=arguments.optimizer,
            out=out,
        )
        trainer.add_callback(Watch())
        loaded = {"load_peak": peak.read(), "loaded": peak.now()}
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {"baseline": baseline, **loaded, "peak": peak.read(), "seconds": times, "losses": losses}


def run_ours(arguments: argparse.Namespace, rows: SyntheticRows, peak: Any) -> dict[str, Any]:
    """This package's loading, adapter, preparation and step, in this process."""
    import bitsandbytes  # noqa: F401
    from accelerate import Accelerator
    from transformers import T5ForConditionalGeneration  # noqa: F401  (imported lazily: now, for the baseline)

    from lora_s2s.data.collate import collate
    from lora_s2s.fast_t5.choose import fast_forward
    from lora_s2s.lora.inject import inject_lora
    from lora_s2s.models.loading import enable_gradient_checkpointing, load_base
    from lora_s2s.recipe.schema import LoraSection, TrainingSettings
    from lora_s2s.training.loop import train_step
    from lora_s2s.training.optimizer import build_optimizer

    baseline = peak.now()
    base = load_base(
        str(arguments.model), dtype="bfloat16", quantization="nf4", device=arguments.device
    )
    model = inject_lora(base, LoraSection(**LORA), seed=0)
    enable_gradient_checkpointing(model)
    settings = TrainingSettings(
        optimizer=arguments.optimizer, gradient_checkpointing=True, max_steps=arguments.steps
    )
    optimizer = build_optimizer(model, settings)
    accelerator = Accelerator(cpu=arguments.device == "cpu")
    loaded = {"load_peak": peak.read(), "loaded": peak.now()}
    numbers = range(0, len(rows), arguments.micro_batch)
    groups = [range(first, min(first + arguments.micro_batch, len(rows))) for first in numbers]
    times, losses = [], []
    with fast_forward(model):
        for step in range(arguments.steps):
            began = time.perf_counter()
            batches = [collate([rows.features(row) for row in group], 0) for group in groups]
            stats = train_step(
                model,
                optimizer,
                batches,
                accelerator=accelerator,
                step=step,
                learning_rate=5e-4,
                settings=settings,
            )
            times.append(time.perf_counter() - began)
            losses.append(stats.loss)
            if step == 0:
                peak.reset()
    return {"baseline": baseline, **loaded, "peak": peak.read(), "seconds": times, "losses": losses}


def measured(side: str, variant: str, model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one side in a fresh process and returns its figures, memory in MiB."""
    given = {
        name: getattr(arguments, name)
        for name in ("shape", "rows", "source", "target", "steps", "micro_batch")
    }
    words = [
        word
        for name, value in given.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    command = [
        sys.executable,
        __file__,
        "--side",
        side,
        "--variant",
        variant,
        "--model",
        str(model),
        *words,
    ]
    environment = {**os.environ, **(HF_VARIANTS[variant][2] if variant else {})}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    got = json.loads(done.stdout.splitlines()[-1])
    memory = {
        key: round(got[key] / 2**20, 1) for key in ("baseline", "load_peak", "loaded", "peak")
    }
    return {
        "side": side,
        **({"variant": variant} if side == "hf" else {}),
        "MiB": {**memory, "peak_over_baseline": round(memory["peak"] - memory["baseline"], 1)},
        "seconds_per_step": round(sum(got["seconds"][1:]) / max(1, len(got["seconds"]) - 1), 1),
        "losses": [round(loss, 4) for loss in got["losses"]],
    }


def ratios(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns our peak over the lowest of HF's path, and over the lowest with our allocator setting
    lent to it.
    """
    found: dict[str, dict[str, float]] = {}
    for name, lent in {"ours_over_hf": False, "ours_over_hf_with_our_allocator": True}.items():
        theirs = [
            run
            for run in runs
            if run["side"] == "hf" and bool(HF_VARIANTS[run["variant"]][2]) is lent
        ]
        ours = [run for run in runs if run["side"] == "ours"]
        if ours and theirs:
            best = min(theirs, key=lambda run: run["MiB"]["peak"])
            keys = ("peak_over_baseline", "peak")
            found[name] = {key: round(ours[0]["MiB"][key] / best["MiB"][key], 3) for key in keys}
    return found


def machine() -> dict[str, Any]:
    """Describes the hardware and the versions a figure depends on."""
    return {**device(), "versions": {package: version(package) for package in PACKAGES}}


def main() -> None:
    """Measures every side, prints the ratio and writes it to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="large", choices=SHAPES)
    parser.add_argument("--rows", type=int, default=8, help="rows of one optimizer step")
    parser.add_argument("--source", type=int, default=256)
    parser.add_argument("--target", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=8, help="rows at once")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", choices=["ours", "hf"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=["ours", "hf"], help=argparse.SUPPRESS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        rows = SyntheticRows(
            arguments.rows, arguments.source, arguments.target, SHAPES[arguments.shape][-1]
        )
        run = run_ours if arguments.side == "ours" else run_hf
        arguments.device, arguments.optimizer = "cpu", "adamw-8bit"
        print(json.dumps(run(arguments, rows, HostPeak())))
        return
    with tempfile.TemporaryDirectory(prefix="memory-step-") as folder:
        write_checkpoint(arguments.shape, Path(folder))
        sides = [("ours", ""), *(("hf", variant) for variant in HF_VARIANTS)]
        runs = [
            measured(side, variant, Path(folder), arguments)
            for side, variant in sides
            if arguments.only in (None, side)
        ]
    result = {
        "command": " ".join(["python", "benchmarks/memory_step.py", *sys.argv[1:]]),
        **machine(),
        "step": {
            name: getattr(arguments, name)
            for name in ("shape", "rows", "source", "target", "micro_batch")
        },
        "runs": runs,
        **ratios(runs),
    }
    name = f"memory-step-{arguments.shape}-{arguments.rows}x{arguments.micro_batch}.json"
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2)
    (arguments.out / name).write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
