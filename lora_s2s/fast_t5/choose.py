"""Chooses the forward pass: ours if the model is supported and agrees with transformers' on the
first batch, otherwise theirs, with a log line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora_s2s.console import say
from lora_s2s.data.collate import Batch
from lora_s2s.errors import UsageError, ran_out_of_memory
from lora_s2s.fast_t5.attention import Attend, GroupedAttention, PackedAttention
from lora_s2s.fast_t5.head import head_loss
from lora_s2s.fast_t5.layout import Layout, layout_of
from lora_s2s.fast_t5.operations import ACTIVATIONS, reason_of
from lora_s2s.fast_t5.t5 import PaddingFree
from lora_s2s.models.sharded import is_divided
from lora_s2s.models.t5 import fused_activation
from lora_s2s.models.t5_parts import ADAPTED, OWN, stacks_of, trains_positions
from lora_s2s.tokens.labels import IGNORE_INDEX

VARIABLE = "LORA_S2S_FORWARD"
_CHOICE = "_forward_choice"
# Relative tolerances of loss and adapter gradients: far above rounding errors, far below defects.
_TOLERANCES = {torch.float32: (1e-4, 1e-3)}
_COARSE = (2e-2, 0.25)
# transformers' forward recomputes nothing while both are compared, so a checkpointed base, which is
# short of memory, compares less.
TOKENS_COMPARED = {False: 1024, True: 256}
# Rows this long exceed a kernel's block and the farthest relative position; longer ones need not be
# compared.
_LONG, MOST_OF_LONG = 256, {False: 512, True: 256}


class FastStates(NamedTuple):
    """The decoder's states (N, D) and the labels (N) of the target tokens in the loss."""

    states_ND: Tensor
    labels_N: Tensor


class _Choice:
    """A model's forward within :func:`fast_forward`, chosen at the first batch."""

    def __init__(self, until: ExitStack) -> None:
        self._until = until
        self._settled = self._compared_long = False
        self._fast: PaddingFree | None = None

    @property
    def is_hf(self) -> bool:
        """Whether transformers' forward was chosen."""
        return self._settled and self._fast is None

    def forward(self, model: nn.Module, batch: Batch) -> PaddingFree | None:
        """The fast forward, or None for transformers'.

        Compares them on the first batch, and again on the first one with a long row.
        """
        undecided = not self._settled or (self._fast is not None and not self._compared_long)
        if not self._settled or (undecided and _is_long(batch)):
            # Not before: a batch that runs out of memory is compared again in halves.
            self._fast = _settle(model, batch)
            self._settled, self._compared_long = True, _is_long(batch)
            if self._fast is None:
                self._until.enter_context(fused_activation(model))
        return self._fast

    def without_packing(self, error: BaseException) -> PaddingFree | None:
        """Replaces compiled attention that failed by grouped attention; None if already in use."""
        if self._fast is None or self._fast.attention is GroupedAttention:
            return None
        say(f"forward: {self._fast.attention.__name__} is no longer used: {reason_of(error)}")
        self._fast = self._fast.attending_by(GroupedAttention)
        return self._fast


@contextmanager
def fast_forward(model: nn.Module) -> Iterator[None]:
    """Computes the model's losses by the fast forward while entered, if it agrees with
    transformers'.

    Both are computed for a few rows of the first batch. If they differ, or the model is not
    supported, transformers' is used and the reason logged once. ``LORA_S2S_FORWARD=reference`` in
    the environment requests transformers'.

    Args:
        model: the model; only what trains requires gradients.

    Raises:
        UsageError: the environment requests an unknown forward.
    """
    requested = os.environ.get(VARIABLE, "fast")
    if requested not in ("fast", "reference"):
        raise UsageError(f"{VARIABLE} is '{requested}', expected fast or reference")
    off = f"as set by {VARIABLE}" if requested == "reference" else None
    if any(map(is_divided, model.parameters())):
        off = "whose modules gather weights that are divided among processes"
    with ExitStack() as until:
        if off is not None:
            say(f"forward: transformers', {off}")
            until.enter_context(fused_activation(model))
        else:
            setattr(model, _CHOICE, _Choice(until))
            until.callback(delattr, model, _CHOICE)
        yield


