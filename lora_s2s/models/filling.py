"""Loads a checkpoint's weights into a model on the meta device, one at a time.

``tie_weights`` is never called: the checkpoint's contents decide which names share a matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora_s2s import limits
from lora_s2s.console import ProgressLine
from lora_s2s.errors import DataError
from lora_s2s.models.host_memory import return_memory
from lora_s2s.models.quantized import fill, is_quantized
from lora_s2s.models.weights import finite_weight, opened

_LARGE = 1 << 20  # bytes of a weight after which memory is worth returning


def put_weights(
    model: PreTrainedModel, files: Sequence[Path], names: Mapping[str, str], device: torch.device
) -> None:
    """Loads every weight of the files, then ties those that share a matrix, then computes the rest.

    Args:
        names: each weight's name in the files → in the model; other weights are skipped.

    Raises:
        DataError: a weight is not finite, or the config asks for too many computed weights.
    """
    done = 0
    with ProgressLine("load weights", short=True) as line:
        for path in files:
            with opened(path) as tensors:
                for name in tensors.keys():  # noqa: SIM118  (a reader, not a dict)
                    if name in names:
                        weight = tensors.get_tensor(name).to(device)
                        _place(model, names[name], weight, path)
                        if weight.nbytes >= _LARGE:
                            return_memory()
                        done += 1
                        line.update({}, done=done, total=len(names))
    _tie(model)
    _compute_the_rest(model, device, str(files[0].parent / "config.json"))


def _place(model: PreTrainedModel, name: str, tensor: Tensor, path: Path) -> None:
    """Puts a checkpoint's tensor into the model, in the skeleton's dtype or bits."""
    module, leaf = _slot(model, name)
    if leaf == "weight" and is_quantized(module):
        finite_weight(name, tensor, path, model.dtype)
        fill(module, tensor)
    else:
        _set(model, name, finite_weight(name, tensor, path, getattr(module, leaf).dtype))


def _set(model: PreTrainedModel, name: str, tensor: Tensor) -> None:
    module, leaf = _slot(model, name)
    old = getattr(module, leaf)
    parameter = isinstance(old, nn.Parameter) and not isinstance(tensor, nn.Parameter)
    setattr(module, leaf, nn.Parameter(tensor, old.requires_grad) if parameter else tensor)


def _slot(model: PreTrainedModel, name: str) -> tuple[nn.Module, str]:
    parent, _, leaf = name.rpartition(".")
    return model.get_submodule(parent), leaf


def _tie(model: PreTrainedModel) -> None:
    """Lets the names of one matrix share it if the checkpoint holds it once, or equal copies.

    What the config says about tying is ignored; ``all_tied_weights_keys`` records what holds.
    """
    model.all_tied_weights_keys = {}
    tensors = _tensors(model)
    for names in _shared_names(model, tensors):
        source = next((name for name in names if not tensors[name].is_meta), names[0])
        for name in names:
            if name != source and (
                tensors[name].is_meta or torch.equal(tensors[name], tensors[source])
            ):
                _set(model, name, tensors[source])
                model.all_tied_weights_keys[name] = source


def _shared_names(model: PreTrainedModel, tensors: Collection[str]) -> list[list[str]]:
    """Returns groups of names that the model's classes declare to be one matrix, its own name
    first.
    """
    ties = {
        f"{prefix}{'.' * bool(prefix)}{target}": f"{prefix}{'.' * bool(prefix)}{source}"
        for prefix, module in model.named_modules()
        for target, source in (getattr(module, "_tied_weights_keys", None) or {}).items()
    }
    groups: dict[str, list[str]] = {}
    for target in ties:
        root = target
        while root in ties:
            root = ties[root]
        groups.setdefault(root, [root]).append(target)
    return [[name for name in names if name in tensors] for names in groups.values()]


def _compute_the_rest(model: PreTrainedModel, device: torch.device, where: str) -> None:
    """Has transformers compute what checkpoints do not hold: positions, rotary frequencies, scales,
    zero biases.

    Raises:
        DataError: the config asks for too many of them.
    """
    computed = sum(tensor.numel() for tensor in _tensors(model).values() if tensor.is_meta)
    if computed > limits.MOST_COMPUTED_WEIGHTS:
        problem = f"the config asks for {computed:,} computed weights (positions), at most "
        raise DataError(f"{problem}{limits.MOST_COMPUTED_WEIGHTS:,}", where=where)
    absent = []
    for name, tensor in _tensors(model).items():
        if tensor.is_meta:
            absent.append(name)
            _set(model, name, torch.empty_like(tensor, device=device))
        else:
            vars(tensor)["_is_hf_initialized"] = True
    owners = {name.rpartition(".")[0] for name in absent}
    for name, module in model.named_modules():
        module._is_hf_initialized = name not in owners
    model.initialize_weights()


def _tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Returns parameters and buffers under every name they have."""
    return dict(
        (
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        )
    )
