"""Attention over flat lists of tokens. Position biases and masks are computed once per batch.

Legend: N, M source and target tokens; n rows of a group, S and T its widths; H heads of size d.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_s2s.fast_t5.layout import Layout, Side
from lora_s2s.fast_t5.operations import Compiled, Context
from lora_s2s.models.precision import is_emulated
from lora_s2s.models.t5_parts import farthest, relative_bias

if TYPE_CHECKING:
    from lora_s2s.models.t5_parts import RelativePositions


class Attend(Protocol):
    """Softmax(q kᵀ + bias) v within each row, heads side by side in the last dimension."""

    def begin(self, relative: RelativePositions, like: Tensor, *, causal: bool) -> None:
        """Computes the bias of a table ahead of the blocks."""

    def encoder(
        self, q_N: Tensor, k_N: Tensor, v_N: Tensor, heads: int, relative: RelativePositions
    ) -> Tensor:
        """Source over source."""

    def decoder(
        self, q_M: Tensor, k_M: Tensor, v_M: Tensor, heads: int, relative: RelativePositions
    ) -> Tensor:
        """Target over itself and earlier tokens."""

    def cross(self, q_M: Tensor, k_N: Tensor, v_N: Tensor, heads: int) -> Tensor:
        """Target over source."""


class GroupedAttention:
    """torch's fused attention, called per group of rows with similar lengths. Works everywhere.

    Args:
        dropout: of the attention's weights; 0 outside training.
    """

    def __init__(self, layout: Layout, *, dropout: float) -> None:
        self._layout, self._dropout = layout, dropout
        self._biases: dict[tuple[int, bool], list[Tensor]] = {}
        self._key_biases: list[Tensor | None] | None = None

    def begin(self, relative: RelativePositions, like: Tensor, *, causal: bool) -> None:
        """Computes the bias of a table ahead of the blocks."""
        self._bias(relative, like, causal=causal)

    def encoder(
        self, q_N: Tensor, k_N: Tensor, v_N: Tensor, heads: int, relative: RelativePositions
    ) -> Tensor:
        """Source over source."""
        sides = [source for source, _ in self._layout.groups]
        return self._over(
            sides, sides, (q_N, k_N, v_N), heads, self._bias(relative, q_N, causal=False)
        )

    def decoder(
        self, q_M: Tensor, k_M: Tensor, v_M: Tensor, heads: int, relative: RelativePositions
    ) -> Tensor:
        """Target over itself and earlier tokens, so never over padding on the right."""
        sides = [target for _, target in self._layout.groups]
        return self._over(
            sides, sides, (q_M, k_M, v_M), heads, self._bias(relative, q_M, causal=True)
        )

    def cross(self, q_M: Tensor, k_N: Tensor, v_N: Tensor, heads: int) -> Tensor:
        """Target over source."""
        sources, targets = zip(*self._layout.groups, strict=True)
        if self._key_biases is None:
            self._key_biases = [
                None if side.filled is None else _where(side.filled, q_M.new_zeros(()))
                for side in sources
            ]
        return self._over(targets, sources, (q_M, k_N, v_N), heads, self._key_biases)

    def _over(
        self,
        queries: Sequence[Side],
        keys: Sequence[Side],
        flat: tuple[Tensor, ...],
        heads: int,
        biases: Sequence[Tensor | None],
    ) -> Tensor:
        q, k, v = (
            torch.split(tensor, [side.tokens for side in sides])
            for tensor, sides in zip(flat, (queries, keys, keys), strict=True)
        )
        outputs = [
            _attend(query, key, parts, heads, bias, self._dropout)
            for query, key, bias, *parts in zip(queries, keys, biases, q, k, v, strict=True)
        ]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def _bias(self, relative: RelativePositions, like: Tensor, *, causal: bool) -> list[Tensor]:
        """Each group's bias, (1 or n, H, width, width), computed once per table."""
        key = (id(relative), causal)
        if key not in self._biases:
            sides = [pair[causal] for pair in self._layout.groups]
            widest = max(side.width for side in sides)
            bias = relative_bias(relative, widest, like.device)
            if causal:
                bias = _where(
                    torch.ones(widest, widest, dtype=torch.bool, device=like.device).tril(), bias
                )
            parts = [(side, bias[:, :, : side.width, : side.width]) for side in sides]
            self._biases[key] = [
                part if causal or side.filled is None else _where(side.filled, part)
                for side, part in parts
            ]
        return self._biases[key]


