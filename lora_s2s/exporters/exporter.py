"""What a format's file provides, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_s2s.errors import UsageError
from lora_s2s.inference.engine import DecodingSettings, ExportedEngine, TokenIds
from lora_s2s.inference.predictor import Predictor


@dataclass(frozen=True)
class Job:
    """What is written.

    Attributes:
        model: a whole model's folder or name.
        precision: of the weights, one of the exporter's.
        decoding: ``max_new_tokens``, which the model has positions for, ``num_beams`` and what else
            is not at its default, as the model was scored.
        shard_bytes: the most bytes of a file of weights; None for one file.
    """

    model: str
    precision: str
    decoding: Mapping[str, Any]
    shard_bytes: int | None = None


@dataclass(frozen=True)
class Usage:
    """What a README's example needs: the tokens that every answer begins with, and the limits."""

    first_tokens: Sequence[str]
    max_new_tokens: int
    num_beams: int
    precision: str


@dataclass(frozen=True)
class Exporter:
    """A format.

    Attributes:
        title: its name for people.
        bytes_per_weight: what a weight takes on the disk while it is written, by precision.
        families: types of models that it supports; None for all.
        require: raises SetupError where a library is missing.
        write: writes a model's files, its tokenizer included, into an existing folder.
        engine: opens that folder; the predictor is that of the model it was made from.
        never: the sequences of ids that no answer may hold.
        example: the README's Python code, which answers one text from the folder alone.
        lacks: which of the settings in use the runtime refuses.
    """

    title: str
    bytes_per_weight: Mapping[str, int]
    families: Collection[str] | None
    require: Callable[[], object]
    write: Callable[[Job, Path], None]
    engine: Callable[[Predictor, Path, str], ExportedEngine]
    never: Callable[[Predictor], TokenIds]
    example: Callable[[Usage], str]
    lacks: Callable[[DecodingSettings], list[str]] = lambda _: []

    def check_family(self, model_type: str) -> None:
        """Checks that the format supports a family.

        Raises:
            UsageError: it does not.
        """
        if self.families is not None and model_type not in self.families:
            supported = ", ".join(self.families)
            raise UsageError(
                f"{self.title} does not support models of type '{model_type}'; it supports "
                f"{supported}",
                hint="export it as safetensors, for transformers: --format safetensors",
            )
