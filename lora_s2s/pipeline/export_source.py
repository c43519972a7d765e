"""The model or adapter that is exported: loaded once, and written as a whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_s2s.exporters.formats import EXPORTERS
from lora_s2s.inference.loading import load_predictor, predictor_of_adapter
from lora_s2s.inference.predictor import Predictor
from lora_s2s.lora.adapter import LoadedAdapter, is_adapter, load_adapter
from lora_s2s.lora.merge import made_from, write_whole_model
from lora_s2s.pipeline.adapters import decoding_of
from lora_s2s.pipeline.decoding import recorded_settings
from lora_s2s.records import has_manifest, manifest_content, write


@dataclass(frozen=True)
class ExportSource:
    """What is exported: a whole model by its name, or an adapter on its base in float32.

    ``origin`` is what the manifest says of both.
    """

    name: str
    predictor: Predictor
    adapter: LoadedAdapter | None
    origin: Mapping[str, object]

    def whole(self, work: Path, decoding: Mapping[str, int]) -> str:
        """Returns a whole model's name: an adapter is folded in and written into ``work``."""
        if self.adapter is None:
            return self.name
        work.mkdir(parents=True)
        write_whole_model(self.adapter, work, dtype="float32", decoding=decoding)
        write(work, self.origin)
        return str(work)


def open_source(model: str, base: str | None) -> ExportSource:
    """Loads what is exported, once.

    Raises:
        UsageError: ``base`` for something that is not an adapter, or an exported folder.
        DataError: the adapter or model is refused.
    """
    folder = Path(model).expanduser()
    if folder.is_dir() and is_adapter(folder):
        adapter = load_adapter(
            folder, dtype="float32", quantization="none", device="cpu", base_override=base
        )
        predictor = predictor_of_adapter(model, adapter)
        return ExportSource(model, predictor, adapter, made_from(adapter))
    predictor = load_predictor(model, base=base, dtype="float32", device="cpu")
    made = manifest_content(folder) if has_manifest(folder) else {}
    kept = {key: value for key, value in made.items() if key in ("merged", "base", "labels")}
    origin: dict[str, object] = {"format": 1, **kept, "input": vars(predictor.settings)}
    return ExportSource(model, predictor, None, origin)


def asked_decoding(folder: Path, format: str) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Returns how a model answers, and which of that a format's runtime would refuse, each setting
    with the formats that have it.
    """
    decoding = decoding_of(folder)
    settings = recorded_settings(decoding)
    refused = {key: exporter.lacks(settings) for key, exporter in EXPORTERS.items()}
    left_out = {
        name: [key for key, names in refused.items() if name not in names]
        for name in refused[format]
        if name in decoding
    }
    return decoding, left_out
