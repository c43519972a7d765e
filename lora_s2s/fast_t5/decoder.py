"""T5-shaped models one token at a time, for answers: keys and values stay where they are.

A source's keys and values are computed once, and are there once for all of its hypotheses. Rows
need not have the same length: where one has ended, another begins.

Legend: B sources, K hypotheses of each, R = B·K rows, N source tokens, S room for source tokens, T
room for a row's own tokens, L layers, H heads of size d, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from lora_s2s.data.collate import Batch
from lora_s2s.fast_t5.attention import GroupedAttention, distance_table
from lora_s2s.fast_t5.layout import layout_of
from lora_s2s.fast_t5.linear import Linear
from lora_s2s.fast_t5.operations import ACTIVATIONS, activated
from lora_s2s.models.float16 import residual_scale
from lora_s2s.models.quantized import is_quantized
from lora_s2s.models.t5_parts import Attention, Block, Norm, Stack, head_scale, stacks_of

# Weights are copied, side by side and with the adapter in them, up to this size.
_MOST_COPIED_BYTES = 2 << 30
_ROOM = 32  # tokens of a row at first


@dataclass
class State:
    """What rows have read and written so far, in tensors that stay where they are.

    Attributes:
        own_L2RHTd: keys and values of their own tokens.
        source_L2BHSd: keys and values of their sources.
        hidden_BS: 0 at a source's tokens, and minus infinity elsewhere.
        lengths_B: how many tokens every row of a source has written.
    """

    own_L2RHTd: Tensor
    source_L2BHSd: Tensor
    hidden_BS: Tensor
    lengths_B: list[int]

    @property
    def beams(self) -> int:
        """How many rows a source has."""
        return self.own_L2RHTd.shape[2] // len(self.lengths_B)

    def rows_of(self, places: Sequence[int]) -> Tensor:
        """Returns the rows of sources."""
        first_B1 = torch.tensor(places, device=self.hidden_BS.device)[:, None] * self.beams
        return (first_B1 + torch.arange(self.beams, device=self.hidden_BS.device)).flatten()

    def shrink(self, live: Sequence[int]) -> None:
        """Goes on with these sources alone: those from the end take the places of the others.

        Args:
            live: places of sources, as :func:`close_ranks` orders them.
        """
        moved = [(new, old) for new, old in enumerate(live) if new != old]
        if moved:
            to, come = zip(*moved, strict=True)
            rows, others = self.rows_of(to), self.rows_of(come)
            used = max(self.lengths_B)
            self.own_L2RHTd[..., :used, :][:, :, rows] = self.own_L2RHTd[:, :, others, :, :used]
            self.source_L2BHSd[:, :, to] = self.source_L2BHSd[:, :, come]
            self.hidden_BS[to, :] = self.hidden_BS[come, :]
        self.own_L2RHTd = self.own_L2RHTd[:, :, : len(live) * self.beams]
        self.source_L2BHSd = self.source_L2BHSd[:, :, : len(live)]
        self.hidden_BS = self.hidden_BS[: len(live)]
        self.lengths_B = [self.lengths_B[place] for place in live]

    def replace(self, places: Sequence[int], other: State) -> None:
        """Lets the sources of another state, which are not longer, take the places of these."""
        rows, used = self.rows_of(places), max(other.lengths_B)
        width = other.hidden_BS.shape[1]
        self.own_L2RHTd[..., :used, :][:, :, rows] = other.own_L2RHTd[..., :used, :]
        self.source_L2BHSd[..., :width, :][:, :, places] = other.source_L2BHSd
        self.hidden_BS[places, :] = -torch.inf
        self.hidden_BS[places, :width] = other.hidden_BS
        for place, length in zip(places, other.lengths_B, strict=True):
            self.lengths_B[place] = length

    def reorder(self, parents_R: Tensor) -> None:
        """Lets every row go on from another row of its source."""
        moved = (parents_R != torch.arange(len(parents_R), device=parents_R.device)).nonzero()[:, 0]
        if len(moved):
            written_L2TRHd = self.own_L2RHTd.movedim(4, 2)[:, :, : max(self.lengths_B)]
            parents = written_L2TRHd.index_select(3, parents_R[moved])
            written_L2TRHd.index_copy_(3, moved, parents)

    def repeat(self, beams: int) -> None:
        """Makes ``beams`` rows of every row."""
        layers, two, rows, *rest = self.own_L2RHTd.shape
        repeated = _zeros((layers, two, rows * beams, *rest), self.own_L2RHTd)
        used = max(self.lengths_B)
        own = self.own_L2RHTd[..., :used, :].repeat_interleave(beams, dim=2)
        repeated[..., :used, :] = own
        self.own_L2RHTd = repeated

    def make_room(self) -> None:
        """Makes room for one more token of every row."""
        layers, two, rows, heads, room, size = self.own_L2RHTd.shape
        if max(self.lengths_B) == room:
            grown = _zeros((layers, two, rows, heads, 2 * room, size), self.own_L2RHTd)
            grown[..., :room, :] = self.own_L2RHTd
            self.own_L2RHTd = grown


def close_ranks(live: Sequence[int]) -> list[int]:
    """Returns the places of sources in an order in which most are where they were: those from the
    end take the places of others that are gone.
    """
    stay = [place for place in live if place < len(live)]
    come = iter([place for place in live if place >= len(live)])
    here = set(stay)
    return [place if place in here else next(come) for place in range(len(live))]


def _zeros(shape: Sequence[int], like: Tensor) -> Tensor:
    """Zeros (…, rows, H, tokens, d) whose memory is ordered by tokens first, then rows: what one
    query a row reads lies together.
    """
    *outer, rows, heads, tokens, size = shape
    return like.new_zeros(*outer, tokens, rows, heads, size).movedim(-4, -2)


class _Layer:
    """The products of a block's self-attention and feed-forward."""

    def __init__(self, block: Block, *, fold: bool) -> None:
        own, dense = block.self_attention, block.feed_forward
        self.own, self.dense = own, dense
        self.qkv = Linear((own.q, own.k, own.v), fold=fold)
        self.o = Linear((own.o,), fold=fold)
        self.inner = Linear(dense.inner, fold=fold)
        self.outer = Linear((dense.outer,), fold=fold)

    def feed_forward(self, states: Tensor) -> Tensor:
        dense = self.dense
        inner = self.inner(_normed(states, dense.norm)).chunk(len(dense.inner), dim=-1)
        return self.outer.onto(states, activated(dense.activation, inner))


