"""The formats that ``export`` writes."""

from __future__ import annotations

from lora_s2s.exporters import ct2, onnx, safetensors
from lora_s2s.exporters.exporter import Exporter

EXPORTERS: dict[str, Exporter] = {
    "ct2": ct2.EXPORTER,
    "onnx": onnx.EXPORTER,
    "safetensors": safetensors.EXPORTER,
}
