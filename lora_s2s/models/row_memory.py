"""The memory that one row takes in training, and how long a row may be, from ``config.json`` alone.

S, T source and target tokens. An estimate, fitted to the bundled base on a CPU (1,000 to 4,000
source tokens), for adapters without gradient checkpointing: what layers keep grows with S and T,
attention with their squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lora_s2s.files import mapping, read_json
from lora_s2s.hub import locate_model
from lora_s2s.machine import usable_memory

_CONFIG = "config.json"
_NAMES = {
    "hidden": ("d_model", "hidden_size"),
    "inner": ("d_ff", "encoder_ffn_dim", "intermediate_size"),
    "encoder_layers": ("num_layers", "encoder_layers", "num_hidden_layers"),
    "decoder_layers": ("num_decoder_layers", "decoder_layers", "num_hidden_layers", "num_layers"),
    "heads": ("num_heads", "encoder_attention_heads", "num_attention_heads"),
}
_POSITIONS = "max_position_embeddings"
_MOST = 1_000_000
# LongT5 attends to this many neighbours of a token, and a few global ones.
_WINDOW = 512


@dataclass(frozen=True)
class RowCost:
    """The sizes of a base that decide what a row costs."""

    hidden: int
    inner: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    windowed: bool
    bytes_each: int

    def __call__(self, source: int, target: int) -> int:
        """Returns the bytes that training on one row takes."""
        seen = min(source, _WINDOW) if self.windowed else source
        linear = source * self.encoder_layers * (12 * self.hidden + 4 * self.inner)
        linear += target * self.decoder_layers * (18 * self.hidden + 4 * self.inner)
        squares = source * seen * (2 + 2 * self.encoder_layers) + target * target * (
            2 + 2 * self.decoder_layers
        )
        squares += source * target * 2 * self.decoder_layers
        return self.bytes_each * (linear + self.heads * squares)


def read_config(name: str, revision: str | None) -> Mapping[str, object]:
    """Returns the config of a model; empty if the folder holds only a tokenizer."""
    path: Path = locate_model(name, revision, weights=False) / _CONFIG
    return mapping(read_json(path)) if path.is_file() else {}


def row_cost(settings: Mapping[str, object], device: torch.device) -> RowCost | None:
    """Returns the memory that a row takes; None if the config lacks a size."""
    if (sizes := base_sizes(settings)) is None:
        return None
    each = 2 if device.type == "cuda" else 4
    return RowCost(**sizes, windowed=settings.get("model_type") == "longt5", bytes_each=each)


def base_sizes(settings: Mapping[str, object]) -> dict[str, int] | None:
    """Returns the sizes of a base by :class:`RowCost`'s names; None if the config lacks one."""
    given = of_encoder(settings)
    sizes = {field: _number(given, names) for field, names in _NAMES.items()}
    complete = {field: size for field, size in sizes.items() if size is not None}
    return complete if len(complete) == len(sizes) else None


def of_encoder(settings: Mapping[str, object]) -> Mapping[str, object]:
    """Returns a config whose sizes may be those of its encoder (T5Gemma)."""
    encoder = settings.get("encoder")
    return {**settings, **encoder} if isinstance(encoder, dict) else settings


def positions(settings: Mapping[str, object]) -> int | None:
    """Returns how many tokens a text may have; None if positions are relative."""
    parts = [
        settings,
        *(
            part
            for part in (settings.get("encoder"), settings.get("decoder"))
            if isinstance(part, dict)
        ),
    ]
    given = [part[_POSITIONS] for part in parts if isinstance(part.get(_POSITIONS), int)]
    return min((number for number in given if number > 1), default=None)


def _number(settings: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    numbers = [settings.get(name) for name in names]
    return next((n for n in numbers if isinstance(n, int) and 0 < n < _MOST), None)


def device_memory(device: torch.device) -> int | None:
    """Returns the bytes of memory of a GPU, or of this machine; None if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return usable_memory()
