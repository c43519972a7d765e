"""Weights divided among processes (torch's DTensor), beside ordinary ones."""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def is_divided(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether each process holds a part of the tensor."""
    return isinstance(tensor, DTensor)


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor, on every process; all must call it if it is divided."""
    return tensor.full_tensor() if is_divided(tensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory: all of it, unless it is divided."""
    return tensor.to_local() if is_divided(tensor) else tensor


def copy_whole(target: Tensor, whole: Tensor) -> None:
    """Copies a whole tensor, the same on every process, into one that may be divided."""
    if is_divided(target):
        there = whole.to(target.device)
        # Without a source rank nothing is sent: each process takes its part.
        whole = distribute_tensor(there, target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(whole)
