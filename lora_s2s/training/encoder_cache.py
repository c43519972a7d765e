"""Caches the encoder's states on disk: an encoder without adapters gives the same in every epoch.

N source tokens of a batch, D model width.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from lora_s2s.console import ProgressLine, say
from lora_s2s.data.collate import Batch
from lora_s2s.errors import ResourceError, UsageError
from lora_s2s.fast_t5.choose import encoder_states
from lora_s2s.models.family import FAMILIES
from lora_s2s.training.batching import Lengths

_OFF = "training.cache_encoder=false"


class EncoderCache:
    """States of every row of a split in bfloat16, in a file that is deleted with the run."""

    def __init__(self, file: BinaryIO, lengths: Lengths, width: int) -> None:
        self._file, self._width = file, width
        self._firsts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) * width * 2

    def write(self, row: int, states_ND: Tensor) -> None:
        """Stores the states of one row."""
        self._file.seek(int(self._firsts[row]))
        self._file.write(
            states_ND.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
        )

    def read(self, rows: Iterable[int]) -> Tensor:
        """Concatenated states of rows, (N, D) in bfloat16."""
        parts = []
        for row in rows:
            self._file.seek(int(self._firsts[row]))
            parts.append(self._file.read(int(self._firsts[row + 1] - self._firsts[row])))
        return torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.bfloat16).view(
            -1, self._width
        )


def check_cacheable(model: nn.Module, dropout: float) -> None:
    """Checks that the encoder's states are the same in every epoch.

    Raises:
        UsageError: the encoder trains or has dropout.
    """
    encoder = re.compile(FAMILIES[str(model.config.model_type)].stacks[0])  # type: ignore[union-attr]
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    if any("embed_tokens" in name for name in trained):
        tokens_off = "data.lossless_text=off (or lora.train_tokens=[] where tokens are named)"
        hint = f"set {tokens_off}, or {_OFF}"
        raise UsageError(
            "training.cache_encoder: lora.train_tokens change what the encoder reads", hint=hint
        )
    if any(map(encoder.search, trained)):
        hint = f"set lora.target_modules=decoder, or {_OFF}"
        raise UsageError(
            "training.cache_encoder needs an encoder that no adapter changes", hint=hint
        )
    if dropout:
        raise UsageError(
            f"training.cache_encoder: with training.dropout={dropout} states differ in every epoch",
            hint=f"set training.dropout=0, or {_OFF}",
        )


@contextmanager
def encoder_cache(
    model: nn.Module, lengths: Lengths, batches: Iterable[tuple[Sequence[int], Batch]], folder: Path
) -> Iterator[EncoderCache | None]:
    """Computes the encoder's states of all rows and yields them; None if the fast forward is not
    used.

    Args:
        lengths: source tokens of every row.
        batches: every row once: row numbers, and their batch on the model's device.
        folder: where the unnamed file is created.

    Raises:
        ResourceError: the disk is too small for it.
    """
    width = int(model.config.d_model)  # type: ignore[union-attr, arg-type]
    needed, free = int(np.sum(lengths)) * width * 2, shutil.disk_usage(folder).free
    if needed > free * 0.9:
        raise ResourceError(
            f"the encoder's states take {needed:,} bytes, the disk has {free:,}",
            hint=f"set {_OFF}",
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        cache, done = EncoderCache(file, lengths, width), 0
        with ProgressLine("encode") as line:
            for rows, batch in batches:
                states = encoder_states(model, batch)
                if states is None:
                    say(
                        "training.cache_encoder needs the fast forward, which is not used here: "
                        "nothing is cached, the result is the same"
                    )
                    yield None
                    return
                for place, states_ND in states.items():
                    cache.write(rows[place], states_ND)
                done += len(rows)
                line.update({"encode": "once"}, done=done, total=len(lengths))
        yield cache
