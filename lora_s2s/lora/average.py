"""Averages of adapters of one base, as tensors.

LoRA's update is a product, scale · B A, and the mean of products is not the product of mean
factors. Most methods here work on the products; ``factors`` averages A and B themselves. TIES and
DARE are PEFT's (``peft.utils.merge_utils``), on the products: ``add_weighted_adapter`` would apply
the plain ones to the factors, and gives a result in rsLoRA a wrong scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from peft.utils import merge_utils
from peft.utils.other import get_pattern_key
from torch import Tensor

from lora_s2s import limits
from lora_s2s.errors import DataError, UsageError

KINDS = ("linear", "svd", "ties", "dare_linear", "dare_ties", "factors")
State: TypeAlias = dict[str, Tensor]
# PEFT's names of settings → values, of as many types as PEFT has.
Config: TypeAlias = Mapping[str, Any]
_A, _B = ".lora_A.weight", ".lora_B.weight"
_PRUNING: frozenset[str] = frozenset({"ties", "dare_linear", "dare_ties"})
_DENSITY = 0.5
# What may differ between adapters that are averaged: it has no effect on what they compute.
_WITHOUT_EFFECT = {"base_model_name_or_path", "revision", "inference_mode", "peft_version"}


@dataclass(frozen=True)
class Member:
    """An adapter to average: its share of the average, PEFT's settings, and its weights by their
    names in the file.
    """

    name: str
    share: float
    config: Config = field(repr=False)
    state: State = field(repr=False)


@dataclass(frozen=True)
class Kept:
    """The settings and weights of an average, its rank (None where the method has none), and how
    far its update is from the one that was asked for, as a share of that one's norm.
    """

    config: Config = field(repr=False)
    state: State = field(repr=False)
    rank: int | None
    error: float


@dataclass(frozen=True)
class How:
    """How adapters are averaged.

    Attributes:
        density: the share of an update's weights that TIES and DARE keep; None is a half.
        rank: of the result, for all but ``linear`` and ``factors``; None is the largest rank of
            the adapters.
        seed: of DARE's random choice.
    """

    kind: str = "linear"
    density: float | None = None
    rank: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"no method '{self.kind}'", hint=f"--method {', '.join(KINDS)}")
        if self.density is not None and self.kind not in _PRUNING:
            raise UsageError(f"{self.kind} drops no weights, so it takes no density")
        if self.density is not None and not 0 < self.density < 1:
            raise UsageError(f"a density of {self.density:g}: expected more than 0, less than 1")
        if self.rank is not None and self.kind in ("linear", "factors"):
            raise UsageError(f"{self.kind} has a rank of its own", hint="--method svd")
        if self.rank is not None and not 1 <= self.rank <= limits.LARGEST_RANK:
            raise UsageError(f"rank {self.rank}: expected 1 to {limits.LARGEST_RANK}")


def average(members: Sequence[Member], how: How) -> Kept:
    """Averages adapters whose shares sum to 1. Trained tokens are averaged as they are.

    Raises:
        DataError: they differ in their method, targets or, for ``factors``, ranks.
        UsageError: the method is for plain LoRA, or the rank would be too large.
    """
    _check_alike(members, how)
    if how.kind == "factors":
        state = {name: _mean(members, name) for name in members[0].state}
        return Kept(members[0].config, state, members[0].config.get("r"), 0.0)
    modules = [name.removesuffix(_A) for name in members[0].state if name.endswith(_A)]
    others = [name for name in members[0].state if not name.endswith((_A, _B))]
    state = {name: _mean(members, name) for name in others}
    rank, lost, total = _rank(members, modules, how), 0.0, 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        for module in modules:
            factors = [_factors(member, module) for member in members]
            if how.kind == "linear":
                down, up = _joined(factors, members, rank)
            else:
                whole = _combined(how, members)([up @ down for down, up in factors])
                down, up = _truncated(whole, rank)
                lost += float((up @ down - whole).square().sum())
                total += float(whole.square().sum())
            state[module + _A], state[module + _B] = down, up
    plain = {"use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    config = {**members[0].config, **plain, "r": rank, "lora_alpha": rank}
    return Kept(config, state, rank, math.sqrt(lost / total) if total else 0.0)


def _check_alike(members: Sequence[Member], how: How) -> None:
    first = members[0]
    by_factors = how.kind == "factors"
    if not by_factors and (problem := _not_plain(first.config)):
        raise UsageError(
            f"{how.kind} is for lora and rslora, whose update is a product; {first.name} {problem}",
            hint="--method factors averages the weights of adapters of one run",
        )
    for other in members[1:]:
        for key in ("peft_type", "use_dora"):
            if first.config.get(key) != other.config.get(key):
                raise _differ(first, other, "method", key)
        if {*first.state} != {*other.state}:
            only = sorted({*first.state} ^ {*other.state})[0]
            holder = first.name if only in first.state else other.name
            raise DataError(
                f"{first.name} and {other.name} adapt other modules: only {holder} has {only}",
                hint="average adapters of the same lora.target_modules and trained tokens",
            )
        if by_factors:
            _check_same_form(first, other)


def _check_same_form(first: Member, other: Member) -> None:
    for name, tensor in first.state.items():
        if tensor.shape != other.state[name].shape:
            shapes = f"{tuple(tensor.shape)} and {tuple(other.state[name].shape)}"
            raise DataError(
                f"{first.name} and {other.name} differ in the rank: {name} is {shapes}",
                hint="--method linear or svd average the products of any ranks",
            )
    for key in sorted({*first.config} | {*other.config}):
        if key not in _WITHOUT_EFFECT and first.config.get(key) != other.config.get(key):
            raise _differ(first, other, key, key)


def _differ(first: Member, other: Member, what: str, key: str) -> DataError:
    values = [repr(member.config.get(key))[:60] for member in (first, other)]
    return DataError(
        f"{first.name} and {other.name} differ in their {what}: {key} is {' and '.join(values)}",
        hint="average adapters of one method",
    )


def _not_plain(config: Config) -> str | None:
    if config.get("peft_type") != "LORA":
        return f"is {config.get('peft_type')}"
    return "is DoRA" if config.get("use_dora") else None


def _mean(members: Sequence[Member], name: str) -> Tensor:
    weighted = [member.share * member.state[name].float() for member in members]
    return torch.stack(weighted).sum(dim=0)


def _factors(member: Member, module: str) -> tuple[Tensor, Tensor]:
    """A and B with the scale in B."""
    down, up = (member.state[module + end].float() for end in (_A, _B))
    return down, up * _scale(member.config, module.removeprefix("base_model.model."), len(down))


def _scale(config: Config, module: str, rank: int) -> float:
    alphas: Config = config.get("alpha_pattern") or {}
    key = get_pattern_key(list(alphas), module)
    alpha: float = alphas[key] if key in alphas else config["lora_alpha"]
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _rank(members: Sequence[Member], modules: Sequence[str], how: How) -> int:
    """The rank of the result: for ``linear`` the sum of those of the adapters."""
    ranks = [[len(member.state[module + _A]) for member in members] for module in modules]
    if how.kind != "linear":
        return how.rank or max(map(max, ranks))
    rank = max(map(sum, ranks))
    if rank > limits.LARGEST_RANK:
        raise UsageError(
            f"the exact average has rank {rank}, the sum of the adapters'; at most "
            f"{limits.LARGEST_RANK}",
            hint="--method svd --rank 64",
        )
    return rank


def _joined(
    factors: Sequence[tuple[Tensor, Tensor]], members: Sequence[Member], rank: int
) -> tuple[Tensor, Tensor]:
    """[A; A'] and [w B, w' B'], whose product is w B A + w' B' A' exactly."""
    down = torch.cat([down for down, _ in factors])
    up = torch.cat(
        [member.share * up for (_, up), member in zip(factors, members, strict=True)], dim=1
    )
    return _of_rank(down, up, rank)


def _of_rank(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of a lower rank with zeros up to a rank."""
    missing = rank - len(down)
    wider = torch.nn.functional.pad(up, (0, missing)).contiguous()
    return torch.nn.functional.pad(down, (0, 0, 0, missing)).contiguous(), wider


def _combined(how: How, members: Sequence[Member]) -> Callable[[list[Tensor]], Tensor]:
    shares = torch.tensor([member.share for member in members])
    density = how.density or _DENSITY
    # TIES divides by the number of adapters that agree, so its weights are 1 on average.
    each = shares * len(members)
    kinds: dict[str, Callable[[list[Tensor]], Tensor]] = {
        "svd": partial(merge_utils.task_arithmetic, weights=shares),
        "dare_linear": partial(merge_utils.dare_linear, weights=shares, density=density),
        "ties": partial(merge_utils.ties, weights=each, density=density),
        "dare_ties": partial(merge_utils.dare_ties, weights=each, density=density),
    }
    return kinds[how.kind]


def _truncated(whole: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors A and B of the nearest matrix of a rank."""
    left, sizes, right = torch.linalg.svd(whole, full_matrices=False)
    roots = sizes[:rank].sqrt()
    return _of_rank(roots[:, None] * right[:rank], left[:, :rank] * roots, rank)