def _where(kept: Tensor, bias: Tensor) -> Tensor:
    # Not -inf, which gives NaN for a query without keys.
    return torch.where(kept, bias, torch.finfo(bias.dtype).min)


def _attend(
    query: Side, key: Side, parts: Sequence[Tensor], heads: int, bias: Tensor | None, dropout: float
) -> Tensor:
    q, k, v = (
        _padded(part, side, heads) for part, side in zip(parts, (query, key, key), strict=True)
    )
    if bias is not None:
        bias = bias.expand(query.rows, -1, query.width, key.width)
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and not dropout:
        mixed: Tensor = _InProducts.apply(q, k, v, bias)  # type: ignore[no-untyped-call]
    else:
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout, scale=1.0
        )
    flat = mixed.transpose(1, 2).reshape(query.rows * query.width, -1)
    if query.position_of_token is None:
        return flat
    return _Picked.apply(flat, query.position_of_token, query.token_of_position)  # type: ignore[no-any-return, no-untyped-call]


def _padded(flat: Tensor, side: Side, heads: int) -> Tensor:
    """A group's flat tokens as (n, H, width, d)."""
    if side.token_of_position is not None:
        flat = _Picked.apply(flat, side.token_of_position, side.position_of_token)  # type: ignore[no-untyped-call]
    return flat.view(side.rows, side.width, heads, -1).transpose(1, 2)


