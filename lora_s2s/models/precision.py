"""Which device, and which number format on it."""

from __future__ import annotations

import torch

from lora_s2s.errors import SetupError, UsageError, nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_NAMES = ("auto", *DTYPES, "float16")


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Returns the device asked for; None or ``auto`` is the CUDA GPU where there is one, else the CPU.

    Raises:
        UsageError: no such kind of device.
        SetupError: CUDA is asked for and there is none.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{device}'", hint="use cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise SetupError("no CUDA GPU is available to this torch", hint="use the CPU, or install a CUDA build of torch")
    return chosen


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Returns the number format of the base's weights.

    Args:
        name: ``auto`` (bfloat16 on a GPU that computes in it, else float32), ``float32`` or ``bfloat16``.

    Raises:
        UsageError: unknown, or not possible on this device.
    """
    computes_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        return torch.bfloat16 if computes_bfloat16 else torch.float32
    if name == "float16":
        reason = "T5 overflows it" if device.type == "cuda" else "a CPU does not compute in it"
        raise UsageError(f"dtype float16 is not in this version: {reason}", hint="use float32, or bfloat16")
    if name not in DTYPES:
        raise UsageError(f"unknown dtype '{name}'{nearest(name, _NAMES)}", hint="use auto, float32 or bfloat16")
    if name == "bfloat16" and device.type == "cuda" and not computes_bfloat16:
        raise UsageError("this GPU does not compute in bfloat16", hint="use float32")
    return DTYPES[name]
