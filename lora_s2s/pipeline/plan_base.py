"""What a plan needs to know of a base, from its config alone: sizes, weights, adapted layers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from lora_s2s.errors import DataError
from lora_s2s.hub import is_local, only_cache
from lora_s2s.lora.methods import METHODS
from lora_s2s.lora.targets import Targets, adaptable, block_of, resolve_ranks, resolve_targets
from lora_s2s.models.family import ModelFamily, family_of
from lora_s2s.models.known_bases import known_settings
from lora_s2s.models.loading import LoadedBase, quiet
from lora_s2s.models.quantized import skeleton
from lora_s2s.models.row_memory import base_sizes, of_encoder, read_config
from lora_s2s.models.t5_parts import COVERED
from lora_s2s.models.weights import shapes, weight_files
from lora_s2s.recipe.fields import FULL, ranks_by_name
from lora_s2s.recipe.schema import LoraSection, ModelSection
from lora_s2s.training.duration import Work
from lora_s2s.training.footprint import Adapted, Sizes

# Bytes of a weight and of what belongs to it: nf4's scales of 64 weights are 8 bits themselves.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
_EMBEDDINGS = ("embed_tokens", "shared", "lm_head")
OURS = ("lora", "rslora", "pissa", "olora", FULL)  # methods that the fast forward computes


@dataclass(frozen=True)
class PlannedBase:
    """A base as its config describes it; ``linear`` is full name → (out, in) of the layers that may
    be quantized or adapted, ``other`` the number of all other weights.
    """

    name: str
    base: LoadedBase
    sizes: Sizes
    linear: Mapping[str, tuple[int, int]]
    other: int

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return self.other + sum(map(math.prod, self.linear.values()))

    def weights_bytes(self, quantization: str, bytes_each: int, skip: tuple[str, ...] = ()) -> int:
        """Bytes of the weights in memory."""
        total = float(self.other * bytes_each)
        for name, (outputs, inputs) in self.linear.items():
            values = outputs * inputs
            if quantization == "none" or f".{name}".endswith(tuple(f".{end}" for end in skip)):
                total += values * bytes_each
            else:
                total += values * _NF4_BYTES if quantization == "nf4" else values + 4 * outputs
        return round(total)

    def divided_bytes(self, bytes_each: int, processes: int, *, blocks_only: bool) -> int:
        """Bytes of a process's part of the weights, and of two gathered blocks: the one that is
        computed and the next.

        Args:
            blocks_only: all other weights are whole on every process.
        """
        blocks: dict[tuple[str, int], int] = {}
        for name, shape in self.linear.items():
            blocks[block_of(name)] = blocks.get(block_of(name), 0) + math.prod(shape)
        part, gathered = sum(blocks.values()) / processes, 2 * max(blocks.values(), default=0)
        other = self.other if blocks_only else self.other / processes
        return round(bytes_each * (part + gathered + other))

    @property
    def largest(self) -> int:
        """Weights of the largest layer that may be quantized."""
        return max(map(math.prod, self.linear.values()), default=0)

    def adapted(self, lora: LoraSection) -> tuple[int, Adapted, Work]:
        """The number of weights that train, the layers they are on, and the products of a token."""
        if lora.method == FULL:
            targets = Targets("", dict(self.linear))
            places = Places.of(self.base)
            work = _work(self.linear, targets, self.parameters, places)
            return self.parameters, _adapted(targets, dict.fromkeys(self.linear, 0), places), work
        targets = resolve_targets(self.base, lora.target_modules, last_blocks=lora.last_blocks)
        rank = lora.r if METHODS[lora.method].rank else 1
        ranks = resolve_ranks(self.base, targets, ranks_by_name(lora.rank_pattern), rank)
        of = {name: ranks.get(name, rank) for name in targets.shapes}
        count = sum(of[name] * sum(shape) for name, shape in targets.shapes.items())
        if lora.method == "dora":
            count += sum(outputs for outputs, _ in targets.shapes.values())
        places = Places.of(self.base)
        work = _work(self.linear, targets, count, places)
        return count, _adapted(targets, of, places), work


def planned_base(section: ModelSection) -> PlannedBase:
    """Reads a base's config from this machine, else takes a popular base's known sizes, else
    downloads the config. Weights are not read.

    Raises:
        SetupError, UsageError, DataError: the config cannot be read, or names no sizes.
    """
    with only_cache():
        local = is_local(section.name, section.revision)
    if not local and (known := _known_base(section.name)):
        return known
    settings = read_config(section.name, section.revision)
    return base_of(section.name, settings, own_head=_own_head(section.name) if local else None)


@cache
def _known_base(name: str) -> PlannedBase | None:
    settings = known_settings(name)
    return None if settings is None else base_of(name, settings)


def base_of(
    name: str, settings: Mapping[str, object], *, own_head: bool | None = None
) -> PlannedBase:
    """A base of a config.

    Args:
        own_head: whether the checkpoint holds a head beside the embeddings; None asks the config.
    """
    family = family_of(settings, where=name)
    family.check_settings(settings, where=name)
    with quiet():
        config = family.config_class.from_dict(dict(settings))
        model = skeleton(family, config, dtype=torch.float32)
    base = LoadedBase(model, family, name, None, Path(), torch.float32, "")
    linear = adaptable(family, model)
    held = dict(model.named_parameters())
    inside = {f"{layer}.weight" for layer in linear}
    matrix = model.get_input_embeddings().weight
    rest = sum(
        weight.numel()
        for key, weight in held.items()
        if key not in inside and not any(part in key for part in _EMBEDDINGS)
    )
    own = settings.get("tie_word_embeddings") is False if own_head is None else own_head
    vocabulary = matrix.numel() * (2 if own else 1)
    return PlannedBase(name, base, _sizes(family, settings, matrix), linear, rest + vocabulary)


def _sizes(family: ModelFamily, settings: Mapping[str, object], matrix: torch.Tensor) -> Sizes:
    sizes = base_sizes(settings)
    if sizes is None:
        raise DataError("the config names no layers, widths or heads", hint="use its own config")
    given = of_encoder(settings)
    width = given.get("d_kv", given.get("head_dim"))
    each = width if isinstance(width, int) else sizes["hidden"] // sizes["heads"]
    gated = "gated" in str(given.get("feed_forward_proj", "")) or family.name == "t5gemma"
    kind = "t5" if family.t5_shaped else "t5gemma" if family.name == "t5gemma" else "bart"
    return Sizes(
        **sizes,
        attention=sizes["heads"] * each,
        vocabulary=len(matrix),
        gated=gated,
        kind="fast" if family.name in COVERED else kind,
    )


def _own_head(name: str) -> bool | None:
    from lora_s2s.hub import locate_model

    files = weight_files(locate_model(name))
    return any(key.endswith("lm_head.weight") for key in shapes(files))


@dataclass(frozen=True)
class Places:
    """Which stack's tokens pass a layer, by a family's own names."""

    encoder: re.Pattern[str]
    from_memory: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, base: LoadedBase) -> Places:
        """From the family's patterns and groups."""
        groups = base.family.target_groups(base.model.config)
        _, keys, values, out = (f".{name}" for name in groups["cross-attention"])
        output = f".{groups['attention'][3]}"
        return cls(re.compile(base.family.stacks[0]), (keys, values), (output, out))

    def stack(self, name: str) -> str:
        """The stack that a layer is in."""
        return "encoder" if self.encoder.fullmatch(name) else "decoder"

    def tokens(self, name: str) -> str:
        """The same, or ``cross`` for keys and values of the cross-attention, which source tokens
        pass on their way to the decoder.
        """
        return "cross" if name.endswith(self.from_memory) else self.stack(name)


