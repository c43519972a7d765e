"""A base in memory, and a whole model on disk. Neither ever calls ``tie_weights`` or resizes embeddings."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from lora_s2s.errors import DataError, ResourceError, UsageError
from lora_s2s.files import read_json, write_json
from lora_s2s.hub import MalformedConfig, locate_model
from lora_s2s.models.family import ModelFamily, family_of
from lora_s2s.models.precision import resolve_device, resolve_dtype
from lora_s2s.models.weights import WEIGHTS, misfit, shapes, weight_files, weights_hash, write_weights

_CONFIG = "config.json"
_TOKENIZER = re.compile(r"(tokenizer|special_tokens_map|added_tokens|vocab|merges).*\.(json|txt)|.*\.model")

_TOO_LARGE = "choose a smaller model, or a smaller dtype"


@dataclass(frozen=True)
class LoadedBase:
    """A base model in evaluation mode.

    Attributes:
        model: the transformers model; injecting an adapter wraps its modules in place.
        name: as the user gave it (``demo``, a hub id, a folder), which is what artefacts record.
        path: where its files are on this machine.
        weights_sha256: see :func:`lora_s2s.models.weights.weights_hash`.
    """

    model: Any = field(repr=False)
    family: ModelFamily = field(repr=False)
    name: str
    revision: str | None
    path: Path
    dtype: torch.dtype
    weights_sha256: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers while it loads: it says of every Flan that its head "will NOT" be tied, which is right."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
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
    device: str | torch.device | None = None,
) -> LoadedBase:
    """Loads an encoder–decoder for training or decoding, every weight as the checkpoint has it.

    Args:
        name: ``demo``, a hub id, or a folder with ``config.json`` and safetensors.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        device: None takes the GPU where there is one.

    Raises:
        UsageError: no such model, not an encoder–decoder, an unknown family, dtype or quantization.
        DataError: config or weights are missing, damaged, or do not fit each other.
        ResourceError: it does not fit into memory.
    """
    if quantization != "none":
        raise UsageError(f"quantization '{quantization}' is not in this version", hint="set model.quantization=none")
    placed = resolve_device(device)
    chosen = resolve_dtype(dtype, placed)
    path = locate_model(name, revision)
    settings = _settings(path)
    family = family_of(settings, where=str(path))
    if "quantization_config" in settings:
        raise UsageError("a quantized checkpoint cannot be a base in this version", where=str(path))
    found = shapes(weight_files(path))
    config = _config(family, settings, path)
    _check_shapes(family, config, found, path)
    model = _load(family, config, path, chosen, placed)
    family.finish_loading(model, settings, found.keys(), where=str(path))
    return LoadedBase(model.eval(), family, name, revision, path, chosen, weights_hash(path))


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    if not path.is_file():
        hint = "give the folder that holds config.json"
        raise DataError(f"not a model folder: no {_CONFIG}", hint=hint, where=str(folder))
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise DataError("the config is not an object", where=str(path))
    return settings


def _config(family: ModelFamily, settings: Mapping[str, Any], folder: Path) -> Any:
    where = str(folder / _CONFIG)
    family.check_settings(settings, where=where)
    try:
        with quiet():
            return family.config_class.from_dict(dict(settings))
    except (MalformedConfig, AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"the config is not a {family.name} config: {reason}", where=where) from error


def _check_shapes(family: ModelFamily, config: Any, found: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Compares the weights' names and shapes with the config's, before anything is allocated."""
    with torch.device("meta"), quiet():
        skeleton = family.model_class(config)
    shapes_of = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    expected = {name: shape for name, shape in shapes_of.items() if name in found or not family.may_be_absent(name)}
    harmless = [re.compile(pattern) for pattern in skeleton._keys_to_ignore_on_load_unexpected or ()]
    judged = {
        name: shape
        for name, shape in found.items()
        if name in expected or not any(pattern.search(name) for pattern in harmless)
    }
    if problem := misfit(expected, judged, foreign="is not part of this model"):
        raise DataError(f"the weights do not fit the config: {problem}", where=str(folder))


def _load(family: ModelFamily, config: Any, folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    try:
        with quiet():
            model = family.model_class.from_pretrained(
                folder, config=config, dtype=dtype, attn_implementation="sdpa", use_safetensors=True,
                local_files_only=True,
            )  # fmt: skip
        return model.to(device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError(f"{folder.name} does not fit into the memory of {device.type}", hint=_TOO_LARGE) from error


def save_model(
    state: Mapping[str, Tensor], base: LoadedBase, out: Path, *, dtype: torch.dtype, tokenizer_from: Path | None = None
) -> None:
    """Writes what ``AutoModelForSeq2SeqLM.from_pretrained`` loads alike in transformers 4 and 5, with the tokenizer.

    Args:
        state: name → weight; written as ``dtype``.
        base: whose family, config, generation config and tokenizer files go along.
        out: an existing, empty folder (see :func:`lora_s2s.files.whole_folder`).
        tokenizer_from: a folder with tokenizer files; the base's own when None.
    """
    weights, settings = base.family.contents_to_write(state, base.model.config)
    tensors = {name: _own_copy(tensor, dtype) for name, tensor in weights.items()}
    write_weights(out / WEIGHTS, tensors)
    # The machine's folder is nobody's business; the version is that of whoever loads it.
    written = {key: value for key, value in settings.items() if key not in ("_name_or_path", "transformers_version")}
    kind = base.family.model_class.__name__
    write_json(out / _CONFIG, {**written, "architectures": [kind], "dtype": str(dtype).removeprefix("torch.")})
    with quiet():
        base.model.generation_config.save_pretrained(out)
    for path in sorted((tokenizer_from or base.path).iterdir()):
        if path.is_file() and _TOKENIZER.fullmatch(path.name):
            shutil.copyfile(path, out / path.name)


def _own_copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Safetensors refuses two names for one storage: an unscaled head that equals the embeddings is written out.
    return tensor.detach().to(device="cpu", dtype=dtype, copy=True).contiguous()


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Recomputes activations in the backward pass: less memory, half as much compute again. Base or adapted model."""
    switch: Any = model
    switch.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