class _Cross:
    """The products of a block's attention over the source."""

    def __init__(self, cross: Attention, *, fold: bool) -> None:
        self.norm = cross.norm
        self.q = Linear((cross.q,), fold=fold)
        self.kv = Linear((cross.k, cross.v), fold=fold)
        self.o = Linear((cross.o,), fold=fold)


def _normed(states: Tensor, norm: Norm) -> Tensor:
    return F.rms_norm(states, states.shape[-1:], norm.weight, norm.epsilon)


class Decoder:
    """A T5-shaped model that answers; its weights and adapter must not change meanwhile.

    Args:
        model: the base model, with adapters of any method in it.
        stacks: its encoder and decoder; see :func:`lora_s2s.models.t5_parts.stacks_of`.
    """

    def __init__(self, model: PreTrainedModel, stacks: tuple[Stack, Stack]) -> None:
        self._config, (self._encoder, self._stack) = model.config, stacks
        blocks = [block for stack in stacks for block in stack.blocks]
        weights = chain.from_iterable(block.module.parameters() for block in blocks)
        size = sum(weight.nbytes for weight in weights)
        fold = size <= _MOST_COPIED_BYTES and not any(map(is_quantized, model.modules()))
        self._reading, self._layers = (
            [_Layer(block, fold=fold) for block in stack.blocks] for stack in stacks
        )
        crosses = (block.cross for block in self._stack.blocks)
        self._crosses = [_Cross(cross, fold=fold) for cross in crosses if cross is not None]
        self._head = Linear((model.get_output_embeddings(),), fold=fold)
        self._scale = head_scale(model.config)
        self.device = self._stack.embeddings.weight.device
        self._relatives = [self._stack.relative(block) for block in self._stack.blocks]
        self._tables = {
            id(relative): distance_table(relative, self.device).t().contiguous()
            for relative in self._relatives
        }

    def read(self, sources: Sequence[Sequence[int]]) -> State:
        """Encodes sources whose answers have yet to begin, one row each."""
        ids = [torch.tensor(list(source)) for source in sources]
        ids_BS = pad_sequence(ids, batch_first=True)
        mask_BS = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        batch = Batch(ids_BS, mask_BS, torch.zeros(len(ids), 1, dtype=torch.long))
        layout = layout_of(batch, self._config, device=self.device.type)
        layout = layout.each(lambda tensor: tensor.to(self.device))
        attend = GroupedAttention(layout, dropout=0.0)

        states_ND = self._encoder.embeddings(layout.source_ids_N)
        for block, layer in zip(self._encoder.blocks, self._reading, strict=True):
            q, k, v = layer.qkv(_normed(states_ND, layer.own.norm)).chunk(3, dim=-1)
            relative = self._encoder.relative(block)
            mixed = attend.encoder(q, k, v, layer.own.heads, relative)
            states_ND = layer.feed_forward(layer.o.onto(states_ND, mixed))
        memory_ND = _normed(states_ND, self._encoder.final_norm)

        row_N = torch.tensor(layout.row_order)[layout.source_rows_N.cpu()].to(self.device)
        column_N = torch.cat([torch.arange(length) for length in layout.source_lengths])
        kept = self._source_state(memory_ND, row_N, column_N.to(self.device), ids_BS.shape)
        hidden_BS = memory_ND.new_full(ids_BS.shape, -torch.inf)
        hidden_BS[mask_BS.bool()] = 0
        own_shape = (len(self._layers), 2, len(ids), self._layers[0].own.heads, _ROOM)
        own = _zeros((*own_shape, kept.shape[-1]), memory_ND)
        return State(own, kept, hidden_BS, [0] * len(ids))

    def _source_state(
        self, memory_ND: Tensor, row_N: Tensor, column_N: Tensor, shape: Sequence[int]
    ) -> Tensor:
        """Every layer's keys and values of the sources (L, 2, B, H, S, d)."""
        heads, size = self._layers[0].own.heads, self._config.d_kv
        kept = memory_ND.new_zeros(len(self._layers), 2, shape[0], heads, shape[1], size)
        for cross, kept_2BHSd in zip(self._crosses, kept, strict=True):
            values_N2Hd = cross.kv(memory_ND).view(-1, 2, heads, size)
            kept_2BHSd.permute(1, 3, 0, 2, 4)[row_N, column_N] = values_N2Hd
        return kept

    def step(self, state: State, ids_R: Tensor) -> Tensor:
        """Reads one more id of every row, and returns the logits of the next ones (R, V)."""
        state.make_room()
        rows, beams, used = len(ids_R), state.beams, max(state.lengths_B) + 1
        place_R = torch.tensor(state.lengths_B, device=self.device).repeat_interleave(beams)
        back_TR = place_R - torch.arange(used, device=self.device)[:, None]
        biases = {name: _bias(table, back_TR) for name, table in self._tables.items()}
        states_RD = self._stack.embeddings(ids_R)
        every_R = torch.arange(rows, device=self.device)
        hidden_B11S = state.hidden_BS[:, None, None]
        own = state.own_L2RHTd
        room = own.new_empty(used, rows, own.shape[3], own.shape[5])
        for number, (layer, cross) in enumerate(zip(self._layers, self._crosses, strict=True)):
            heads = layer.own.heads
            qkv = layer.qkv(_normed(states_RD, layer.own.norm)).view(rows, 3, heads, -1)
            own_2RHTd = state.own_L2RHTd[number]
            own_2RHTd.permute(1, 3, 0, 2, 4)[every_R, place_R] = qkv[:, 1:]
            k, v = own_2RHTd[:, :, :, :used]
            bias = biases[id(self._relatives[number])]
            mixed = _attend_own(qkv[:, 0], k, v, bias, room)
            states_RD = layer.o.onto(states_RD, mixed.reshape(rows, -1))

            q = cross.q(_normed(states_RD, cross.norm))
            q = q.view(rows // beams, beams, heads, -1).transpose(1, 2)
            k, v = state.source_L2BHSd[number]
            mixed = _attend(q, k, v, hidden_B11S)
            states_RD = cross.o.onto(states_RD, mixed.transpose(1, 2).reshape(rows, -1))
            states_RD = layer.feed_forward(states_RD)
        state.lengths_B = [length + 1 for length in state.lengths_B]
        states_RD = _normed(states_RD, self._stack.final_norm)
        return self._head(states_RD if self._scale == 1 else states_RD * self._scale)


def _bias(table_PH: Tensor, back_TR: Tensor) -> Tensor:
    """What self-attention adds to the scores, (R, H, 1, T): minus infinity at later places."""
    far = len(table_PH) // 2
    bias_TRH = table_PH[far - back_TR.clamp(0, far)]
    return bias_TRH.masked_fill_((back_TR < 0)[..., None], -torch.inf).permute(1, 2, 0)[:, :, None]


def _attend_own(q_RHd: Tensor, k: Tensor, v: Tensor, bias: Tensor, room: Tensor) -> Tensor:
    """Attention of one query a row over (R, H, tokens, d), unscaled as in T5.

    Where tokens lie first, passes over memory are faster than many small products; ``room`` takes
    what is between them.
    """
    k_TRHd, v_TRHd = k.movedim(2, 0), v.movedim(2, 0)
    scores_TRH = torch.mul(k_TRHd, q_RHd, out=room).sum(dim=-1) + bias[:, :, 0].movedim(2, 0)
    weights_TRH = scores_TRH.softmax(dim=0)
    return torch.mul(v_TRHd, weights_TRH[..., None], out=room).sum(dim=0)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of (B, H, queries, d) over (B, H, tokens, d), unscaled as in T5."""
    scores = torch.matmul(q, k.transpose(2, 3)) + bias
    return torch.matmul(scores.softmax(dim=-1), v)


def decoder_of(model: PreTrainedModel) -> Decoder | None:
    """Returns a decoder for a base that is covered, with its adapter as it is; None for others: of
    another shape, in another type than float32, or not on a CPU.
    """
    stacks = stacks_of(model, ACTIVATIONS)
    if isinstance(stacks, str) or residual_scale(model) != 1:
        return None
    usable = model.device.type == "cpu" and model.dtype == torch.float32
    return Decoder(model, stacks) if usable else None