def fast_states(model: nn.Module, batch: Batch) -> FastStates | None:
    """A batch's states by the fast forward, or None if transformers' is used."""
    forward = _chosen(model, batch)
    if forward is None:
        return None
    try:
        return _states(forward, model, batch)
    # compilers raise errors of many types, also for a batch of a new shape
    except Exception as error:
        other = None if ran_out_of_memory(error) else getattr(model, _CHOICE).without_packing(error)
        if other is None:
            raise
    return _states(other, model, batch)


def encoder_states(model: nn.Module, batch: Batch) -> dict[int, Tensor] | None:
    """The encoder's states (tokens, D) by row index; None if transformers' forward is used."""
    forward = _chosen(model, batch)
    if forward is None:
        return None
    layout, was_training = _layout(model, batch), model.training
    model.eval()
    try:
        with torch.no_grad():
            parts = torch.split(forward.memory(layout), list(layout.source_lengths))
    finally:
        model.train(was_training)
    return dict(zip(layout.row_order, parts, strict=True))


def forward_in_use(model: nn.Module) -> str:
    """The forward chosen at the first batch, ``fast`` or ``reference``."""
    choice: _Choice | None = getattr(model, _CHOICE, None)
    return "reference" if choice is None or choice.is_hf else "fast"


def with_layout(model: nn.Module, batch: Batch) -> Batch:
    """The batch with the fast forward's layout, computed on the CPU."""
    choice: _Choice | None = getattr(model, _CHOICE, None)
    if choice is None or choice.is_hf:
        return batch
    device = next(model.parameters()).device.type
    return replace(batch, layout=layout_of(batch, model.config, device=device))


def _chosen(model: nn.Module, batch: Batch) -> PaddingFree | None:
    choice: _Choice | None = getattr(model, _CHOICE, None)
    return None if choice is None else choice.forward(model, batch)


def _layout(model: PreTrainedModel, batch: Batch) -> Layout:
    if isinstance(batch.layout, Layout):
        return batch.layout
    device = batch.input_ids_BS.device
    return layout_of(batch, model.config, device=device.type).each(lambda tensor: tensor.to(device))


def _settle(model: PreTrainedModel, batch: Batch) -> PaddingFree | None:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    stacks = stacks_of(base, ACTIVATIONS)
    if isinstance(stacks, str):
        say(f"forward: transformers'; the fast one does not support this base: {stacks}")
        return None
    checkpointed = any(block.module.gradient_checkpointing for block in stacks[0].blocks)
    for attention in kinds_of_attention(base, batch.input_ids_BS.device.type):
        forward = PaddingFree(base, stacks, attention)
        try:
            problem = _difference(model, forward, _few_rows(batch, checkpointed))
            long = _long_row(batch, MOST_OF_LONG[checkpointed])
            if problem is None and _is_long(batch) and long.target_tokens:
                problem = _difference(model, forward, long)
        except Exception as error:  # compilers raise errors of many types
            if ran_out_of_memory(error) or attention is GroupedAttention:
                raise
            # No compiler, no Triton, or an unsupported shape: try grouped attention.
            problem = reason_of(error)
        if problem is None:
            return forward
        say(f"forward: {attention.__name__} is not used: {problem}")
    say("forward: transformers'")
    return None


def kinds_of_attention(base: PreTrainedModel, device: str) -> list[Callable[..., Attend]]:
    """The usable kinds of attention, fastest first; the last works everywhere."""
    packed = device == "cuda" and not base.config.dropout_rate and not trains_positions(base)
    return [PackedAttention, GroupedAttention] if packed else [GroupedAttention]


def _states(forward: PaddingFree, model: PreTrainedModel, batch: Batch) -> FastStates:
    layout, memory_ND = _layout(model, batch), batch.memory_ND
    states_ND, labels_N = forward.states(layout, memory_ND), layout.labels_M
    if layout.counted_N is not None:
        states_ND, labels_N = states_ND[layout.counted_N], labels_N[layout.counted_N]
    return FastStates(states_ND, labels_N)


