"""HF's side of the throughput benchmark: Seq2SeqTrainer and PEFT's LoRA, by default, at their best,
and as tutorials.

Its own Trainer, optimizer and data loader run; only which rows form a batch is given to it, in the
order that its own sampler would take, so that it trains on a sample of an epoch.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from clock import Clock
from memory_step import LORA
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    BitsAndBytesConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5ForConditionalGeneration,  # noqa: F401  (imported lazily: now, so that it counts as imported)
    TrainerCallback,
)
from workload import LONGEST, ProfileRows

IGNORED = -100


@dataclass(frozen=True)
class HfSide:
    """How HF's path is set.

    Attributes:
        dropout: the base's; Flan-T5's checkpoints come with 0.1.
        order: ``random``, or ``grouped`` as ``train_sampling_strategy="group_by_length"`` does.
        attention: None is what ``from_pretrained`` picks.
        half: bfloat16 weights and autocast where ours computes in that; else float32, as Flan-T5's
            checkpoints are.
        exact: everything computes in float32.
        full_length: every row padded to :data:`workload.LONGEST`.
        compiled: by torch.compile, for a CPU without code of its own.
    """

    dropout: float = 0.1
    order: str = "random"
    attention: str | None = None
    half: bool = False
    exact: bool = False
    full_length: bool = False
    compiled: bool = False


HF_SIDES = {
    "hf-defaults": HfSide(),
    "hf-best": HfSide(dropout=0.0, order="grouped", attention="sdpa", half=True),
    "hf-compiled": HfSide(dropout=0.0, order="grouped", attention="sdpa", half=True, compiled=True),
    "hf-max-length": HfSide(full_length=True),
    "hf-parity": HfSide(dropout=0.0, exact=True),
}


class Watch(TrainerCallback):  # type: ignore[misc]
    """Runs the clock from the end of the first step, which warms up, to the end of the last:
    loading data counts.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_step_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == 1:
            self._clock.start()
        elif state.global_step == state.max_steps:
            self._clock.stop()


class GivenOrder(torch.utils.data.Sampler):  # type: ignore[type-arg]
    """Yields row numbers as given."""

    def __init__(self, order: Sequence[int]) -> None:
        self._order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


class GivenBatches(Seq2SeqTrainer):  # type: ignore[misc]
    """Seq2SeqTrainer on given batches of one size, once each, its losses (0-d tensors) kept."""

    def __init__(self, *, batches: Sequence[Sequence[int]], **settings: Any) -> None:
        self._order = [row for batch in batches for row in batch]
        self.losses: list[Tensor] = []
        super().__init__(**settings)

    def _get_train_sampler(self, *_: Any, **__: Any) -> GivenOrder:
        return GivenOrder(self._order)

    def training_step(self, *inputs: Any, **named: Any) -> Tensor:
        loss: Tensor = super().training_step(*inputs, **named)
        self.losses.append(loss)
        return loss


def padded(rows: Sequence[dict[str, Tensor]], *, full_length: bool = False) -> dict[str, Tensor]:
    """Pads as DataCollatorForSeq2Seq does: to the longest of the batch, or to the maximum; labels
    with -100.
    """
    widths = dict.fromkeys(("input_ids", "attention_mask"), LONGEST[0]) | {"labels": LONGEST[1]}
    batch = {}
    for name, most in widths.items():
        width = most if full_length else max(len(row[name]) for row in rows)
        batch[name] = torch.full((len(rows), width), IGNORED if name == "labels" else 0)
        for line, row in zip(batch[name], rows, strict=True):
            line[: len(row[name])] = row[name]
    return batch


def hf_model(
    folder: Path,
    side: HfSide,
    *,
    device: str,
    dtype: str,
    quantization: str,
    method: str = "lora",
    adapter: Path | None = None,
) -> Any:
    """Returns the base with a LoRA, or for ``full`` the base alone, loaded as a user of
    transformers and PEFT does.

    Args:
        dtype: what ours computes in.
        adapter: a saved adapter to start from, instead of a new one.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    compute = torch.bfloat16 if dtype == "bfloat16" and not side.exact else torch.float32
    options: dict[str, Any] = {
        "dtype": compute if side.half or quantization != "none" else torch.float32
    }
    if side.attention:
        options["attn_implementation"] = side.attention
    if quantization == "nf4":
        options["device_map"] = device
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dropout_rate=side.dropout, **options)
    if quantization == "nf4":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if method == "full":
        return model
    if adapter is not None:
        return PeftModel.from_pretrained(model, adapter, is_trainable=True)
    lora = LoraConfig(
        task_type="SEQ_2_SEQ_LM",
        r=LORA["r"],
        lora_alpha=LORA["alpha"],
        target_modules=LORA["target_modules"],
    )
    return get_peft_model(model, lora)


def hf_trainer(
    model: Any,
    rows: ProfileRows,
    batches: Sequence[Sequence[int]],
    side: HfSide,
    *,
    device: str,
    dtype: str,
    out: str,
) -> GivenBatches:
    """Returns a Trainer that takes one step on each batch, all of one size, at a constant learning
    rate.
    """
    settings = Seq2SeqTrainingArguments(
        output_dir=out,
        max_steps=len(batches),
        per_device_train_batch_size=len(batches[0]),
        learning_rate=5e-4,
        lr_scheduler_type="constant",
        bf16=side.half and dtype == "bfloat16",
        use_cpu=device == "cpu",
        torch_compile=side.compiled,
        torch_compile_backend=("eager" if device == "cpu" else "inductor")
        if side.compiled
        else None,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )

    def collate(members: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return padded(members, full_length=side.full_length)

    return GivenBatches(
        model=model, args=settings, train_dataset=rows, data_collator=collate, batches=batches
    )


def run_hf(
    folder: Path,
    rows: ProfileRows,
    batches: Sequence[Sequence[int]],
    side: HfSide,
    *,
    device: str,
    dtype: str,
    quantization: str,
    method: str = "lora",
) -> dict[str, Any]:
    """Trains in this process, the first batch to warm up; returns time, memory and how it was
    set.
    """
    clock = Clock(device)
    where = {"device": device, "dtype": dtype, "quantization": quantization, "method": method}
    model = hf_model(folder, side, **where)
    with tempfile.TemporaryDirectory() as out:
        trainer = hf_trainer(model, rows, batches, side, device=device, dtype=dtype, out=out)
        trainer.add_callback(Watch(clock))
        clock.loaded()
        trainer.train()
    order = {"random": "random order", "grouped": "grouped by source length"}[side.order]
    width = "{} + {}".format(*LONGEST) if side.full_length else "the longest"
    how = {
        "batches": f"{len(batches[0])} rows, {order}, padded to {width}",
        "dropout": side.dropout,
        "attention": model.config._attn_implementation,
    }
    return {**clock.found, **how}
