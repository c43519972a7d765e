"""The padding-free forward of T5-shaped models, over transformers' modules and weights.

Legend: N source tokens, M target tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lora_s2s.fast_t5.attention import Attend, GroupedAttention
from lora_s2s.fast_t5.layout import Layout
from lora_s2s.fast_t5.operations import activated, normed, onto_residual, products
from lora_s2s.lora.product import product_of
from lora_s2s.models.float16 import residual_scale
from lora_s2s.models.t5_parts import Attention, Block, FeedForward, Norm, Stack, head_scale

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _Pass:
    """Settings of one pass: adapter dropout, the base's dropout, the residual stream's scale."""

    training: bool
    dropout: float
    scale: float

    def dropped(self, states: Tensor) -> Tensor:
        return F.dropout(states, self.dropout) if self.dropout else states


class PaddingFree:
    """A T5-shaped model from token ids to the states before its head.

    Args:
        model: the base model, with adapters of any method in it.
        stacks: its encoder and decoder; see :func:`lora_s2s.models.t5_parts.stacks_of`.
        attention: creates the attention for a batch's layout.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stacks: tuple[Stack, Stack],
        attention: Callable[..., Attend] = GroupedAttention,
    ) -> None:
        self._model, self.attention = model, attention
        self._encoder, self._decoder = stacks
        modules = (
            module for stack in stacks for block in stack.blocks for module in _linears(block)
        )
        self._products = {module: product_of(module) for module in modules}

    def attending_by(self, attention: Callable[..., Attend]) -> PaddingFree:
        """The same forward with another attention."""
        return PaddingFree(self._model, (self._encoder, self._decoder), attention)

    def states(self, layout: Layout, memory_ND: Tensor | None = None) -> Tensor:
        """The decoder's last states (M, D), scaled for the head.

        Args:
            layout: on the model's device.
            memory_ND: the result of :meth:`memory`, if cached.
        """
        now = self._now()
        attend = self.attention(layout, dropout=now.dropout)
        if memory_ND is None:
            encoded_ND = self._encode(layout, attend, now)
        else:
            encoded_ND = memory_ND.to(self._decoder.embeddings.weight.dtype)

        def decode(states_MD: Tensor, block: Block) -> Tensor:
            attention, cross = block.self_attention, block.cross
            relative = self._decoder.relative(block)
            states_MD = self._attend(
                states_MD,
                attention,
                now,
                lambda q, k, v: attend.decoder(q, k, v, attention.heads, relative),
            )
            if cross is not None:
                mix: Mix = lambda q, k, v: attend.cross(q, k, v, cross.heads)  # noqa: E731
                states_MD = self._attend(states_MD, cross, now, mix, encoded_ND)
            return self._feed_forward(states_MD, block.feed_forward, now)

        states_MD = self._through(self._decoder, layout.decoder_ids_M, decode, now, attend)
        scale = head_scale(self._model.config)
        return states_MD if scale == 1 else states_MD * scale

    def memory(self, layout: Layout) -> Tensor:
        """The encoder's last states, (N, D)."""
        now = self._now()
        return self._encode(layout, self.attention(layout, dropout=now.dropout), now)

    def _now(self) -> _Pass:
        training = self._model.training
        return _Pass(
            training,
            self._model.config.dropout_rate if training else 0.0,
            residual_scale(self._model),
        )

    def _encode(self, layout: Layout, attend: Attend, now: _Pass) -> Tensor:
        def encode(states_ND: Tensor, block: Block) -> Tensor:
            attention, relative = block.self_attention, self._encoder.relative(block)
            states_ND = self._attend(
                states_ND,
                attention,
                now,
                lambda q, k, v: attend.encoder(q, k, v, attention.heads, relative),
            )
            return self._feed_forward(states_ND, block.feed_forward, now)

        return self._through(self._encoder, layout.source_ids_N, encode, now, attend)

    def _through(
        self,
        stack: Stack,
        ids: Tensor,
        step: Callable[[Tensor, Block], Tensor],
        now: _Pass,
        attend: Attend,
    ) -> Tensor:
        """Embeds ids, applies ``step`` to every block (checkpointed if enabled), and norms."""
        # Hooks on transformers' module insert trained embedding rows and scale for float16.
        states = now.dropped(stack.embeddings(ids))
        for block in stack.blocks:
            if now.training and block.module.gradient_checkpointing and torch.is_grad_enabled():
                relative = stack.relative(block)
                if relative.relative_attention_bias.weight.requires_grad:
                    # A checkpoint would compute it a second time, apart from the other blocks.
                    attend.begin(relative, states, causal=stack is self._decoder)
                states = checkpoint(step, states, block, use_reentrant=False)
            else:
                states = step(states, block)
        return now.dropped(normed(states, stack.final_norm))

    def _attend(
        self,
        states: Tensor,
        attention: Attention,
        now: _Pass,
        mix: Mix,
        memory_ND: Tensor | None = None,
    ) -> Tensor:
        query, *others = attention.q, attention.k, attention.v
        if memory_ND is None:
            q, k, v = self._linear(states, attention.norm, (query, *others), now)
        else:
            (q,) = self._linear(states, attention.norm, (query,), now)
            k, v = self._linear(memory_ND, None, others, now)
        return self._add(states, attention.o, (mix(q, k, v),), now)

    def _feed_forward(self, states: Tensor, feed_forward: FeedForward, now: _Pass) -> Tensor:
        inner = self._linear(states, feed_forward.norm, feed_forward.inner, now)
        return self._add(
            states, feed_forward.outer, inner, now, feed_forward.activation, now.dropout
        )

    def _linear(
        self, states: Tensor, norm: Norm | None, modules: Sequence[nn.Module], now: _Pass
    ) -> Sequence[Tensor]:
        """The output of each module for the normed states."""
        chosen = [product for module in modules if (product := self._products[module]) is not None]
        if len(chosen) == len(modules):
            return products(states, norm, chosen, training=now.training)
        inputs = states if norm is None else normed(states, norm)
        return [module(inputs) for module in modules]

    def _add(
        self,
        states: Tensor,
        module: nn.Module,
        inputs: Sequence[Tensor],
        now: _Pass,
        activation: str | None = None,
        inner_rate: float = 0.0,
    ) -> Tensor:
        """states + dropout(module(dropout(activated inputs)))."""
        product = self._products[module]
        if product is None:
            # If float16 needs a smaller input, a hook on the module scales it.
            hidden = F.dropout(activated(activation, inputs), inner_rate)
            return states + now.dropped(module(hidden))
        return onto_residual(
            states,
            product,
            inputs,
            activation=activation,
            inner_rate=inner_rate,
            rate=now.dropout,
            scale=now.scale,
            training=now.training,
        )


def _linears(block: Block) -> Iterator[nn.Module]:
    for attention in (block.self_attention, block.cross):
        if attention is not None:
            yield from (attention.q, attention.k, attention.v, attention.o)
    yield from (*block.feed_forward.inner, block.feed_forward.outer)
