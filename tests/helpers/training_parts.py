"""Small parts for the tests of the loop: rows in memory, a tiny T5 with an adapter, and a run of
it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import T5Config, T5ForConditionalGeneration

from lora_s2s.recipe.schema import TrainingSettings
from lora_s2s.training.loop import train
from lora_s2s.training.state import LoopOptions, TrainResult

VOCABULARY = 96
OPTIONS = ("resume", "resume_anyway", "identity", "deadline", "goal", "share")
PAD = 0


class Rows:
    """What the loop needs of a prepared split: lengths, and the ids of a row."""

    def __init__(self, count: int, *, seed: int = 0, longest: int = 12) -> None:
        rng = np.random.default_rng(seed)
        self._rows = [
            SimpleNamespace(
                input_ids=[*rng.integers(2, VOCABULARY, rng.integers(1, longest)).tolist(), 1],
                labels=[*rng.integers(2, VOCABULARY, rng.integers(1, longest)).tolist(), 1],
            )
            for _ in range(count)
        ]
        self.source_lengths = np.array([len(row.input_ids) for row in self._rows])
        self.target_lengths = np.array([len(row.labels) for row in self._rows])

    def __len__(self) -> int:
        return len(self._rows)

    def features(self, index: int) -> SimpleNamespace:
        return self._rows[index]


def tiny_model(
    *, seed: int = 0, dropout: float = 0.0, heads: int = 2, width: int = 16, r: int = 4
) -> Any:
    """A two-layer T5 in Flan's shape with a LoRA adapter whose B is not zero, so that A has a
    gradient too.
    """
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=width,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=heads,
        dropout_rate=dropout,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=PAD,
        pad_token_id=PAD,
        eos_token_id=1,
    )
    base = T5ForConditionalGeneration(config)
    # HF's initial head has std 1: logits so large that no tolerance means anything.
    torch.nn.init.normal_(base.lm_head.weight, std=config.d_model**-0.5)
    lora = LoraConfig(
        task_type="SEQ_2_SEQ_LM", r=r, lora_alpha=8, lora_dropout=dropout, target_modules=["q", "v"]
    )
    model = get_peft_model(base, lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def adapter_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def section(**changes: Any) -> TrainingSettings:
    """Settings of a short run: 24 rows in steps of two micro-batches of three make 4 steps an
    epoch.
    """
    quick = {
        "batch_size": 3,
        "gradient_accumulation": 2,
        "max_steps": 12,
        "learning_rate": 0.01,
        "save_every": 100,
    }
    return TrainingSettings(**{**quick, **changes})


def run(
    folder: Path, *, model: Any = None, rows: Rows | None = None, **options: Any
) -> TrainResult:
    """Trains; keywords that are settings go to the settings, the others to ``train``."""
    evaluate = options.pop("evaluate", None)
    how = LoopOptions(**{key: options.pop(key) for key in OPTIONS if key in options})
    return train(
        model if model is not None else tiny_model(),
        rows if rows is not None else Rows(24),
        pad_token_id=PAD,
        settings=section(**options),
        run_dir=folder,
        evaluate=evaluate,
        options=how,
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def saved_steps(folder: Path) -> list[int]:
    return sorted(
        int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*")
    )


@contextmanager
def in_step(number: int, then: Callable[[], None]) -> Iterator[None]:
    """Calls something in the middle of optimizer step ``number`` (from 1), such as a user's
    signal.
    """
    counted = itertools.count(1)
    hook = register_optimizer_step_pre_hook(lambda *_: then() if next(counted) == number else None)
    try:
        yield
    finally:
        hook.remove()