def _difference(model: PreTrainedModel, forward: PaddingFree, few: Batch) -> str | None:
    """Compares both forwards' loss and gradients without dropout; describes a large difference."""
    head = model.get_output_embeddings()
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    # An adapter's method that trains weights of the base (biases, whole modules) is not covered.
    covered = ADAPTED if hasattr(model, "peft_config") else OWN
    if outside := [name for name in trained if not covered.search(name)]:
        return f"{outside[0]} is trained, but is not a linear layer of a block"
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            mean = model(
                input_ids=few.input_ids_BS,
                attention_mask=few.attention_mask_BS,
                labels=few.labels_BT,
            ).loss
            # At once: two graphs together would be the peak of a small run.
            expected = _gradients(mean, trained.values())
            states_ND, labels_N = _states(forward, model, few)
            loss = (
                head_loss(states_ND, head, labels_N, label_smoothing=0.0, z_loss=0.0)
                / few.target_tokens
            )
            actual = _gradients(loss, trained.values())
    finally:
        model.train(was_training)
    loss_tolerance, tolerance = _TOLERANCES.get(states_ND.dtype, _COARSE)
    theirs, ours = float(mean.detach()), float(loss.detach())
    if not abs(ours - theirs) <= loss_tolerance * max(1.0, abs(theirs)):
        return f"its loss is {ours:.6g}, transformers' {theirs:.6g}"
    error = _distance(actual, expected)
    return None if error <= tolerance else f"its gradients differ by {error:.1%}"


def _gradients(loss: Tensor, parameters: Iterable[Tensor]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(loss.float(), list(parameters), allow_unused=True)


def _few_rows(batch: Batch, checkpointed: bool) -> Batch:
    """The shortest rows of a batch, enough for a comparison."""
    lengths = batch.attention_mask_BS.sum(1) + (batch.labels_BT != IGNORE_INDEX).sum(1)
    order = lengths.argsort()
    count = max(1, int((lengths[order].cumsum(0) <= TOKENS_COMPARED[checkpointed]).sum()))
    cut = _rows(batch, order[:count], most=MOST_OF_LONG[True])
    return cut if checkpointed and cut.target_tokens else _rows(batch, order[:count])


def _is_long(batch: Batch) -> bool:
    # The width of the batch; computing lengths would wait for the GPU.
    return max(batch.input_ids_BS.shape[1], batch.labels_BT.shape[1]) >= _LONG


def _long_row(batch: Batch, most: int) -> Batch:
    """The longest row of a batch, cut to the length that a comparison needs."""
    longest = (batch.attention_mask_BS.sum(1) + (batch.labels_BT != IGNORE_INDEX).sum(1)).argmax()
    return _rows(batch, longest[None], most=most)


def _rows(batch: Batch, rows: Tensor, *, most: int | None = None) -> Batch:
    """Some rows, cut to ``most``, without surplus padding; sources may be padded on either side."""
    ids, mask, labels = (
        side[rows] for side in (batch.input_ids_BS, batch.attention_mask_BS, batch.labels_BT)
    )
    in_source, in_target = (
        used.any(0).nonzero()[:, 0] for used in (mask != 0, labels != IGNORE_INDEX)
    )
    source, target = slice(int(in_source[0]), int(in_source[-1]) + 1), slice(int(in_target[-1]) + 1)
    parts = (ids[:, source], mask[:, source], labels[:, target])
    ids, mask, labels = (part[:, :most].contiguous() for part in parts)
    return Batch(ids, mask, labels)


def _distance(actual: Iterable[Any], expected: Iterable[Any]) -> float:
    """‖actual - expected‖ ÷ ‖expected‖ over all tensors together; a missing one is zero."""
    apart, size = 0.0, 0.0
    for one, other in zip(actual, expected, strict=True):
        if one is not None or other is not None:
            a = torch.zeros_like(other) if one is None else one.float()
            b = torch.zeros_like(one) if other is None else other.float()
            apart, size = apart + float((a - b).square().sum()), size + float(b.square().sum())
    return math.sqrt(apart / size if size else apart)
