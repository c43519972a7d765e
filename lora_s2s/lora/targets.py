"""Target modules: a family's groups, or names, resolved against the model before anything is
created.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from lora_s2s import limits
from lora_s2s.errors import UsageError, nearest
from lora_s2s.models.family import ModelFamily
from lora_s2s.models.loading import LoadedBase

"""PEFT tries every entry as a pattern on every module, fast only while Python keeps all of them
compiled.
"""


@dataclass(frozen=True)
class Targets:
    """The same choice twice: ``spec`` as PEFT reloads it, ``shapes`` as what it means on this base.

    Attributes:
        spec: name endings (``["q", "v"]``), or one of the family's patterns.
        shapes: full module name → (output size, input size), in the model's order.
    """

    spec: list[str] | str
    shapes: dict[str, tuple[int, int]]


def resolve_targets(
    base: LoadedBase, wanted: str | Sequence[str], *, last_blocks: int | None = None
) -> Targets:
    """Returns the modules that a group (``attention-qv``) or names (``["q", "wo"]``) stand for.

    A name is a module's full name or its ending after a dot.

    Args:
        last_blocks: only modules in that many last blocks of each stack; a shorter stack counts
            in full.

    Raises:
        UsageError: an unknown group, a name that no adaptable module has (those that exist are
            listed), or no such blocks.
    """
    spec, modules = _spec(base, wanted, "lora.target_modules"), adaptable(base.family, base.model)
    chosen = matching(spec, modules)
    if last_blocks is None:
        return Targets(spec, chosen)
    depths: dict[str, int] = {}
    for stack, index in map(_block, modules):
        depths[stack] = max(depths.get(stack, 0), index + 1)
    found = ", ".join(f"{stack} has {depth}" for stack, depth in depths.items())
    if not 1 <= last_blocks <= max(depths.values()):
        raise UsageError(
            f"lora.last_blocks is {last_blocks}; {found}", hint="omit it for all blocks"
        )
    kept = {
        name: shape
        for name, shape in chosen.items()
        if _block(name)[1] >= depths[_block(name)[0]] - last_blocks
    }
    if not kept:
        raise UsageError(
            f"none of lora.target_modules is in the last {last_blocks} blocks; {found}"
        )
    return Targets(list(kept), kept)


def resolve_ranks(
    base: LoadedBase, targets: Targets, ranks: Mapping[str, int], r: int
) -> dict[str, int]:
    """Returns full module name → rank, for the targets whose rank is another than ``r``; later
    entries win.

    Raises:
        UsageError: an entry names nothing, or nothing that is a target; or there are too many for
            PEFT.
    """
    found: dict[str, int] = {}
    for name, rank in ranks.items():
        here = matching(_spec(base, name, "lora.rank_pattern"), targets.shapes)
        if not here:
            raise UsageError(
                f"lora.rank_pattern names '{name}', which lora.target_modules does not choose"
            )
        found.update(dict.fromkeys(here, rank))
    other = {name: rank for name, rank in found.items() if rank != r}
    if len(other) > limits.MOST_RANKS:
        hint = "set lora.r to the rank that most of them have"
        raise UsageError(
            f"lora.rank_pattern gives {len(other)} modules a rank of their own, at most "
            f"{limits.MOST_RANKS}",
            hint=hint,
        )
    return other


def adaptable(family: ModelFamily, model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Returns full name → (output size, input size) of every linear layer an adapter may sit on;
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
    """Returns those modules that a spec selects, by PEFT's rule: a pattern in full, or names by
    their ending.
    """
    if isinstance(spec, str):
        pattern = re.compile(spec)
        return {name: shape for name, shape in modules.items() if pattern.fullmatch(name)}
    endings = tuple(f".{name}" for name in spec)
    return {name: shape for name, shape in modules.items() if f".{name}".endswith(endings)}


def _block(name: str) -> tuple[str, int]:
    """Returns a module's stack and the number of its block: the first number in its name says
    both.
    """
    stack, index, *_ = re.split(r"\.(\d+)\.", name, maxsplit=1)
    return stack, int(index)


def _spec(base: LoadedBase, wanted: str | Sequence[str], key: str) -> list[str] | str:
    groups = base.family.target_groups(base.model.config)
    if isinstance(wanted, str) and wanted in groups:
        return groups[wanted]
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    modules = adaptable(base.family, base.model)
    # The last two parts name a kind of module; blocks repeat it.
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
