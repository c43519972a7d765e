"""Several adapters over one copy of their base, in one model of PEFT's."""

from __future__ import annotations

import warnings
from pathlib import Path

from peft import PeftModel

from lora_s2s.errors import DataError
from lora_s2s.lora.adapter import (
    LoadedAdapter,
    check_trained_on,
    checked_weights,
    fill,
    read_adapter,
)
from lora_s2s.lora.methods import METHODS
from lora_s2s.lora.schema import AdapterSettings

BASE = "__base__"
"""PEFT's name for the base without an adapter, in a batch that mixes adapters."""
_ALONE = "serve it alone, or merge it: lora-s2s merge"


def add_adapter(first: LoadedAdapter, folder: Path, name: str) -> LoadedAdapter:
    """Loads an adapter beside the first one, onto the same base.

    Args:
        folder: checked as by :func:`lora_s2s.lora.adapter.load_adapter`.
        name: PEFT's name for it.

    Raises:
        DataError: it is refused, it was trained on another base, or one of the two cannot share
            its base.
    """
    settings, manifest = read_adapter(folder)
    base, trained_on = first.base, manifest.base
    check_trained_on(trained_on, base.name, base.weights_sha256, folder)
    quantization = trained_on.quantization or "none"
    if quantization != base.quantization:
        message = f"the adapter was trained on a base in {quantization}; this one is in"
        raise DataError(f"{message} {base.quantization}", hint=_ALONE, where=str(folder))
    if base.residual_shift:
        problem = "a T5 in float16 takes one adapter only"
        raise DataError(problem, hint="--set model.dtype=float32", where=str(folder))
    _check_plain(first.settings, first.folder)
    _check_plain(settings, folder)
    config, state = checked_weights(folder, settings, base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of adapter names that look alike
        first.model.add_adapter(name, config())
    fill(first.model, state, folder, name)
    first.model.requires_grad_(False)
    return LoadedAdapter(first.model.eval(), base, manifest, folder, settings)


def _check_plain(settings: AdapterSettings, folder: Path) -> None:
    """PEFT mixes only plain LoRA, and trained tokens may need a tokenizer of their own."""
    plain = settings.method.config is METHODS["lora"].config and not settings.values.get("use_dora")
    if not plain or settings.train_tokens:
        kind = "trained tokens" if plain else "another method than lora or rslora"
        problem = f"an adapter with {kind} cannot share its base with others"
        raise DataError(problem, hint=_ALONE, where=str(folder))


def mixes(model: object) -> bool:
    """Whether one batch of this model may mix its adapters and the base."""
    if not isinstance(model, PeftModel):
        return False
    configs = model.peft_config.values()
    return all(
        config.peft_type == "LORA" and not getattr(config, "use_dora", False) for config in configs
    )