def _adapted(targets: Targets, ranks: Mapping[str, int], places: Places) -> Adapted:
    first: dict[str, int] = {}
    kept: dict[str, float] = {}
    copies: dict[str, float] = {}
    shared: dict[str, dict[tuple[str, int], int]] = {}
    blocks: dict[str, set[int]] = {}
    for name, (_, width) in targets.shapes.items():
        stack, place = places.stack(name), places.tokens(name)
        first[stack] = min(first.get(stack, 1 << 30), block_of(name)[1])
        blocks.setdefault(stack, set()).add(block_of(name)[1])
        kept[place] = kept.get(place, 0) + ranks[name]
        copies[place] = copies.get(place, 0) + 2 * width
        # Queries, keys and values share one input; that of the outputs is kept without an adapter.
        if place != "cross" and not name.endswith(places.outputs):
            shared.setdefault(place, {})[name.rpartition(".")[0], width] = width
    counts = {"cross": len(blocks.get("decoder", ())), **{s: len(b) for s, b in blocks.items()}}
    once = {place: float(sum(widths.values())) for place, widths in shared.items()}
    return Adapted(
        first,
        ranks=_per_block(kept, counts),
        inputs={4: _per_block(once, counts), 2: _per_block(copies, counts)},
        outputs=any(name.endswith(places.outputs) for name in targets.shapes),
    )


def _per_block(totals: Mapping[str, float], blocks: Mapping[str, int]) -> dict[str, float]:
    return {place: total / blocks[place] for place, total in totals.items()}


def _work(
    linear: Mapping[str, tuple[int, int]], targets: Targets, adapters: int, places: Places
) -> Work:
    weights = {"encoder": 0, "decoder": 0, "cross": 0}
    for name, shape in linear.items():
        weights[places.tokens(name)] += math.prod(shape)
    trains = any(places.stack(name) == "encoder" for name in targets.shapes)
    return Work(**weights, adapters=adapters, encoder_trains=trains)
