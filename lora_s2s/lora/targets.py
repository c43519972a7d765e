"""Which modules an adapter sits on: a family's groups, or names; resolved against the model before anything is made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_s2s.errors import UsageError, nearest
from lora_s2s.models.family import ModelFamily
from lora_s2s.models.loading import LoadedBase


@dataclass(frozen=True)
class Targets:
    """The same choice twice: ``spec`` as PEFT reloads it, ``shapes`` as what it means on this base.

    Attributes:
        spec: name endings (``["q", "v"]``), or one of the family's patterns.
        shapes: full module name → (output size, input size), in the model's order.
    """

    spec: list[str] | str
    shapes: dict[str, tuple[int, int]]


def resolve_targets(base: LoadedBase, wanted: str | Sequence[str]) -> Targets:
    """Returns the modules that a group (``attention-qv``) or names (``["q", "wo"]``) stand for.

    A name is a module's full name or its ending after a dot.

    Raises:
        UsageError: an unknown group, or a name that no adaptable module has; those that exist are listed.
    """
    groups = base.family.target_groups(base.model.config)
    if isinstance(wanted, str) and wanted in groups:
        spec = groups[wanted]
    else:
        spec = [wanted] if isinstance(wanted, str) else list(wanted)
        _check_names(spec, groups, base)
    return Targets(spec, matching(spec, adaptable(base.family, base.model)))


def adaptable(family: ModelFamily, model: Any) -> dict[str, tuple[int, int]]:
    """Returns full name → (output size, input size) of every linear layer an adapter may sit on; never the head."""
    pattern = re.compile(family.adaptable)
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if pattern.fullmatch(name)
    }


def matching(spec: str | Sequence[str], modules: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Returns those modules that a spec selects, by PEFT's rule: a pattern in full, or names by their ending."""
    if isinstance(spec, str):
        pattern = re.compile(spec)
        return {name: shape for name, shape in modules.items() if pattern.fullmatch(name)}
    endings = tuple(f".{name}" for name in spec)
    return {name: shape for name, shape in modules.items() if f".{name}".endswith(endings)}


def _check_names(names: Sequence[str], groups: dict[str, list[str] | str], base: LoadedBase) -> None:
    modules = adaptable(base.family, base.model)
    # The last two parts name a kind of module; blocks repeat it.
    kinds = sorted({ending for name in modules for ending in (name.split(".")[-1], ".".join(name.split(".")[-2:]))})
    listed = f"groups: {', '.join(groups)}; names: {', '.join(kinds)}"
    if not names:
        raise UsageError(f"lora.target_modules is empty; {listed}")
    for name in names:
        if not name or not matching([name], modules):
            raise UsageError(
                f"no module '{name}' can take an adapter{nearest(name, [*groups, *kinds])}; {listed}",
                hint="set lora.target_modules=attention-qv",
            )
