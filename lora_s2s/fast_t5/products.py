"""The products with a model's weights, by the fastest library that is there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_s2s.models.precision import is_emulated

# oneDNN keeps memory of a weight's size for every number of rows that it meets, so it meets two.
# From so many rows on, it is faster with empty ones added than MKL without.
_SIZES = {128: 56, 32: 16}
_FEWEST = min(_SIZES.values())
_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
# Tokens that one product sums over in a weight's gradient.
_SUMMED = 256


def product(
    inputs: Tensor, weight: Tensor, *, onto: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Returns ``onto`` + scale · inputs · weightᵀ, without a gradient.

    Args:
        inputs: (N, in).
        weight: (out, in), in the type of the inputs; also a transposed view.
        onto: (N, out).
    """
    if _by_float32(inputs):
        outputs = product(inputs.float(), weight.float(), scale=scale)
        return (outputs if onto is None else outputs.add_(onto)).to(inputs.dtype)
    if not _by_onednn(inputs):
        if onto is not None:
            return torch.addmm(onto, inputs, weight.t(), alpha=scale)
        return (inputs if scale == 1 else inputs * scale) @ weight.t()
    outputs = _onednn(inputs, weight) if inputs.shape[0] in _SIZES else _in_blocks(inputs, weight)
    if scale != 1:
        outputs.mul_(scale)
    return outputs if onto is None else outputs.add_(onto)


def weight_gradient(slopes: Tensor, inputs: Tensor) -> Tensor:
    """Returns slopesᵀ · inputs, the gradient (out, in) of a product's weight.

    Args:
        slopes: (N, out).
        inputs: (N, in), in the type of the slopes.
    """
    if _by_float32(inputs):
        return weight_gradient(slopes.float(), inputs.float()).to(inputs.dtype)
    if not _by_onednn(inputs):
        return slopes.t() @ inputs
    gradient, start = inputs.new_zeros(slopes.shape[1], inputs.shape[1]), 0
    while (rows := min(_SUMMED, len(inputs) - start)) >= _SUMMED // 2:
        padding = (0, 0, 0, _SUMMED - rows)
        slope, block = (F.pad(one[start : start + rows], padding) for one in (slopes, inputs))
        gradient.add_(_onednn(slope.t().contiguous(), block.t().contiguous()))
        start += rows
    return gradient.addmm_(slopes[start:].t(), inputs[start:])


def narrow_product(left: Tensor, right: Tensor) -> Tensor:
    """Returns left · right, of which one is as narrow as an adapter's rank, in their type."""
    if is_emulated(left.dtype, left.device):
        return (left.float() @ right.float()).to(left.dtype)
    return left @ right


def add_narrow_product(onto: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Adds scale · left · right, as of :func:`narrow_product`."""
    if is_emulated(left.dtype, left.device):
        onto.add_(left.float() @ right.float(), alpha=scale)
    else:
        onto.addmm_(left, right, alpha=scale)


def _by_float32(inputs: Tensor) -> bool:
    """Whether conversions to float32 and back take less time than a product without them."""
    return is_emulated(inputs.dtype, inputs.device) and inputs.shape[0] >= _FEWEST


def _by_onednn(inputs: Tensor) -> bool:
    """Whether oneDNN multiplies: torch's own float32 products on a CPU are MKL's, which on AMD
    leave half of AVX-512 unused.
    """
    usable = inputs.device.type == "cpu" and inputs.dtype == torch.float32
    enough = inputs.shape[0] >= _FEWEST
    return usable and enough and _HAS_ONEDNN


def _in_blocks(inputs: Tensor, weight: Tensor) -> Tensor:
    count, start = inputs.shape[0], 0
    outputs = inputs.new_empty(count, weight.shape[0])
    for size, least in _SIZES.items():
        while (rows := min(size, count - start)) >= least:
            block = slice(start, start + rows)
            padded = F.pad(inputs[block], (0, 0, 0, size - rows)) if rows < size else inputs[block]
            outputs[block] = _onednn(padded, weight)[:rows]
            start += rows
    if start < count:
        outputs[start:] = inputs[start:] @ weight.t()
    return outputs


def _onednn(inputs: Tensor, weight: Tensor) -> Tensor:
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, None, "none", [], "")
    return outputs
