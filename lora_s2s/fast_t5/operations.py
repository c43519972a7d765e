"""The operations between attentions as autograd functions that save little and recompute the rest.

All work on flat lists of tokens. Gradients are those of the inputs and of what trains: an adapter's
factors, or in full fine-tuning the weights of products and norms.
Legend: N tokens, D model width, r an adapter's rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_s2s.console import say
from lora_s2s.errors import ran_out_of_memory
from lora_s2s.fast_t5.products import add_narrow_product, narrow_product, weight_gradient
from lora_s2s.fast_t5.products import product as multiplied
from lora_s2s.lora.product import Product
from lora_s2s.models.t5_parts import Norm

Gradients = tuple[Tensor | None, ...]


class Mask(NamedTuple):
    """A dropout mask by its seed: recomputed in the backward pass. ``rate`` 0 is no dropout."""

    rate: float
    seed: int

    @classmethod
    def drawn(cls, rate: float) -> Mask:
        """A mask seeded by the current random state."""
        return cls(rate, int(torch.randint(1 << 62, ())) if rate else 0)

    def on(self, tensor: Tensor) -> Tensor:
        """Applies dropout: sets a fraction ``rate`` to zero, and divides the rest by 1 - rate."""
        if not self.rate:
            return tensor
        generator = torch.Generator(tensor.device).manual_seed(self.seed)
        kept = torch.empty_like(tensor).bernoulli_(1 - self.rate, generator=generator)
        return kept.mul_(tensor).div_(1 - self.rate)


# Devices on which elementwise steps are compiled into one kernel; on a CPU it gains little.
COMPILED_ON = {"cuda"}
_BACKEND = "inductor"
Compiled: TypeAlias = Callable[..., Any]
Step = TypeVar("Step", bound=Compiled)
# autograd's context, on which functions set arbitrary attributes.
Context: TypeAlias = Any


def _one_kernel(step: Step) -> Step:
    """Compiles a function of tensors for all lengths; the first tensor determines the device.

    If one function cannot be compiled (no C compiler, no Triton), all run uncompiled.
    """

    @cache
    def compiled(backend: str) -> Compiled:
        # A single graph: the first of two could overwrite its input before the second one fails.
        return torch.compile(step, dynamic=True, fullgraph=True, backend=backend)

    @wraps(step)
    def call(first: Tensor, *others: object) -> object:
        if first.device.type in COMPILED_ON:
            try:
                return compiled(_BACKEND)(first, *others)
            except Exception as error:  # compilers raise errors of many types
                if ran_out_of_memory(error):
                    raise
                COMPILED_ON.clear()
                say(f"forward: operations are not compiled: {reason_of(error)}")
        return step(first, *others)

    return call  # type: ignore[return-value]


def reason_of(error: BaseException) -> str:
    """An error's type and message on one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@_one_kernel
