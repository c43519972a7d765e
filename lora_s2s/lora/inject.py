"""LoRA on a base: y = W x + (alpha / r) B A x, with A random, B zero, so that nothing changes before training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from lora_s2s.errors import UsageError
from lora_s2s.lora.targets import Targets, resolve_targets
from lora_s2s.models.loading import LoadedBase

LARGEST_RANK = 4096
_LATER = ("dora", "rslora", "pissa", "eva", "adalora", "loftq", "vera", "ia3")


def inject_lora(
    base: LoadedBase,
    *,
    r: int,
    alpha: float,
    dropout: float,
    target_modules: str | Sequence[str],
    method: str = "lora",
    seed: int,
) -> PeftModel:
    """Wraps the base's modules in place and returns the adapted model, in evaluation mode.

    Only the adapter trains; its weights are float32 whatever the base's are, and depend on ``seed`` alone.

    Args:
        target_modules: see :func:`lora_s2s.lora.targets.resolve_targets`.
        seed: of A's initial values; the caller's random state is left alone.

    Raises:
        UsageError: an unknown target or method, a rank beyond the layers' sizes, or an adapter is there already.
    """
    if method != "lora":
        later = " is not in this version" if method in _LATER else ": no such method"
        raise UsageError(f"lora.method={method}{later}", hint="set lora.method=lora")
    targets = resolve_targets(base, target_modules)
    # Checked before anything of its size is allocated.
    most = min(LARGEST_RANK, max(min(shape) for shape in targets.shapes.values()))
    if not 1 <= r <= most:
        raise UsageError(f"lora.r is {r}; on this base it may be 1 to {most}", hint="16 is a good start")
    return wrap(base, targets, r=r, alpha=alpha, dropout=dropout, seed=seed).eval()


def wrap(
    base: LoadedBase, targets: Targets, *, r: int, alpha: float, dropout: float, seed: int = 0, rslora: bool = False
) -> PeftModel:
    """Wraps checked targets; see :func:`inject_lora`.

    Raises:
        UsageError: the base carries an adapter already.
    """
    if any("lora_" in name for name, _ in base.model.named_modules()):
        raise UsageError("this base carries an adapter already", hint="load the base again")
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets.spec,
        use_rslora=rslora,
        bias="none",
        task_type="SEQ_2_SEQ_LM",
    )
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        # PEFT warns when the name on record differs from the model's folder; the record is set below.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model: Any = get_peft_model(base.model, config)
    config.base_model_name_or_path = base.name
    config.revision = base.revision
    return model


def trainable_parameters(model: nn.Module) -> int:
    """Returns how many numbers train."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def total_parameters(model: nn.Module) -> int:
    """Returns how many numbers there are, the adapter's too, a tied matrix once."""
    return sum(parameter.numel() for parameter in model.parameters())
