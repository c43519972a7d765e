"""Runs in several processes, each forked from this one, so that imports take their time once. Not a
test.

The argument is a JSON list of ``[processes, [case, folder, checkpoint]]``; a run with a checkpoint
continues from it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
from adapting import adapt
from tiny_families import TINY, write
from torch import nn
from training_parts import Rows, adapter_of, run, tiny_model

from lora_s2s.lora import token_rows
from lora_s2s.lora.full import train_weights
from lora_s2s.models.loading import enable_gradient_checkpointing, load_base
from lora_s2s.models.sharded import is_divided
from lora_s2s.training.processes import is_main_process
from lora_s2s.training.validation import make_validation

FLAN, LONG = "T5 v1.1, LM-adapted, Flan-T5", "LongT5 (transient-global)"


def with_tokens(folder: Path) -> nn.Module:
    model = tiny_model()
    token_rows.add(model.get_base_model(), [5, 40, 95])
    return model


def checkpointed(folder: Path) -> nn.Module:
    model = with_tokens(folder)
    enable_gradient_checkpointing(model)
    return model


def nf4(folder: Path) -> nn.Module:
    base = load_base(str(folder.parents[1] / "base"), device="cpu", quantization="nf4")
    base.family.set_dropout(base.model, 0.0)
    return adapt(base, seed=0, r=4, alpha=8, target_modules="attention-qv")


def full(folder: Path, base: str = "base", freeze: Sequence[str] = ()) -> nn.Module:
    loaded = load_base(str(folder.parents[1] / base), device="cpu")
    loaded.family.set_dropout(loaded.model, 0.0)
    return train_weights(loaded, freeze)


def long(folder: Path) -> nn.Module:
    """A model of which short sources leave weights unused; its head is divided, but frozen."""
    return full(folder, "long", ["head"])


TOKENS = {"batch_size": None, "tokens_per_batch": 96}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "rows": (with_tokens, {"gradient_accumulation": 4}),
    "tokens": (with_tokens, {**TOKENS, "gradient_accumulation": 1}),
    "packed": (with_tokens, {**TOKENS, "gradient_accumulation": 3, "packing": True}),
    "nf4": (nf4, {}),
    "full": (full, {}),
    "sharded": (checkpointed, {"gradient_accumulation": 5, "sharding": "full"}),
    # Of so few rows some gradients are mere rounding, where AdamW's step is as large as any.
    "sharded-full": (
        long,
        {"gradient_accumulation": 1, "learning_rate": 2e-4, "sharding": "full", "ema": 0.9},
    ),
}


def one_run(case: str, folder: Path, checkpoint: str | None, rank: int) -> None:
    make, settings = CASES[case]
    model = make(folder)
    # Every process starts from other weights: the main process's must win.
    for parameter in model.parameters() if rank else ():
        if parameter.requires_grad:
            parameter.data.add_(1.0)
    rows = Rows(22, longest=30)
    run(
        folder,
        model=model,
        rows=rows,
        evaluate=make_validation(rows, pad_token_id=0, batch_size=5),
        max_steps=5,
        save_every=3,
        keep_checkpoints=9,
        resume=checkpoint is not None,
        **{"learning_rate": 1e-3, **settings},
    )
    assert is_main_process() == (rank == 0)
    # Weights that are divided are gathered by the main process alone.
    weights = {name: weight for name, weight in adapter_of(model).items() if not is_divided(weight)}
    safetensors.torch.save_file(weights, folder / f"rank{rank}.safetensors")


def in_child(rank: int, processes: int, port: int, told: list[Any]) -> NoReturn:
    if processes > 1:
        local = {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": processes, "MASTER_PORT": port}
        names = {"RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", **local}
        os.environ.update({name: str(value) for name, value in names.items()})
    case, folder, checkpoint = told
    code = 1
    try:
        one_run(case, Path(folder), checkpoint, rank)
        code = 0
    finally:
        if code:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)


def start(processes: int, told: list[Any]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, folder, checkpoint = told
    Path(folder).mkdir(parents=True)
    if checkpoint:
        shutil.copytree(checkpoint, Path(folder, "checkpoints", Path(checkpoint).name))
        shutil.copy(Path(checkpoint).parents[1] / "metrics.jsonl", folder)
    children = []
    for rank in range(processes):
        child = os.fork()
        if not child:
            in_child(rank, processes, port, told)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    if any(codes):
        raise SystemExit(f"{told} in {processes} processes ended with {codes}")


if __name__ == "__main__":
    runs = json.loads(sys.argv[1])
    for row, name in ((FLAN, "base"), (LONG, "long")):
        write(TINY[row], Path(runs[0][1][1]).parents[1] / name)
    for processes, told in runs:
        start(processes, told)
