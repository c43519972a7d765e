"""Writes a model that plain transformers loads. Embeddings are never resized."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lora_s2s.errors import DataError
from lora_s2s.files import read_object, write_json
from lora_s2s.models.loading import LoadedBase, quiet
from lora_s2s.models.precision import dtype_name
from lora_s2s.models.weights import is_finite, write_shards

_SETTINGS = "tokenizer_config.json"
_TOKENIZER = re.compile(
    r"(tokenizer|special_tokens_map|added_tokens|vocab|merges).*\.(json|txt)|.*\.model"
)


def save_model(
    state: Mapping[str, Tensor],
    base: LoadedBase,
    out: Path,
    *,
    dtype: torch.dtype,
    tokenizer_from: Path | None = None,
    generation: GenerationConfig | None = None,
    not_in_config: Collection[str] = (),
    shard_bytes: int | None = None,
) -> None:
    """Writes a model and its tokenizer so that ``AutoModelForSeq2SeqLM.from_pretrained`` of
    transformers 4 and 5 loads the same.

    Args:
        state: name → weight; written as ``dtype``.
        base: its family, config, generation config and tokenizer files are used.
        out: an existing, empty folder (see :func:`lora_s2s.outputs.whole_folder`).
        tokenizer_from: a folder with tokenizer files; None for the base's own.
        generation: how the model decodes; None for the base's own settings.
        not_in_config: keys of the base's config to omit.
        shard_bytes: the most bytes of weights in a file, except for a single larger weight; None
            for one file.

    Raises:
        DataError: a weight is too large for ``dtype``.
    """
    weights, settings = base.family.contents_to_write(state, base.model.config)
    write_shards(out, _apart(weights, dtype), shard_bytes)
    # No path of this machine is written, and no version of transformers.
    omitted = {"_name_or_path", "transformers_version", *not_in_config}
    written = {key: value for key, value in settings.items() if key not in omitted}
    kind = base.family.model_class.__name__
    write_json(
        out / "config.json", {**written, "architectures": [kind], "dtype": dtype_name(dtype)}
    )
    with quiet():
        (generation or base.model.generation_config).save_pretrained(out)
    for path in sorted((tokenizer_from or base.path).iterdir()):
        if path.is_file() and _TOKENIZER.fullmatch(path.name):
            shutil.copyfile(path, out / path.name)
    for_both_versions(out)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Writes a loaded tokenizer, with its languages, for transformers 4 and 5."""
    tokenizer.save_pretrained(out)
    for_both_versions(out)


def for_both_versions(folder: Path) -> None:
    """Rewrites a tokenizer's settings, as transformers 5 wrote them, so that 4 reads them too."""
    path = folder / _SETTINGS
    marks = read_object(path) if path.is_file() else {}
    if isinstance(marks.get("extra_special_tokens"), list):
        marks["additional_special_tokens"] = marks.pop("extra_special_tokens")
        write_json(path, marks)


def _apart(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns the weights on the CPU as ``dtype``, copied only where needed."""
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        tensor = weight.detach().to(device="cpu", dtype=dtype).contiguous()
        if not is_finite(tensor):
            raise DataError(
                f"the weight {name} is too large for {dtype_name(dtype)}", hint="--dtype float32"
            )
        # Safetensors refuses two names for one storage, so an unscaled head that is the embeddings
        # is written as a copy.
        shared = any(tensor.data_ptr() == other.data_ptr() for other in tensors.values())
        tensors[name] = tensor.clone() if shared else tensor
    return tensors
