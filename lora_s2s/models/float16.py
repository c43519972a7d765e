"""float16 without overflow: T5's residual stream is scaled by 2^-k; the function stays the same.

float16 ends at 65,504; the residual stream of a large T5, and what ``o`` and ``wo`` add to it, goes
beyond. Every reader of the stream is an RMSNorm, which divides by the size of its input: with the
embeddings and the inputs of every ``o`` and ``wo`` times 2^-k, and epsilon times 4^-k, everything
after a norm is as before, bit for bit until float16 rounds.

Hooks scale the activations; the weights stay as they are. So nothing has to be undone on saving, a
tied head stays right, and 4-bit layers and adapters are not affected.

B batch, S source length, T target length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lora_s2s.console import say
from lora_s2s.errors import UsageError
from lora_s2s.models import t5
from lora_s2s.models.family import ModelFamily

_LARGEST = 65504.0
# Real text and a trained adapter may go beyond what the probe shows.
_HEADROOM = 16.0
_MOST_SHIFT = 24
_HOOKS, _SCALE = "_residual_hooks", "_residual_scale"


def settle(model: PreTrainedModel, family: ModelFamily) -> int:
    """Prepares a float16 model: finds the smallest k by a probe, installs it, logs it, and returns
    it.

    Only T5-shaped models are rescaled; others work in float16 as they are, or are refused.

    Raises:
        UsageError: its values overflow nevertheless.
    """
    shift = 0
    while not (over := (peak := _peak(model, family)) * _HEADROOM / _LARGEST) <= 1:
        # A peak beyond float16 reads as infinite or too small, so one step may not be enough.
        shift += math.ceil(math.log2(over if math.isfinite(over) else _HEADROOM))
        if shift > _MOST_SHIFT or not family.t5_shaped:
            hint = "set model.dtype to float32, or bfloat16 on a GPU that has it"
            raise UsageError("float16 cannot hold this model: its values overflow", hint=hint)
        reinstall(model, family, shift)
    if shift:
        say(
            f"float16: the residual stream, which reaches {peak * 2.0**shift:.3g}, is scaled by "
            f"2^-{shift}"
        )
    return shift


def reinstall(model: PreTrainedModel, family: ModelFamily, shift: int) -> None:
    """Replaces the hooks by those for k = ``shift``; to be called again once an adapter has wrapped
    modules.

    An adapter on ``o`` or ``wo`` must get the scaled input too, so the hook belongs on the
    outermost module.
    """
    for hook in model.__dict__.pop(_HOOKS, ()):
        hook.remove()
    scale = 2.0**-shift
    setattr(model, _SCALE, scale)
    if not (shift and family.t5_shaped):
        return
    hooks = []
    for name, module in model.named_modules():
        if t5.STARTS_RESIDUAL.fullmatch(name):
            hooks.append(module.register_forward_hook(lambda _, __, output: output * scale))
        elif t5.WRITES_RESIDUAL.fullmatch(name):
            hooks.append(
                module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * scale, *inputs[1:]))
            )
        elif t5.READS_RESIDUAL.fullmatch(name):
            module.variance_epsilon = model.config.layer_norm_epsilon * scale**2
    setattr(model, _HOOKS, hooks)


def residual_scale(model: PreTrainedModel) -> float:
    """Returns 2^-k, by which a model's residual stream is scaled; 1 if it is not."""
    return float(getattr(model, _SCALE, 1.0))


@torch.no_grad()
def _peak(model: PreTrainedModel, family: ModelFamily) -> float:
    """Returns the largest absolute value in a T5-shaped residual stream, 0 for others; NaN or
    infinity if anything overflows.
    """
    peaks: list[Tensor] = []
    hooks = []
    for name, module in model.named_modules() if family.t5_shaped else ():
        if t5.READS_RESIDUAL.fullmatch(name):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _, inputs: peaks.append(inputs[0].abs().max())
                )
            )
        elif t5.WRITES_RESIDUAL.fullmatch(name):
            hooks.append(
                module.register_forward_hook(lambda _, __, output: peaks.append(output.abs().max()))
            )
    ids_BS = _probe_ids(model)
    # The decoder reads other ids than the encoder, after a first id 0.
    ids_BT = ids_BS.roll((1, 1), dims=(0, 1)) % len(model.get_output_embeddings().weight)
    ids_BT[:, 0] = 0
    try:
        logits = model(input_ids=ids_BS, decoder_input_ids=ids_BT, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    # 0 times a finite logit is 0; times any other it is NaN.
    peaks.append((logits * 0).max())
    return float(torch.stack([peak.float() for peak in peaks]).max())


def _probe_ids(model: PreTrainedModel) -> Tensor:
    """Returns ids (8, 32): the first of the vocabulary (mostly special tokens), those with the
    largest embeddings, and random ones.
    """
    weight_VD: Tensor = model.get_input_embeddings().weight.detach()
    rows = len(weight_VD)
    large = (
        torch.linalg.vector_norm(weight_VD, ord=math.inf, dim=1).topk(min(64, rows)).indices.cpu()
    )
    random = torch.Generator().manual_seed(0)
    ids = torch.cat(
        [torch.arange(min(8, rows)), large, torch.randint(rows, (256,), generator=random)]
    )[:256]
    return ids[torch.randperm(256, generator=random)].view(8, 32).to(weight_VD.device)