def _rms_norm(states_ND: Tensor, weight_D: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """RMSNorm's output, rounded like T5's, and 1 / root mean square (N, 1) in float32."""
    wide = torch.promote_types(states_ND.dtype, torch.float32)
    squares = torch.linalg.vector_norm(states_ND, dim=-1, keepdim=True, dtype=wide).square_()
    inverse_N1 = squares.div_(states_ND.shape[-1]).add_(epsilon).rsqrt_()
    return (states_ND * inverse_N1).to(states_ND.dtype).mul_(weight_D), inverse_N1


@_one_kernel
def _norm_backward(
    slope_ND: Tensor, states_ND: Tensor, inverse_N1: Tensor, weight_D: Tensor
) -> Tensor:
    """The gradient of the norm's input; overwrites ``slope_ND``."""
    slope_ND = slope_ND.mul_(weight_D)
    wide = torch.promote_types(slope_ND.dtype, torch.float32)
    dots_N1 = (slope_ND.to(wide) * states_ND).sum(-1, keepdim=True)
    dots_N1.mul_(inverse_N1**3).div_(-states_ND.shape[-1])
    if wide == slope_ND.dtype:
        return slope_ND.mul_(inverse_N1).addcmul_(states_ND, dots_N1)
    return (slope_ND * inverse_N1).addcmul_(states_ND.to(wide), dots_N1).to(slope_ND.dtype)


def _normed(states_ND: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    return _rms_norm(states_ND, norm.weight, norm.epsilon)


class _Lora(NamedTuple):
    """Saved for an adapter's backward pass: B's input (N, r) and the dropout mask before A."""

    reduced_Nr: Tensor
    mask: Mask


def _product(
    inputs_ND: Tensor,
    product: Product,
    *,
    training: bool,
    scale: float = 1.0,
    onto: Tensor | None = None,
) -> tuple[Tensor, _Lora | None]:
    """``onto`` + scale · product(inputs), and what the backward pass needs."""
    outputs = multiplied(inputs_ND, product.weight(), onto=onto, scale=scale)
    if product.down is None or product.up is None:
        return outputs, None
    mask = Mask.drawn(product.dropout if training else 0.0)
    down_rD, up_Dr = product.down.to(inputs_ND.dtype), product.up.to(inputs_ND.dtype)
    reduced_Nr = narrow_product(mask.on(inputs_ND), down_rD.t())
    add_narrow_product(outputs, reduced_Nr, up_Dr.t(), product.scale * scale)
    return outputs, _Lora(reduced_Nr, mask)


def _product_backward(
    slope: Tensor,
    product: Product,
    kept: _Lora | None,
    inputs: Callable[[], Tensor],
    *,
    onto: Tensor | None,
    input_gradient: bool,
    scale: float = 1.0,
) -> tuple[Tensor | None, Gradients]:
    """``onto`` + the gradient of the inputs, and the gradients of what trains.

    Args:
        inputs: recomputes the product's inputs (N, D); called only if A or W needs them.
        input_gradient: whether the gradient of the inputs is needed.
    """
    gradient = onto
    if input_gradient:
        gradient = multiplied(slope, product.weight().t(), onto=onto, scale=scale)
    if kept is None or product.down is None or product.up is None:
        if not product.trains:
            return gradient, ()
        return gradient, (weight_gradient(slope, inputs()),)  # in float32, so the scale is 1
    scale = product.scale * scale
    inner_Nr = narrow_product(slope, product.up.to(slope.dtype))
    reduced_rD = narrow_product(inner_Nr.t(), kept.mask.on(inputs()))
    down_rD = reduced_rD.to(product.down.dtype).mul_(scale)
    up = narrow_product(slope.t(), kept.reduced_Nr).to(product.up.dtype).mul_(scale)
    down = product.down.to(slope.dtype)
    if gradient is not None and kept.mask.rate:
        gradient.add_(kept.mask.on(narrow_product(inner_Nr, down)), alpha=scale)
    elif gradient is not None:
        add_narrow_product(gradient, inner_Nr, down, scale)
    return gradient, (down_rD, up)


class _Products(torch.autograd.Function):
    """Several products of one input, after an optional norm, whose output is not saved."""

    @staticmethod
    def forward(
        ctx: Context,
        states_ND: Tensor,
        norm: Norm | None,
        products: Sequence[Product],
        training: bool,
        _norm_weight: Tensor | None,
        *_trained: Tensor,
    ) -> Tensor | tuple[Tensor, ...]:
        ctx.norm, ctx.products = norm, products
        inputs_ND, inverse_N1 = (states_ND, None) if norm is None else _normed(states_ND, norm)
        if not products:
            ctx.kept = []
            ctx.save_for_backward(states_ND, inverse_N1)
            return inputs_ND
        results = [_product(inputs_ND, product, training=training) for product in products]
        ctx.kept = [None if lora is None else lora.mask for _, lora in results]
        ctx.save_for_backward(
            states_ND, inverse_N1, *(lora.reduced_Nr for _, lora in results if lora)
        )
        return tuple(outputs for outputs, _ in results)

    @staticmethod
    def backward(ctx: Context, *slopes: Tensor) -> Gradients:
        states_ND, inverse_N1, *reduced = ctx.saved_tensors
        rows = iter(reduced)
        again: list[Tensor] = []

        def inputs() -> Tensor:
            if not again:
                again.append(states_ND if ctx.norm is None else _normed(states_ND, ctx.norm)[0])
            return again[0]

        slope_ND = None if ctx.products else slopes[0].clone()
        gradients: list[Tensor | None] = []
        for product, mask, slope in zip(
            ctx.products, ctx.kept, slopes[: len(ctx.products)], strict=True
        ):
            slope_ND, factors = _product_backward(
                slope,
                product,
                None if mask is None else _Lora(next(rows), mask),
                inputs,
                onto=slope_ND,
                input_gradient=ctx.needs_input_grad[0] or ctx.needs_input_grad[4],
            )
            gradients += factors
        by_norm_D = None
        if slope_ND is not None and ctx.norm is not None:
            if ctx.needs_input_grad[4]:
                by_norm_D = (slope_ND * states_ND).mul_(inverse_N1).sum(0)
            slope_ND = _norm_backward(slope_ND, states_ND, inverse_N1, ctx.norm.weight)
        return slope_ND, None, None, None, by_norm_D, *gradients


def products(
    states_ND: Tensor, norm: Norm | None, chosen: Sequence[Product], *, training: bool
) -> tuple[Tensor, ...]:
    """Each product of the states, after an optional norm."""
    trained = [one for product in chosen for one in product.trained]
    weight_D = None if norm is None else norm.weight
    outputs: tuple[Tensor, ...] = _Products.apply(  # type: ignore[no-untyped-call]
        states_ND, norm, chosen, training, weight_D, *trained
    )
    return outputs


def normed(states_ND: Tensor, norm: Norm) -> Tensor:
    """RMSNorm of the states."""
    return _Products.apply(states_ND, norm, (), False, norm.weight)  # type: ignore[no-any-return, no-untyped-call]


class Activation(NamedTuple):
    """An activation, and its gradient by its output's gradient and its input."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


_aten = torch.ops.aten
ACTIVATIONS = {
    # transformers' gelu_new is the tanh approximation.
    "gelu_new": Activation(
        lambda x: F.gelu(x, approximate="tanh"),
        lambda slope, x: _aten.gelu_backward(slope, x, approximate="tanh"),
    ),
    "relu": Activation(torch.relu, lambda slope, x: _aten.threshold_backward(slope, x, 0)),
    "silu": Activation(F.silu, _aten.silu_backward),
}


@_one_kernel
def _gated(gate: Tensor, linear: Tensor, activation: str) -> Tensor:
    return ACTIVATIONS[activation].forward(gate) * linear


@_one_kernel
def _gated_backward(
    slope: Tensor, gate: Tensor, linear: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    """The gradients of gate and linear; overwrites ``slope``."""
    passed = ACTIVATIONS[activation].forward(gate).mul_(slope)
    return ACTIVATIONS[activation].backward(slope.mul_(linear), gate), passed


def activated(activation: str | None, inputs: Sequence[Tensor]) -> Tensor:
    """activation(first input), times the second input if there is one."""
    if activation is None:
        return inputs[0]
    if len(inputs) == 1:
        return ACTIVATIONS[activation].forward(inputs[0])
    gate, linear = inputs
    return _gated(gate, linear, activation)


def _activated_backward(
    activation: str | None, slope: Tensor, inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    if activation is None:
        return (slope,)
    if len(inputs) == 1:
        return (ACTIVATIONS[activation].backward(slope, inputs[0]),)
    gate, linear = inputs
    return _gated_backward(slope, gate, linear, activation)


class _Residual(torch.autograd.Function):
    """residual + drop(product(drop(activated inputs))), without saving intermediate results."""

    @staticmethod
    def forward(
        ctx: Context,
        residual_ND: Tensor,
        product: Product,
        activation: str | None,
        rates: tuple[float, float],
        scale: float,
        training: bool,
        count: int,
        *tensors: Tensor,
    ) -> Tensor:
        inputs = tensors[:count]
        ctx.inner, ctx.outer = Mask.drawn(rates[0]), Mask.drawn(rates[1])
        ctx.product, ctx.activation, ctx.scale, ctx.count = product, activation, scale, count
        hidden = ctx.inner.on(activated(activation, inputs))
        onto = None if rates[1] else residual_ND
        outputs_ND, lora = _product(hidden, product, training=training, scale=scale, onto=onto)
        ctx.mask = None if lora is None else lora.mask
        # Where nothing of the product trains, inputs are needed only for the activation's gradient.
        ctx.needed = activation is not None or lora is not None or product.trains
        ctx.save_for_backward(
            *(inputs if ctx.needed else ()), *((lora.reduced_Nr,) if lora else ())
        )
        return ctx.outer.on(outputs_ND).add_(residual_ND) if rates[1] else outputs_ND

    @staticmethod
    def backward(ctx: Context, slope_ND: Tensor) -> Gradients:
        saved = ctx.saved_tensors  # once: a checkpoint recomputes them at every access
        inputs, reduced = (saved[: ctx.count], saved[ctx.count :]) if ctx.needed else ((), ())
        dropped_ND = ctx.outer.on(slope_ND)
        hidden, factors = _product_backward(
            dropped_ND,
            ctx.product,
            _Lora(reduced[0], ctx.mask) if reduced else None,
            lambda: ctx.inner.on(activated(ctx.activation, inputs)),
            onto=None,
            input_gradient=any(ctx.needs_input_grad[7 : 7 + ctx.count]),
            scale=ctx.scale,
        )
        slopes: Gradients = (None,) * ctx.count
        if hidden is not None:
            slopes = _activated_backward(ctx.activation, ctx.inner.on(hidden), inputs)
        return slope_ND, None, None, None, None, None, None, *slopes, *factors


def onto_residual(
    residual_ND: Tensor,
    product: Product,
    inputs: Sequence[Tensor],
    *,
    activation: str | None = None,
    inner_rate: float = 0.0,
    rate: float = 0.0,
    scale: float = 1.0,
    training: bool,
) -> Tensor:
    """residual + dropout(product(dropout(activated inputs))).

    Args:
        inputs: (N, width) each; see :func:`activated`.
        inner_rate, rate: dropout before and after the product.
        scale: factor of the product's inputs: 2^-k if float16 needs it.
    """
    return _Residual.apply(  # type: ignore[no-any-return, no-untyped-call]
        residual_ND,
        product,
        activation,
        (inner_rate, rate),
        scale,
        training,
        len(inputs),
        *inputs,
        *product.trained,
    )
