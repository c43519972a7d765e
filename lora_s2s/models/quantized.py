"""A frozen base in 4 or 8 bits: every linear layer of every block, from the checkpoint's own
values.

The only file that uses bitsandbytes. Embeddings, head and norms stay in the base's dtype; nothing
is cast to float32. Both kinds of layer compute the same in training and evaluation, on a CPU and on
a GPU: y = x Wᵀ with W dequantised for the product, and again in the backward pass.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig, PreTrainedModel

from lora_s2s.errors import DataError, SetupError, UsageError, nearest
from lora_s2s.models.family import ModelFamily
from lora_s2s.recipe.fields import Quantization

QUANTIZATIONS = get_args(Quantization)

# Weights that share one absmax.
_BLOCK = 64

# A dense linear layer, or one of bitsandbytes, whose attributes depend on its bits.
Layer: TypeAlias = Any

# On import it logs that a faster CPU kernel could be downloaded; peft imports it too.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

_INITIALISERS = frozenset(
    function for name, function in vars(nn.init).items() if name[0] != "_" and name[-1] == "_"
)


class _Uninitialised(TorchFunctionMode):
    """Leaves new weights as they are, in this thread: those on the meta device have no values."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return None if func in _INITIALISERS else func(*args, **(kwargs or {}))


def skeleton(
    family: ModelFamily,
    config: PreTrainedConfig,
    *,
    dtype: torch.dtype,
    quantization: str = "none",
    skip: Sequence[str] = (),
) -> PreTrainedModel:
    """Returns the model on the meta device, with quantized linear layers if asked for.

    Args:
        skip: name endings of layers that stay in ``dtype``, such as ``wo``.

    Raises:
        UsageError: no such quantization, an ending that no layer has (those that exist are listed),
            or a layer whose rows nf4 cannot store.
        DataError: no model can be built from the config, though each size is valid.
        SetupError: bitsandbytes is missing.
    """
    if quantization not in QUANTIZATIONS:
        names = ", ".join(QUANTIZATIONS)
        raise UsageError(
            f"unknown quantization '{quantization}'{nearest(quantization, QUANTIZATIONS)}",
            hint=f"set model.quantization to one of {names}",
        )
    # Attention scores that are capped (T5Gemma) or local (LongT5) have no fused kernel.
    attention = "sdpa" if family.model_class._supports_sdpa else "eager"
    try:
        with _Uninitialised(), torch.device("meta"):
            model = family.model_class._from_config(
                config, dtype=dtype, attn_implementation=attention
            )
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(
            f"no model can be made of the config: {reason}", hint="take the base's own config.json"
        ) from error
    chosen = _chosen(family, model, skip)
    if quantization == "nf4":
        _check_rows(model, chosen)
    if quantization != "none":
        for name in chosen:
            model.set_submodule(name, _layer(model.get_submodule(name), quantization, dtype))
        # PEFT chooses its layers by these attributes.
        setattr(
            model, {"nf4": "is_loaded_in_4bit", "int8": "is_loaded_in_8bit"}[quantization], True
        )
    return model


def _chosen(family: ModelFamily, model: PreTrainedModel, skip: Sequence[str]) -> list[str]:
    pattern = re.compile(family.adaptable)
    names = [
        name
        for name, module in model.named_modules()
        if pattern.fullmatch(name) and isinstance(module, nn.Linear)
    ]
    kinds = sorted({name.split(".")[-1] for name in names})
    for ending in skip:
        if not any(f".{name}".endswith(f".{ending}") for name in names):
            raise UsageError(
                "model.skip_quantization: no linear layer ends in "
                f"'{ending}'{nearest(ending, kinds)}",
                hint=f"those that exist: {', '.join(kinds)}",
            )
    return [
        name for name in names if not f".{name}".endswith(tuple(f".{ending}" for ending in skip))
    ]


def _check_rows(model: PreTrainedModel, names: Sequence[str]) -> None:
    """On a CPU bitsandbytes 0.50 dequantises with the scales of other blocks unless rows are whole
    blocks.
    """
    for name in names:
        if (inputs := model.get_submodule(name).in_features) % _BLOCK:
            raise UsageError(
                f"nf4 stores blocks of {_BLOCK} weights; the rows of {name} have {inputs}",
                hint="set model.quantization=int8, or "
                f"model.skip_quantization=[{name.split('.')[-1]}]",
            )


@cache
def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
        import bitsandbytes.optim
    except ImportError as error:
        hint = (
            "pip install bitsandbytes, or set model.quantization=none and training.optimizer=adamw"
        )
        raise SetupError(
            f"this needs bitsandbytes, which cannot be imported: {error}", hint=hint
        ) from error
    return bitsandbytes


