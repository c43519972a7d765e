"""Which device, and which number format on it."""

from __future__ import annotations

import torch

from lora_s2s.errors import SetupError, UsageError, nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_name(dtype: torch.dtype) -> str:
    """Returns a number format as recipes, configs and manifests write it."""
    return str(dtype).removeprefix("torch.")


def device_name(device: torch.device) -> str:
    """Returns what decides the last digits of a sum: a GPU's name, or a CPU's instructions and how
    many threads.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU ({torch.backends.cpu.get_cpu_capability()}), {threads} thread{'s' * (threads > 1)}"


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Returns the device asked for; None or ``auto`` is the CUDA GPU where there is one, else the
    CPU.

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
        raise SetupError(
            "no CUDA GPU is available to this torch",
            hint="use the CPU, or install a CUDA build of torch",
        )
    return chosen


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Returns the number format of the base's weights.

    Args:
        name: ``auto`` (bfloat16 on a GPU that computes in it, float16 on any other GPU, float32 on
            a CPU), ``float32``, ``bfloat16`` or ``float16`` (slow on a CPU).

    Raises:
        UsageError: unknown, or not possible on this device.
    """
    computes_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(
        including_emulation=False
    )
    if name == "auto":
        return (
            torch.float32
            if device.type != "cuda"
            else torch.bfloat16
            if computes_bfloat16
            else torch.float16
        )
    if name not in DTYPES:
        known = ("auto", *DTYPES)
        raise UsageError(
            f"unknown dtype '{name}'{nearest(name, known)}", hint=f"use one of {', '.join(known)}"
        )
    if name == "bfloat16" and device.type == "cuda" and not computes_bfloat16:
        raise UsageError("this GPU does not compute in bfloat16", hint="use float16, or float32")
    return DTYPES[name]
