"""A base in memory: its config and weights, both checked before they are used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from lora_s2s import probe
from lora_s2s.errors import DataError, UsageError, naming_out_of_memory
from lora_s2s.files import read_json, read_object
from lora_s2s.hub import MalformedConfig, locate_model
from lora_s2s.models.family import ModelFamily, family_of
from lora_s2s.models.filling import put_weights
from lora_s2s.models.float16 import settle
from lora_s2s.models.host_memory import return_memory_at_once
from lora_s2s.models.precision import resolve_device, resolve_dtype
from lora_s2s.models.quantized import skeleton
from lora_s2s.models.weights import (
    misfit,
    shapes,
    weight_files,
    weights_hash,
)
from lora_s2s.records import ModelManifest, verify

_CONFIG = "config.json"

_TOO_LARGE = "choose a smaller model, or set model.quantization=nf4"


@dataclass(frozen=True)
class LoadedBase:
    """A base model in evaluation mode.

    Attributes:
        model: the transformers model; injecting an adapter wraps its modules in place.
        name: as the user gave it (``demo``, a hub id, a folder), and as artefacts record it.
        path: where its files are on this machine.
        weights_sha256: see :func:`lora_s2s.models.weights.weights_hash`.
        residual_shift: k if the residual stream is scaled by 2^-k to fit float16, else 0.
    """

    model: PreTrainedModel = field(repr=False)
    family: ModelFamily = field(repr=False)
    name: str
    revision: str | None
    path: Path
    dtype: torch.dtype
    weights_sha256: str
    quantization: str = "none"
    skip_quantization: tuple[str, ...] = ()
    residual_shift: int = 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers while it loads: for every Flan-T5 it warns that the head "will NOT" be
    tied, which is intended.
    """
    level, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def load_base(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    quantization: str = "none",
    skip_quantization: Sequence[str] = (),
    device: str | torch.device | None = None,
) -> LoadedBase:
    """Loads an encoder–decoder for training or decoding, with the checkpoint's weights, one at a
    time.

    Peak memory is the finished model and one weight.

    Args:
        name: ``demo``, a hub id, or a folder with ``config.json`` and safetensors.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        quantization: ``none``, ``nf4`` or ``int8``, of the linear layers of all blocks.
        skip_quantization: name endings of linear layers that stay in ``dtype``, such as ``wo``.
        device: None takes the GPU if there is one.

    Raises:
        UsageError: no such model, not an encoder–decoder, an unknown family, dtype, quantization or
            ending.
        DataError: config or weights are missing, damaged, or do not fit each other.
        ResourceError: it does not fit into memory.
        SetupError: bitsandbytes is missing.
    """
    placed = resolve_device(device)
    chosen = resolve_dtype(dtype, placed)
    path = locate_model(name, revision)
    settings = _settings(path)
    verify(path, ModelManifest.read(path).files)
    family = family_of(settings, where=str(path))
    if "quantization_config" in settings:
        raise UsageError("a quantized checkpoint cannot be a base in this version", where=str(path))
    files = weight_files(path)
    shapes_of = shapes(files)
    family.check_settings(settings, where=str(path / _CONFIG))
    probe.check_config(path)
    config = _config(family, settings, path)
    with quiet():
        model = skeleton(
            family, config, dtype=chosen, quantization=quantization, skip=skip_quantization
        )
    names = _check_shapes(family, model, shapes_of, path)
    too_large = f"{path.name} does not fit into the memory of {placed.type}"
    with naming_out_of_memory(too_large, hint=_TOO_LARGE):
        with quiet():
            put_weights(model, files, names, placed)
            model.generation_config = _generation_config(path)
        _check_ids(model, path)
    family.finish_loading(model, settings, names.values(), where=str(path))
    model.eval()
    shift = settle(model, family) if chosen is torch.float16 else 0
    skipped = tuple(skip_quantization) if quantization != "none" else ()
    return LoadedBase(
        model,
        family,
        name,
        revision,
        path,
        chosen,
        weights_hash(path),
        quantization,
        skipped,
        shift,
    )


