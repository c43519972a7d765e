"""Target modules: a family's groups, or names, resolved against the model before PEFT sees them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from lora_s2s import limits
from lora_s2s.errors import UsageError, nearest
from lora_s2s.models.family import ModelFamily
from lora_s2s.models.loading import LoadedBase


@dataclass(frozen=True)
class Targets:
    """The chosen modules: ``spec`` as PEFT's config stores them, ``shapes`` as found in this base.

    Attributes:
        spec: name endings (``["q", "v"]``), or one of the family's patterns.
        shapes: full module name → (output size, input size), in the model's order.
    """

    spec: list[str] | str
    shapes: dict[str, tuple[int, int]]


def resolve_targets(
    base: LoadedBase, wanted: str | Sequence[str], *, last_blocks: int | None = None
) -> Targets:
    """Returns the modules that a group (``attention-qv``) or names (``["q", "wo"]``) select.

    A name is a module's full name, or what follows a dot in it.

    Args:
        last_blocks: only modules in that many last blocks of each stack; all of a shorter stack.

    Raises:
        UsageError: an unknown group, a name that no adaptable module has (those that exist are
            listed), or no such blocks.
    """
    spec, modules = _spec(base, wanted, "lora.target_modules"), adaptable(base.family, base.model)
    chosen = matching(spec, modules)
    if last_blocks is None:
        return Targets(spec, chosen)
    depths: dict[str, int] = {}
    for stack, index in map(block_of, modules):
        depths[stack] = max(depths.get(stack, 0), index + 1)
    stacks = ", ".join(f"{stack} has {depth}" for stack, depth in depths.items())
    if not 1 <= last_blocks <= max(depths.values()):
        raise UsageError(
            f"lora.last_blocks is {last_blocks}; {stacks}", hint="omit it for all blocks"
        )
    kept = {
        name: shape
        for name, shape in chosen.items()
        if block_of(name)[1] >= depths[block_of(name)[0]] - last_blocks
    }
    if not kept:
        raise UsageError(
            f"none of lora.target_modules is in the last {last_blocks} blocks; {stacks}"
        )
    return Targets(list(kept), kept)


def resolve_ranks(
    base: LoadedBase, targets: Targets, ranks: Mapping[str, int], r: int
) -> dict[str, int]:
    """Returns full module name → rank, for the targets whose rank is not ``r``; later entries win.

    Raises:
        UsageError: an entry matches no module, or no target; or there are too many for PEFT.
    """
    chosen: dict[str, int] = {}
    for name, rank in ranks.items():
        here = matching(_spec(base, name, "lora.rank_pattern"), targets.shapes)
        if not here:
            raise UsageError(
                f"lora.rank_pattern names '{name}', which lora.target_modules does not choose"
            )
        chosen.update(dict.fromkeys(here, rank))
    other = {name: rank for name, rank in chosen.items() if rank != r}
    # PEFT tries each of them as a pattern on every module.
    if len(other) > limits.MOST_RANKS:
        hint = "set lora.r to the rank that most of them have"
        raise UsageError(
            f"lora.rank_pattern gives {len(other)} modules a rank of their own, at most "
            f"{limits.MOST_RANKS}",
            hint=hint,
        )
    return other


def adaptable(family: ModelFamily, model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Returns full name → (output size, input size) of every linear layer that may take an adapter;
    never the head.
    """
    pattern = re.compile(family.adaptable)
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if pattern.fullmatch(name)
    }


def matching(
    spec: str | Sequence[str], modules: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """Returns the modules that a spec selects, by PEFT's rule: a pattern matches the full name, a
    name its ending.
    """
    if isinstance(spec, str):
        pattern = re.compile(spec)
        return {name: shape for name, shape in modules.items() if pattern.fullmatch(name)}
    endings = tuple(f".{name}" for name in spec)
    return {name: shape for name, shape in modules.items() if f".{name}".endswith(endings)}


def block_of(name: str) -> tuple[str, int]:
    """Returns a module's stack and the number of its block: the parts of its name before and at the
    first number.
    """
    stack, index, *_ = re.split(r"\.(\d+)\.", name, maxsplit=1)
    return stack, int(index)


def _spec(base: LoadedBase, wanted: str | Sequence[str], key: str) -> list[str] | str:
    groups = base.family.target_groups(base.model.config)
    if isinstance(wanted, str) and wanted in groups:
        return groups[wanted]
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    modules = adaptable(base.family, base.model)
    # The last one or two parts of a name are the same in all blocks.
    kinds = sorted(
        {
            ending
            for name in modules
            for ending in (name.split(".")[-1], ".".join(name.split(".")[-2:]))
        }
    )
    listed = f"groups: {', '.join(groups)}; names: {', '.join(kinds)}"
    if not names:
        raise UsageError(f"{key} is empty; {listed}")
    for name in names:
        if not name or not matching([name], modules):
            raise UsageError(
                f"{key}: no module '{name}' can take an adapter{nearest(name, [*groups, *kinds])}; "
                f"{listed}",
                hint="set lora.target_modules=attention-qv"
                if key == "lora.target_modules"
                else None,
            )
    return names
