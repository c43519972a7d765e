"""Full fine-tuning: no adapter, the base's own weights train, and the result is a whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_s2s.errors import UsageError, nearest
from lora_s2s.files import naming
from lora_s2s.lora.adapter import CONFIG, WEIGHTS, save_adapter
from lora_s2s.models.generation import IN_CONFIG, decoding_config
from lora_s2s.models.loading import LoadedBase
from lora_s2s.models.saving import for_both_versions, save_model
from lora_s2s.recipe.fields import FULL

_FILES = ("config.json", "generation_config.json")
EMBEDDINGS, HEAD = "embeddings", "head"


def train_weights(base: LoadedBase, freeze: Sequence[str] = ()) -> PreTrainedModel:
    """Makes the base's weights train, and returns its model in evaluation mode.

    Args:
        freeze: what does not train: ``embeddings``, ``head``, or names of modules: a full name, or
            what is between dots in it, such as ``encoder`` or ``layer_norm``.

    Raises:
        UsageError: no module has such a name, or nothing is left to train.
    """
    model = base.model.requires_grad_(True).eval()
    for word in freeze:
        frozen = _named(model, word)
        if not frozen:
            names = [EMBEDDINGS, HEAD, *(name for name, _ in model.named_modules())]
            raise UsageError(
                f"training.freeze: {base.name} has no '{word}'{nearest(word, names)}",
                hint=f"name {EMBEDDINGS}, {HEAD}, encoder, decoder, or a module",
            )
        for weight in frozen:
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        problem = f"training.freeze leaves nothing of {base.name} to train"
        raise UsageError(problem, hint="name fewer parts")
    return model


def _named(model: PreTrainedModel, word: str) -> list[nn.Parameter]:
    parts = {EMBEDDINGS: model.get_input_embeddings(), HEAD: model.get_output_embeddings()}
    if (part := parts.get(word)) is not None:
        return list(part.parameters())
    return [weight for name, weight in model.named_parameters() if f".{word}." in f".{name}."]


def is_whole(model: nn.Module) -> bool:
    """Whether the weights of a model that trains are its own, not an adapter's."""
    return not isinstance(model, PeftModel)


def save_result(
    model: nn.Module,
    base: LoadedBase,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    decoding: Mapping[str, Any],
) -> tuple[list[Path], dict[str, object]]:
    """Writes a trained adapter, or a trained base as a whole model, which transformers 4 and 5 load
    alike, and the tokenizer.

    Args:
        tokenizer: which prepared the data.
        out: an existing folder.
        decoding: ``max_new_tokens`` and ``num_beams`` of a whole model.

    Returns:
        The files, and what the manifest says of a whole model.
    """
    if isinstance(model, PeftModel):
        save_adapter(model, out)
        files, entries = [out / CONFIG, out / WEIGHTS], dict[str, object]()
    else:
        _save_whole(base, tokenizer, out, decoding)
        files = [out / name for name in _FILES] + sorted(out.glob("*.safetensors"))
        entries = {"method": FULL, "decoding": dict(decoding)}
    with naming(out / "tokenizer.json"):
        files += [Path(name) for name in tokenizer.save_pretrained(out)]
    if is_whole(model):
        for_both_versions(out)
    return files, entries


def _save_whole(
    base: LoadedBase, tokenizer: PreTrainedTokenizerBase, out: Path, decoding: Mapping[str, Any]
) -> None:
    model = base.model
    positions = base.family.max_positions(model.config)
    generation = decoding_config(model, tokenizer, decoding, positions=positions)
    save_model(
        model.state_dict(),
        base,
        out,
        dtype=torch.float32,
        generation=generation,
        not_in_config=IN_CONFIG,
    )