def _settings(folder: Path) -> dict[str, object]:
    path = folder / _CONFIG
    if not path.is_file():
        hint = "give the folder that holds config.json"
        raise DataError(f"not a model folder: no {_CONFIG}", hint=hint, where=str(folder))
    return read_object(path)


def _config(family: ModelFamily, settings: Mapping[str, object], folder: Path) -> PreTrainedConfig:
    where = str(folder / _CONFIG)
    try:
        with quiet():
            return family.config_class.from_dict(dict(settings))
    except (MalformedConfig, AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"the config is not a {family.name} config: {reason}", where=where
        ) from error


def _check_shapes(
    family: ModelFamily, model: PreTrainedModel, found: Mapping[str, tuple[int, ...]], folder: Path
) -> dict[str, str]:
    """Compares the weights' names and shapes with the model's; returns each weight's name in the
    file → in the model.

    A checkpoint of the model without its head (BART's) lacks the prefix that the full one has.
    """
    shapes_of = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    prefixed = {name: f"{model.base_model_prefix}.{name}" for name in found}
    names = {
        name: longer if name not in shapes_of and longer in shapes_of else name
        for name, longer in prefixed.items()
    }
    harmless = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    judged = {
        names[name]: shape
        for name, shape in found.items()
        if names[name] in shapes_of or not any(pattern.search(name) for pattern in harmless)
    }
    expected = {
        name: shape
        for name, shape in shapes_of.items()
        if name in judged or not family.may_be_absent(name)
    }
    if problem := misfit(expected, judged, foreign="is not part of this model"):
        raise DataError(f"the weights do not fit the config: {problem}", where=str(folder))
    return {name: inner for name, inner in names.items() if inner in judged}


def _generation_config(folder: Path) -> GenerationConfig:
    """Returns what ``from_pretrained`` would: the checkpoint's own, else what older ones keep in
    their config.
    """
    path = folder / "generation_config.json"
    try:
        if path.is_file():
            # Not from_pretrained, which silently reads config.json if this file is damaged.
            return GenerationConfig.from_dict(read_json(path))
        return GenerationConfig.from_pretrained(
            folder, config_file_name=_CONFIG, _from_model_config=True, local_files_only=True
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"not a generation config: {error}", where=str(path)) from error


def _check_ids(model: PreTrainedModel, folder: Path) -> None:
    """Refuses ids that answers begin with or must not contain and that the vocabulary lacks."""
    config, generation = model.config, model.generation_config
    rows = max(
        len(model.get_input_embeddings().weight), getattr(config, "decoder_vocab_size", None) or 0
    )
    starts = [getattr(config, "decoder_start_token_id", None), generation.decoder_start_token_id]
    banned = generation.bad_words_ids or []
    lists = (
        [*banned, starts, [generation.forced_bos_token_id]]
        if isinstance(banned, list)
        else [banned]
    )
    for ids in lists:
        for token in ids if isinstance(ids, list) else [ids]:
            if token is not None and not (type(token) is int and 0 <= token < rows):
                problem = (
                    f"config.json or generation_config.json names the token {token!r:.40}; there "
                    f"are {rows:,}"
                )
                raise DataError(problem, where=str(folder))


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Recomputes activations in the backward pass: less memory, half as much compute again.

    Args:
        model: a base or an adapted model.
    """
    owner = cast("PreTrainedModel", model)
    if next(model.parameters()).device.type == "cpu":
        return_memory_at_once()
    settings = {"use_reentrant": False}
    if hasattr(owner, "activation_checkpointing_enable"):  # the older name is deprecated
        owner.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        owner.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    # Only reentrant checkpoints need inputs that require gradients, which would then flow through
    # stacks and blocks without an adapter.
    owner.disable_input_require_grads()
    for module in owner.modules():
        # Otherwise T5's cross-attention requires a gradient for its bias of zeros, with the same
        # effect in the decoder.
        if hasattr(module, "gradient_checkpointing") and not isinstance(
            module, GradientCheckpointingLayer
        ):
            module.gradient_checkpointing = False
