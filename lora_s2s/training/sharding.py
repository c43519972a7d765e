"""``training.sharding: full``: weights divided among processes by torch's FSDP2.

With an adapter, each process holds a part of every block of the base, and gathers a block's weights
while it computes the block; adapters, embeddings and head are whole everywhere, and the loop sums
the adapters' gradients as ever. In full fine-tuning all weights are divided, and with them their
gradients, which FSDP2 sums, and the optimizer's state.
"""

from __future__ import annotations

import warnings

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from lora_s2s.errors import SetupError
from lora_s2s.lora.full import is_whole
from lora_s2s.models.sharded import is_divided
from lora_s2s.training.optimizer import cpu_copy


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's weights are divided among processes, which then compute in step."""
    return isinstance(model, FSDPModule)


def shard(model: nn.Module, accelerator: Accelerator) -> None:
    """Divides the model's weights, and moves it to the accelerator's device, block by block.

    Raises:
        SetupError: this torch is too old.
    """
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        message = f"training.sharding=full needs torch 2.13 or later, found {torch.__version__}"
        raise SetupError(message, hint="pip install -U torch, or set training.sharding=none")
    # T5's blocks return their table of positions as a view; transformers adds to it out of place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    device = accelerator.device
    mesh = init_device_mesh(device.type, (accelerator.num_processes,))
    whole = set() if is_whole(model) else {p for p in model.parameters() if p.requires_grad}
    for block in model.modules():
        if isinstance(block, GradientCheckpointingLayer):
            fully_shard(block, mesh=mesh, ignored_params=whole)
    if not is_whole(model):
        whole = {weight for weight in model.parameters() if not is_divided(weight)}
    fully_shard(model, mesh=mesh, ignored_params=whole, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss is divided by the tokens of all processes already: sums, not means.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            # Short rows of one process may leave a weight unused that others use (LongT5).
            module.set_reduce_scatter_unused_params(True, recurse=False)
    model.to(device)


def make_whole(model: nn.Module, *, keep: bool) -> None:
    """Gathers the weights of a model after full fine-tuning, to be saved; it no longer computes. An
    adapter's are whole.

    Args:
        keep: whether this process keeps them, in main memory; all must call.
    """
    if not is_whole(model):
        return
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is None or not is_divided(weight):
                continue
            if id(weight) not in made:  # tied weights stay tied
                values = cpu_copy(weight, keep=keep)
                made[id(weight)] = nn.Parameter(values, requires_grad=weight.requires_grad)
            if keep:
                module._parameters[name] = made[id(weight)]
