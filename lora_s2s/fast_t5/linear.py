"""Several linear layers of one input as one product, for inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_s2s.lora.product import Product, product_of


class Linear:
    """The outputs of linear layers, side by side in the last dimension.

    Args:
        modules: with adapters of any method in them.
        fold: whether dense weights may be copied, side by side and with the adapter in them.
            Otherwise the modules themselves are called.
    """

    def __init__(self, modules: Sequence[nn.Module], *, fold: bool) -> None:
        self._modules = modules
        products = [
            product_of(module, frozen=False) for module in modules if not module._forward_hooks
        ]
        folded = [_folded(product) for product in products if product is not None and fold]
        whole = len(folded) == len(modules)
        self._weight = (torch.cat(folded) if len(folded) > 1 else folded[0]) if whole else None

    def __call__(self, inputs: Tensor) -> Tensor:
        if self._weight is None:
            return torch.cat([module(inputs) for module in self._modules], dim=-1)
        return product(inputs, self._weight)

    def onto(self, residual: Tensor, inputs: Tensor) -> Tensor:
        """The outputs, added to a residual."""
        return residual + self(inputs)


def _folded(product: Product) -> Tensor:
    """The one matrix (out, in) that a dense layer and its adapter multiply with."""
    weight = product.weight()
    if product.down is None or product.up is None:
        return weight
    return torch.addmm(weight, product.up, product.down, alpha=product.scale)


def product(inputs: Tensor, weight: Tensor) -> Tensor:
    """Returns inputs · weightᵀ.

    On a CPU by oneDNN: torch's own products are MKL's, which use half of AMD's AVX-512 only.
    """
    if inputs.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, None, "none", [], "")
        return result
    return F.linear(inputs, weight)
