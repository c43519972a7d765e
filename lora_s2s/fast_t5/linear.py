"""Several linear layers of one input as one product, for inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lora_s2s.fast_t5.products import product
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
        plain = [module for module in modules if fold and not module._forward_hooks]
        products = [product_of(module, frozen=False) for module in plain]
        folded = [_folded(one) for one in products if one is not None]
        whole = len(folded) == len(modules)
        self._weight = (torch.cat(folded) if len(folded) > 1 else folded[0]) if whole else None

    def __call__(self, inputs: Tensor) -> Tensor:
        if self._weight is None:
            return torch.cat([module(inputs) for module in self._modules], dim=-1)
        return product(inputs, self._weight)

    def onto(self, residual: Tensor, inputs: Tensor) -> Tensor:
        """The outputs, added to a residual."""
        if self._weight is None:
            return residual + self(inputs)
        return product(inputs, self._weight, onto=residual)


def _folded(layer: Product) -> Tensor:
    """The one matrix (out, in) that a dense layer and its adapter multiply with."""
    weight = layer.weight()
    if layer.down is None or layer.up is None:
        return weight
    return torch.addmm(weight, layer.up, layer.down, alpha=layer.scale)