class _InProducts(torch.autograd.Function):
    """Attention as plain matrix products; recomputes its weights in the backward pass.

    On CPUs in bfloat16, torch's fused kernel takes 2 to 3 times as long.
    """

    @staticmethod
    def forward(ctx: Context, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        dtype = q.dtype
        q, k, v = _multiplied(q, k, v)
        return (_weights(q, k, bias) @ v).to(dtype)

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        *parts, bias = ctx.saved_tensors
        q, k, v, slope = _multiplied(*parts, slope)
        weights = _weights(q, k, bias)
        scores = torch._softmax_backward_data(slope @ v.transpose(2, 3), weights, -1, weights.dtype)
        return scores @ k, scores.transpose(2, 3) @ q, weights.transpose(2, 3) @ slope, None


def _multiplied(*parts: Tensor) -> list[Tensor]:
    """Tensors in the type that this CPU multiplies in."""
    emulated = is_emulated(parts[0].dtype, parts[0].device)
    return [part.float() for part in parts] if emulated else list(parts)


def _weights(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    scores = q @ k.transpose(2, 3)
    return torch.softmax(scores if bias is None else scores.add_(bias), dim=-1)


class PackedAttention:
    """FlexAttention over the whole batch as one row, without padding and S × S biases or masks. For
    training on CUDA.

    The kernel reads the bias from a table of relative positions, and skips blocks of 128 × 128
    scores without two tokens of the same row.
    """

    def __init__(self, layout: Layout, *, dropout: float) -> None:
        if dropout:
            raise RuntimeError("FlexAttention has no dropout")
        self._rows = {"s": layout.source_rows_N, "t": layout.target_rows_M}
        self._masks: dict[str, object] = {}
        self._tables: dict[int, Tensor] = {}

    def begin(self, relative: RelativePositions, like: Tensor, *, causal: bool) -> None:
        """Does nothing: a table is small."""

    def encoder(
        self, q_N: Tensor, k_N: Tensor, v_N: Tensor, heads: int, relative: RelativePositions
    ) -> Tensor:
        """Source over source."""
        return self._over((q_N, k_N, v_N), heads, "ss", relative)

    def decoder(
        self, q_M: Tensor, k_M: Tensor, v_M: Tensor, heads: int, relative: RelativePositions
    ) -> Tensor:
        """Target over itself and earlier tokens."""
        return self._over((q_M, k_M, v_M), heads, "tt", relative)

    def cross(self, q_M: Tensor, k_N: Tensor, v_N: Tensor, heads: int) -> Tensor:
        """Target over source."""
        return self._over((q_M, k_N, v_N), heads, "ts")

    def _over(
        self,
        flat: tuple[Tensor, ...],
        heads: int,
        sides: str,
        relative: RelativePositions | None = None,
    ) -> Tensor:
        """Attends over (N, H · d) parts; ``sides`` names the sides of queries and keys."""
        parts = (tensor.view(1, len(tensor), heads, -1).transpose(1, 2) for tensor in flat)
        mixed: Tensor = _flex("flex_attention", flat[0], sides)(
            *parts,
            score_mod=self._bias(relative, flat[0]),
            block_mask=self._mask(sides, flat[0]),
            scale=1.0,
        )
        return mixed.transpose(1, 2).reshape(len(flat[0]), -1)

    def _mask(self, sides: str, like: Tensor) -> object:
        """The mask of keys in a query's row; computed once per batch."""
        if sides not in self._masks:
            queries, keys = (self._rows[side] for side in sides)

            def is_visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                same = queries[query] == keys[key]
                return same & (key <= query) if sides == "tt" else same

            self._masks[sides] = _flex("create_block_mask", like, sides)(
                is_visible, None, None, len(queries), len(keys), device=like.device
            )
        return self._masks[sides]

    def _bias(self, relative: RelativePositions | None, like: Tensor) -> object:
        if relative is None:
            return None
        if id(relative) not in self._tables:
            self._tables[id(relative)] = distance_table(relative, like.device)
        table, far = self._tables[id(relative)], farthest(relative)

        def biased(
            score: Tensor, _batch: Tensor, head: Tensor, query: Tensor, key: Tensor
        ) -> Tensor:
            return score + table[head, (key - query).clamp(-far, far) + far]

        return biased


def _call(function: Compiled, *args: object, **named: object) -> object:
    return function(*args, **named)


@cache
def compiled_for(
    function: Compiled, use: str, with_gradients: bool, backend: str = "inductor"
) -> Compiled:
    """A compiled function with its own code object for each use.

    torch counts compiled variants per code object and beyond a few runs the function uncompiled,
    which for attention allocates S × S numbers. With a code object per use, too many variants are
    an error.
    """
    code = _call.__code__.replace(
        co_name=f"{use}_{'with' if with_gradients else 'without'}_gradients"
    )
    call = torch.compile(
        FunctionType(code, globals()), dynamic=True, fullgraph=True, backend=backend
    )
    return partial(call, function)


def _flex(name: str, like: Tensor, sides: str) -> Compiled:
    """A function of torch's FlexAttention, compiled on a GPU; uncompiled on a CPU, where it is slow
    and has no gradients.
    """
    from torch.nn.attention import flex_attention

    function = getattr(flex_attention, name)
    return (
        compiled_for(function, f"{name}_{sides}", torch.is_grad_enabled())
        if like.is_cuda
        else function
    )


def distance_table(relative: RelativePositions, device: torch.device) -> Tensor:
    """The bias of a key ``column - farthest`` tokens after its query, (H, 2 · farthest + 1)."""
    bias_HLL = relative_bias(relative, farthest(relative) + 1, device)[0]
    return torch.cat([bias_HLL[:, 1:, 0].flip(1), bias_HLL[:, 0]], dim=1).contiguous()


class _Picked(torch.autograd.Function):
    """Selects rows by index; ``back`` is the inverse index, without padding.

    Gradients of padding are zero or dropped: padded keys have no weight, and outputs of padded
        queries
    are not used.
    """

    @staticmethod
    def forward(ctx: Context, rows: Tensor, index: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(index, back)
        ctx.count = len(rows)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Context, slopes: Tensor) -> tuple[Tensor, None, None]:
        index, back = ctx.saved_tensors
        if len(index) > ctx.count:  # padded: each token takes the gradient at its own position
            return slopes.index_select(0, back), None, None
        gradient = slopes.new_zeros(ctx.count, slopes.shape[1])
        return gradient.index_copy_(0, index, slopes), None, None
