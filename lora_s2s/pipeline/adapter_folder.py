"""The folder of a finished adapter: weights, tokenizer, manifest, report and card."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from lora_s2s import __version__, probe
from lora_s2s.console import warn
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.files import code_hash, described, mapping
from lora_s2s.hub import locate_model
from lora_s2s.lora.full import save_result
from lora_s2s.models.loading import LoadedBase
from lora_s2s.models.precision import device_name, dtype_name
from lora_s2s.models.weights import weights_hash
from lora_s2s.outputs import move_folder, sync_tree
from lora_s2s.pipeline.adapted import AdaptedBase
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import write
from lora_s2s.reports.adapter_page import write_report
from lora_s2s.reports.card import write_card
from lora_s2s.training.state import TrainResult

# What a run computes with: another version of it may give other last digits.
_CODE = ("training", "fast_t5", "lora", "models", "tokens", "data")
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers")


def write_adapter(
    running: Path,
    final: Path,
    adapted: AdaptedBase,
    result: TrainResult,
    made_from: dict[str, object],
    max_new_tokens: int,
) -> None:
    """Completes the folder of a run that has come to its end, and moves it into place.

    Args:
        max_new_tokens: the length limit of answers, for the card.
    """
    base = adapted.base
    if weights_hash(locate_model(base.name, base.revision)) != base.weights_sha256:
        warn(
            f"{base.name} changed on disk during the run; the adapter is for its weights as "
            "they were"
        )
    made = {**made_from, "training": asdict(result), "scores": {}}
    decoding = {"max_new_tokens": max_new_tokens, "num_beams": 1}
    loaded, entries = save_result(
        adapted.model, base, adapted.tokenizer, running, decoding=decoding
    )
    made |= entries
    made["files"] = described(path for path in loaded if path.is_file())
    if note := adapted.note:
        made["plain_transformers"] = note
    made["counts"] = {**adapted.counts, "train_tokens": len(adapted.train_tokens)}
    write(running, made)
    write_report(running, name=final.name)
    write_card(running, name=final.name, max_new_tokens=max_new_tokens)
    sync_tree(running)
    move_folder(running, final)
    probe.remember(final)


def origin(recipe: Recipe, base: LoadedBase, prepared: PreparedDataset) -> dict[str, object]:
    """Returns the part of an adapter's manifest that says what it was made from."""
    described = {
        key: getattr(base, key) for key in ("name", "revision", "weights_sha256", "quantization")
    }
    described["skip_quantization"] = list(base.skip_quantization)
    described["dtype"] = dtype_name(base.dtype)
    return {
        "format": 1,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "name": recipe.output.name,
        "base": described,
        "data": {
            "fingerprint": prepared.fingerprint,
            **{key: prepared.report[key] for key in ("rows", "splits")},
        },
        "input": {
            **mapping(prepared.manifest.content["input"]),
            **prepared.train.target_facts,
            "system": prepared.manifest.report.get("system", ""),
        },
        "versions": {"lora_s2s": __version__, **{name: version(name) for name in _PACKAGES}},
        "device": str(base.device),
    }


def identity(recipe: Recipe, base: LoadedBase, prepared: PreparedDataset) -> dict[str, str]:
    """What must be the same for a run to be resumed."""
    return {
        "package code": code_hash(*_CODE),
        "torch": version("torch"),
        "forward": os.environ.get("LORA_S2S_FORWARD", "fast"),
        "training rows": str(len(prepared.train)),
        "base weights on disk": base.weights_sha256,
        "dtype": str(base.dtype),
        "quantization": ",".join((base.quantization, *base.skip_quantization)),
        "training data": prepared.fingerprint,
        **recipe.lora.by_key("lora"),
        "device": device_name(base.device),
    }
