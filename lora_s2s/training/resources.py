"""Memory, measured the same way for every run, and what is said when there is not enough."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lora_s2s.errors import ResourceError


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the peak so far in bytes: allocated on a CUDA device, else resident in this process (0: unknown)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":  # has no resource module
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


@contextmanager
def told_when_out_of_memory() -> Iterator[None]:
    """Turns torch's out-of-memory errors, on a GPU and on a CPU, into one message.

    Raises:
        ResourceError: memory ran out inside the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch raises a plain RuntimeError; its text is the only mark.
        full = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not full:
            raise
        hint = "halve training.tokens_per_batch and double training.gradient_accumulation: the same step in less memory"
        raise ResourceError("out of memory while training", hint=hint) from error
