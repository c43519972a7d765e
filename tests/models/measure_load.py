"""Loads bases in a process of its own; writes, in bytes, how far memory rose for each and how large
the model is.
"""

from __future__ import annotations

import json
import sys

import torch
from resident_memory import rise


def measured(folder: str, quantization: str) -> dict[str, int]:
    risen = rise()
    model = load_base(folder, dtype="bfloat16", quantization=quantization, device="cpu").model
    peak = risen()
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    return {"peak": peak, "model": sum(tensor.nbytes for tensor in tensors.values())}


if __name__ == "__main__":
    from lora_s2s.models.loading import load_base

    torch.set_num_threads(1)
    small, large, *quantizations = sys.argv[1:]
    # Imports and first uses are not what is measured.
    kept = [
        load_base(small, quantization=quantization, device="cpu") for quantization in quantizations
    ]
    sys.stdout.write(json.dumps({name: measured(large, name) for name in quantizations}))
