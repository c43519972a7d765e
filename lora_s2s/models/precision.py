"""The device, and the dtype of a base's weights on it."""

from __future__ import annotations

import torch

from lora_s2s.errors import SetupError, UsageError, nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


_NATIVE = {
    torch.bfloat16: "_is_mkldnn_bf16_supported",
    torch.float16: "_is_mkldnn_fp16_supported",
}


def is_emulated(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a CPU has no instructions for a 16-bit dtype: products take 8 to 70 times as long as
    in float32 (AVX2).
    """
    if device.type != "cpu" or dtype not in _NATIVE:
        return False
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return not (available and getattr(torch.ops.mkldnn, _NATIVE[dtype])())


def dtype_name(dtype: torch.dtype) -> str:
    """Returns a dtype as recipes, configs and manifests write it."""
    return str(dtype).removeprefix("torch.")


def device_name(device: torch.device) -> str:
    """Returns a GPU's name, or a CPU's instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.backends.cpu.get_cpu_capability()})"


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Returns the requested device; None or ``auto`` is the CUDA GPU if there is one, else the CPU.

    Raises:
        UsageError: there is no such kind of device.
        SetupError: CUDA is requested and not available.
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
    """Returns the dtype of the base's weights.

    Args:
        name: ``auto`` (bfloat16 on a GPU that computes in it, float16 on any other GPU, float32 on
            a CPU), ``float32``, ``bfloat16`` or ``float16`` (slow on a CPU).

    Raises:
        UsageError: unknown, or not possible on this device.
    """
    on_gpu = device.type == "cuda"
    computes_bfloat16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        on_this_gpu = torch.bfloat16 if computes_bfloat16 else torch.float16
        return on_this_gpu if on_gpu else torch.float32
    if name not in DTYPES:
        names = ("auto", *DTYPES)
        raise UsageError(
            f"unknown dtype '{name}'{nearest(name, names)}", hint=f"use one of {', '.join(names)}"
        )
    if name == "bfloat16" and on_gpu and not computes_bfloat16:
        raise UsageError("this GPU does not compute in bfloat16", hint="use float16, or float32")
    return DTYPES[name]
