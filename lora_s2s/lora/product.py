"""What an adapted linear layer computes, as tensors, for a forward that fuses it with others."""

from __future__ import annotations

from dataclasses import dataclass

from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear as DenseLora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lora_s2s.models.quantized import is_quantized, product_weight


@dataclass(frozen=True)
class Product:
    """y = x Wᵀ + scale · drop(x) Aᵀ Bᵀ: A (r, in) and B (out, r) are the adapter's, None without
    one; W (out, in) trains only without one.
    """

    base: nn.Module
    down: nn.Parameter | None = None
    up: nn.Parameter | None = None
    scale: float = 1.0
    dropout: float = 0.0

    def weight(self) -> Tensor:
        """Returns W, dequantised if it is stored in 4 or 8 bits."""
        return product_weight(self.base)

    @property
    def trains(self) -> bool:
        """Whether W trains."""
        return bool(self.base.weight.requires_grad)

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """What trains: A and B, or W, or nothing."""
        if self.down is not None and self.up is not None:
            return (self.down, self.up)
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        return (weight,) if self.trains else ()


def product_of(module: nn.Module, *, frozen: bool = True) -> Product | None:
    """Returns the product that a module computes; None if it computes anything else, such as DoRA,
    or if W trains beside an adapter although it should be ``frozen``.
    """
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    plain = is_quantized(base) or type(base) is nn.Linear
    if (
        not plain
        or base.bias is not None
        or (frozen and module is not base and base.weight.requires_grad)
    ):
        return None
    if module is base:
        return Product(base)
    return _with_adapter(base, module) if isinstance(module, _lora_layers(base)) else None


def _with_adapter(base: nn.Module, layer: LoraLayer) -> Product | None:
    if len(layer.active_adapters) != 1 or layer.merged or layer.disable_adapters:
        return None
    (name,) = layer.active_adapters
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias[name]:
        return None
    dropout = float(getattr(layer.lora_dropout[name], "p", 0.0))
    return Product(
        base,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        float(layer.scaling[name]),
        dropout,
    )


def _lora_layers(base: nn.Module) -> tuple[type, ...]:
    if not is_quantized(base):
        return (DenseLora,)
    from peft.tuners.lora import bnb  # imports bitsandbytes, which made the base

    return (bnb.Linear4bit, bnb.Linear8bitLt)
