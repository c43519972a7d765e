"""Adapters to average: read from folders and checkpoints, each checked against one base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from lora_s2s.errors import DataError
from lora_s2s.lora import token_rows
from lora_s2s.lora.adapter import (
    LoadedAdapter,
    check_trained_on,
    checked_weights,
    config_content,
    load_adapter,
    read_adapter,
    without_weights,
)
from lora_s2s.lora.average import Member, State
from lora_s2s.models.loading import LoadedBase
from lora_s2s.models.weights import finite_weight
from lora_s2s.records import AdapterManifest


@dataclass(frozen=True)
class Place:
    """Where an adapter is: the folder of a finished run, and one of its checkpoints' weights if
    they are meant.
    """

    name: str
    run: Path
    weights: Path | None = None


@dataclass(frozen=True)
class Group:
    """Adapters of one base, ready to be averaged, with the first one's manifest and base."""

    members: list[Member]
    manifests: list[AdapterManifest] = field(repr=False)
    base: LoadedBase = field(repr=False)


def read_members(
    places: Sequence[Place], shares: Sequence[float], *, base_override: str | None = None
) -> Group:
    """Loads the base of the first adapter, and reads all of them for it.

    Raises:
        DataError: an adapter is refused, is of another base or quantization, or a checkpoint does
            not hold the weights of its run's adapter.
    """
    loaded = load_adapter(places[0].run, base_override=base_override)
    base = loaded.base
    # Names and shapes alone: the loaded base has the first adapter on it.
    bare = without_weights(base)
    members, manifests = list[Member](), list[AdapterManifest]()
    for place, share in zip(places, shares, strict=True):
        settings, manifest = read_adapter(place.run)
        check_trained_on(manifest.base, base.name, base.weights_sha256, place.run)
        _check_stored(manifests[0] if manifests else manifest, manifest, place)
        config, state = checked_weights(place.run, settings, bare)
        if place.weights is not None:
            of_run = loaded
            if settings.train_tokens and place.run != places[0].run:
                of_run = load_adapter(place.run, base_override=base_override)
            state = _of_checkpoint(place.weights, state, of_run)
        content = config_content(config())
        content.update(base_model_name_or_path=base.name, revision=base.revision)
        if settings.train_tokens:
            content[token_rows.KEY] = token_rows.config_ids(settings.train_tokens)
        members.append(Member(place.name, share, content, state))
        manifests.append(manifest)
    return Group(members, manifests, base)


def _check_stored(first: AdapterManifest, other: AdapterManifest, place: Place) -> None:
    stored = [manifest.base.quantization or "none" for manifest in (first, other)]
    if stored[0] != stored[1]:
        raise DataError(
            f"{place.name} was trained on a base in {stored[1]}, the first adapter on one in "
            f"{stored[0]}",
            hint="average adapters of one model.quantization",
        )


def _of_checkpoint(path: Path, state: State, run: LoadedAdapter) -> State:
    """The weights of a checkpoint as an adapter's file has them; ``state`` are the run's own."""
    held = load_file(path)
    tokens = token_rows.changes(run.model)
    plain = {name: tensor for name, tensor in held.items() if name not in tokens}
    rows = token_rows.saved_shapes(run.base, run.settings.train_tokens)
    expected = {name: tensor.shape for name, tensor in state.items() if name not in rows}
    if {name: tensor.shape for name, tensor in plain.items()} != expected or not {*tokens} <= {
        *held
    }:
        raise DataError(
            "the checkpoint's weights are not those of its run's adapter: those of PiSSA and OLoRA "
            "become plain LoRA at the end of a run",
            hint="average finished adapters",
            where=str(path),
        )
    checked: dict[str, Tensor] = {
        name: finite_weight(name, tensor, path) for name, tensor in held.items()
    }
    values = token_rows.from_checkpoint(run.model, checked) if tokens else {}
    return {**{name: checked[name] for name in plain}, **values}