def _layer(linear: nn.Linear, quantization: str, dtype: torch.dtype) -> Layer:
    library = _bitsandbytes()
    sizes, bias = (linear.in_features, linear.out_features), linear.bias is not None
    if quantization == "nf4":
        # Stored as dtype: T5 casts its input to the dtype of wo's weight, which must not be uint8.
        layer = library.nn.Linear4bit(
            *sizes,
            bias=bias,
            compute_dtype=dtype,
            quant_type="nf4",
            quant_storage=dtype,
            device="meta",
        )
        # Otherwise an evaluation on a CPU repacks the weights, and gradients no longer pass them.
        layer.support_avx512bf16_for_cpu = False
    else:
        layer = _int8_layer()(*sizes, bias=bias, has_fp16_weights=False, device="meta")
        layer.compute_dtype = dtype
    if linear.bias is not None:
        layer.bias = linear.bias
    return layer


@cache
def _int8_layer() -> type[Layer]:
    """Returns bitsandbytes' 8-bit layer, which PEFT supports, without its cast to float16, which
    T5's activations overflow.
    """

    class Int8Linear(_bitsandbytes().nn.Linear8bitLt):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = _Int8Product.apply(x, self.weight.data, self.state.SCB)  # type: ignore[no-untyped-call]
            return y if self.bias is None else y + self.bias

    return Int8Linear


class _Int8Product(torch.autograd.Function):
    """x (…, in) times codes (out, in) · scales (out) / 127; the dequantised weight is not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scales)
        return nn.functional.linear(x, _scaled(codes, scales, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        codes, scales = ctx.saved_tensors
        return gradient @ _scaled(codes, scales, gradient.dtype), None, None


def _scaled(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    # Rounded to dtype only once, after the product.
    values = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    return torch.mul(codes, (scales.to(codes.device) / 127).unsqueeze(1), out=values)


def is_quantized(module: nn.Module) -> bool:
    """Whether this is a layer of 4 or 8 bits (not an adapter around one)."""
    return type(module._parameters.get("weight")).__name__ in ("Params4bit", "Int8Params")


def fill(layer: Layer, weight: Tensor) -> None:
    """Quantises a checkpoint's weight (out, in), of any float dtype, into a layer of
    :func:`skeleton`, which moves to the weight's device.
    """
    library, values = _bitsandbytes(), weight.float()
    if isinstance(layer, library.nn.Linear4bit):
        storage = layer.quant_storage
        codes, state = library.functional.quantize_4bit(
            values,
            blocksize=_BLOCK,
            compress_statistics=True,
            quant_type="nf4",
            quant_storage=storage,
        )
        state.dtype = layer.compute_dtype
        layer.weight = library.nn.Params4bit(
            codes,
            quant_state=state,
            blocksize=_BLOCK,
            quant_type="nf4",
            quant_storage=storage,
            module=layer,
            bnb_quantized=True,
        )
        layer.quant_state = state
    else:
        layer.state.SCB = values.abs().amax(dim=1)
        # A row of zeros has scale 0.
        steps = 127 / layer.state.SCB.clamp_min(torch.finfo(torch.float32).tiny * 127)
        codes = (values * steps.unsqueeze(1)).round_().to(torch.int8)
        layer.weight = library.nn.Int8Params(codes, requires_grad=False)


def dequantized_weight(module: Layer) -> Tensor:
    """Returns the matrix that a layer multiplies by, float32 (out, in): dequantised, or an ordinary
    layer's own weight.
    """
    return product_weight(module).float()


def product_weight(module: Layer) -> Tensor:
    """Returns the same matrix in the layer's own dtype, without a copy if the layer is dense."""
    weight, kind = module.weight, type(module.weight).__name__
    if kind == "Params4bit":
        values: Tensor = _bitsandbytes().functional.dequantize_4bit(weight.data, weight.quant_state)
        return values
    if kind == "Int8Params":
        return _scaled(weight.data, module.state.SCB, module.compute_dtype)
    return weight.detach()  # type: ignore[no-any-return]


def elements(parameter: Tensor) -> int:
    """Returns how many weights a parameter holds, counting those packed into one number."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def adamw(
    parameters: Iterable[Tensor] | Iterable[dict[str, object]],
    *,
    lr: float,
    weight_decay: float = 0.0,
    eight_bit: bool,
    paged: bool,
) -> torch.optim.Optimizer:
    """Returns bitsandbytes' AdamW: with its state in 8 bits, or paged out of a full GPU, or both.

    Args:
        parameters: parameters or groups; tensors of fewer than 4,096 numbers keep float32 state.

    Raises:
        SetupError: bitsandbytes is missing.
    """
    made: torch.optim.Optimizer = _bitsandbytes().optim.AdamW(
        parameters,
        lr=lr,
        weight_decay=weight_decay,
        optim_bits=8 if eight_bit else 32,
        is_paged=paged,
    )
    return made
