"""A T5, mT5 or UMT5 as named parts, for a forward pass of our own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from lora_s2s.models import t5

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.models.t5.modeling_t5 import T5Attention, T5Block, T5LayerNorm, T5Stack

    RelativePositions: TypeAlias = T5Attention

# Families whose every part is named here. LongT5's encoder attends in blocks.
COVERED = ("t5", "mt5", "umt5")
# Names of the parameters that may train: adapters of the blocks' linear layers, rows of the
# embeddings and the head; without an adapter, all of them.
ADAPTED = re.compile(rf"({t5.ADAPTABLE}|embed_tokens\.token_rows|lm_head\.token_rows)\.(?!weight$)")
OWN = re.compile(
    rf"({t5.ADAPTABLE}|shared|embed_tokens|lm_head|layer_norm|relative_attention_bias)\.weight"
)


@dataclass(frozen=True)
class Norm:
    """RMSNorm: x · weight / √(mean x² + epsilon)."""

    weight: Tensor
    epsilon: float


@dataclass(frozen=True)
class Attention:
    """One attention sublayer: ``norm`` before it, unscaled scores of ``heads`` heads, ``o`` after
    it.

    ``relative`` is transformers' module with the table of relative positions, None if the layer has
    none of its own.
    """

    norm: Norm
    q: nn.Module
    k: nn.Module
    v: nn.Module
    o: nn.Module
    heads: int
    relative: RelativePositions | None


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward sublayer: ``inner`` is one product, or two where the second gates the first;
    then ``outer``.
    """

    norm: Norm
    inner: tuple[nn.Module, ...]
    outer: nn.Module
    activation: str


@dataclass(frozen=True)
class Block:
    """One block; ``cross`` is None in an encoder. ``module`` is transformers' block, which records
    whether it is checkpointed.
    """

    module: T5Block
    self_attention: Attention
    cross: Attention | None
    feed_forward: FeedForward


@dataclass(frozen=True)
class Stack:
    """Encoder or decoder: embeddings (vocabulary, d_model), blocks, the norm at the end."""

    embeddings: nn.Embedding
    blocks: tuple[Block, ...]
    final_norm: Norm

    def relative(self, block: Block) -> RelativePositions:
        """Returns the module whose table of positions a block uses: its own (UMT5), or the first
        block's.
        """
        relative = block.self_attention.relative
        return self.blocks[0].self_attention.relative if relative is None else relative


def stacks_of(model: PreTrainedModel, activations: Collection[str]) -> tuple[Stack, Stack] | str:
    """Returns the encoder and the decoder of a T5-shaped model, or why they are not supported.

    Args:
        activations: supported activation functions, by transformers' names.
    """
    config = model.config
    if config.model_type not in COVERED:
        return f"it covers {', '.join(COVERED)}, not {config.model_type}"
    if config.dense_act_fn not in activations:
        return f"it knows {', '.join(activations)}, not {config.dense_act_fn}"
    return _stack(model.encoder, config), _stack(model.decoder, config)


def _stack(stack: T5Stack, config: PreTrainedConfig) -> Stack:
    return Stack(
        stack.embed_tokens,
        tuple(_block(block, config) for block in stack.block),
        _norm(stack.final_layer_norm),
    )


def _block(block: T5Block, config: PreTrainedConfig) -> Block:
    first, *between, last = block.layer
    dense = last.DenseReluDense
    inner = (dense.wi_0, dense.wi_1) if config.is_gated_act else (dense.wi,)
    cross = _attention(between[0], between[0].EncDecAttention) if between else None
    return Block(
        block,
        _attention(first, first.SelfAttention),
        cross,
        FeedForward(_norm(last.layer_norm), inner, dense.wo, config.dense_act_fn),
    )


def _attention(layer: T5Block, inner: T5Attention) -> Attention:
    relative = inner if inner.has_relative_attention_bias else None
    return Attention(
        _norm(layer.layer_norm), inner.q, inner.k, inner.v, inner.o, inner.n_heads, relative
    )


def _norm(module: T5LayerNorm) -> Norm:
    return Norm(module.weight, module.variance_epsilon)


def relative_bias(relative: RelativePositions, length: int, device: torch.device) -> Tensor:
    """Returns the bias that attention adds to its scores, (1, heads, length, length)."""
    bias: Tensor = relative.compute_bias(length, length, device=device)
    # As transformers leaves it, torch's attention copies it for each row, in every layer.
    return bias.contiguous()


def trains_positions(model: nn.Module) -> bool:
    """Whether a table of relative positions trains."""
    return any(
        weight.requires_grad
        for name, weight in model.named_parameters()
        if "relative_attention_bias" in name
    )


def farthest(relative: RelativePositions) -> int:
    """Returns the distance in tokens beyond which all positions share one value."""
    return int(relative.relative_attention_max_distance)


def head_scale(config: PreTrainedConfig) -> float:
    """Returns the factor of the decoder's last states, see ``t5.finish_loading``."""
    flags: Mapping[str, str] = {"t5": "scale_decoder_outputs", "umt5": "tie_word_embeddings"}
    flag = flags.get(config.model_type)
    return float(config.d_model) ** -0.5 if flag and getattr(config, flag) else 1.0
