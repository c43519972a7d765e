"""The products with a model's weights, by the fastest library that is there."""

from __future__ import annotations

import torch
from torch import Tensor


def product(
    inputs: Tensor, weight: Tensor, *, onto: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Returns ``onto`` + scale · inputs · weightᵀ, without a gradient.

    Args:
        inputs: (…, in).
        weight: (out, in), in the type of the inputs; also a transposed view.
    """
    if not _by_onednn(inputs):
        if onto is not None:
            return torch.addmm(onto, inputs, weight.t(), alpha=scale)
        return (inputs if scale == 1 else inputs * scale) @ weight.t()
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, None, "none", [], "")
    if scale != 1:
        outputs.mul_(scale)
    return outputs if onto is None else outputs.add_(onto)


def _by_onednn(inputs: Tensor) -> bool:
    """Whether oneDNN multiplies: torch's own float32 products on a CPU are MKL's, which on AMD
    leave half of AVX-512 unused.
    """
    on_cpu = inputs.device.type == "cpu" and inputs.dtype == torch.float32
    return on_cpu and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
