"""A recipe's base with its adapter and tokenizer, ready to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedTokenizerBase

from lora_s2s.console import warn
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.errors import UsageError, nearest
from lora_s2s.lora.full import is_whole, train_weights
from lora_s2s.lora.inject import inject_lora, total_parameters, trainable_parameters
from lora_s2s.models.common import begin_answers
from lora_s2s.models.family import check_lengths
from lora_s2s.models.loading import LoadedBase, enable_gradient_checkpointing, load_base
from lora_s2s.models.precision import dtype_name, resolve_device, resolve_dtype
from lora_s2s.pipeline.followed import check_constraint
from lora_s2s.recipe.fields import FULL
from lora_s2s.recipe.schema import Recipe
from lora_s2s.tokens.added import with_tokens
from lora_s2s.tokens.loading import languages_of, load_tokenizer
from lora_s2s.tokens.lossless import lossless_tokenizer, rows_taken
from lora_s2s.tokens.special_tokens import end_note, first_ids


@dataclass(frozen=True)
class AdaptedBase:
    """A base, the model with its adapter, the tokenizer that prepared the data, and the tokens
    whose embedding rows are trained.
    """

    base: LoadedBase
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    train_tokens: Sequence[int]

    @property
    def counts(self) -> dict[str, int]:
        """The number of trainable and of all parameters."""
        return {
            "trainable_parameters": trainable_parameters(self.model),
            "total_parameters": total_parameters(self.model),
        }

    @property
    def base_parameters(self) -> int:
        """The number of the base's parameters."""
        counts = self.counts
        adapter = 0 if is_whole(self.model) else counts["trainable_parameters"]
        return counts["total_parameters"] - adapter

    @property
    def device_type(self) -> str:
        """The kind of device that trains it; a base that will be divided is not there yet."""
        return resolve_device().type

    @property
    def note(self) -> str | None:
        """What plain transformers has to be given beside a source; None for nothing."""
        return end_note(self.tokenizer)

    @property
    def line(self) -> str:
        """Trainable parameters and the base's number format, in one line."""
        counts, base = self.counts, self.base
        return (
            f"{counts['trainable_parameters']:,} of {counts['total_parameters']:,} parameters "
            f"train, the base in {_stored(base)} on {base.device}"
        )


def adapted_base(
    recipe: Recipe, prepared: PreparedDataset, *, in_main_memory: bool = False
) -> AdaptedBase:
    """Loads a recipe's base and injects its adapter, ready to train.

    Args:
        in_main_memory: load it there, in the dtype that it will have on the device.

    Raises:
        UsageError: a token to train is not in the vocabulary, or the base does not support a
            setting.
        DataError: the data has token ids beyond the base's vocabulary.
    """
    tokenizer, train_tokens = _tokenizer(recipe, prepared)
    check_constraint(recipe, prepared, tokenizer)
    base, model = _injected(recipe, train_tokens, in_main_memory)
    vocabulary = len(base.model.get_input_embeddings().weight)
    for split in prepared.tables():
        split.check_vocabulary(vocabulary)
    begin_answers(model, **first_ids(tokenizer))
    return AdaptedBase(base, model, tokenizer, train_tokens)


def _tokenizer(
    recipe: Recipe, prepared: PreparedDataset
) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """The tokenizer that prepared the data, and the ids of the tokens to train."""
    languages = languages_of(recipe.data)
    tokenizer = load_tokenizer(recipe.model.name, recipe.model.revision, **languages)
    settings = prepared.manifest.input
    tokenizer, carried = with_tokens(tokenizer, settings.special_tokens), settings.carried
    rows = range(len(tokenizer), len(tokenizer) + rows_taken(carried))
    ids = train_token_ids(recipe, tokenizer, rows)
    if carried and not ids:
        warn(
            "unused embedding rows encode text, but none of them is trained: set "
            "data.lossless_text=off or lora.train_tokens=auto"
        )
    return lossless_tokenizer(tokenizer, carried) if carried else tokenizer, ids


def train_token_ids(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, carried_ids: Sequence[int]
) -> list[int]:
    """The ids of the tokens to train, ascending: those of lossless text and those named; none for
    ``[]``.

    Raises:
        UsageError: a name is not in the vocabulary.
    """
    names = recipe.lora.train_tokens
    named = [] if names == "auto" else token_ids(names, tokenizer)
    # Untrained embedding rows carry no information, so those of lossless text are always added.
    return sorted({*named, *(carried_ids if names else ())})


def token_ids(names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of tokens, spelled as in the vocabulary.

    Raises:
        UsageError: one is not in it; suggests the nearest.
    """
    vocabulary = tokenizer.get_vocab()
    for name in names:
        if name not in vocabulary:
            hint = "spell tokens as in the vocabulary, such as ▁the at the start of a word"
            raise UsageError(
                f"lora.train_tokens: no token '{name}'{nearest(name, vocabulary)}", hint=hint
            )
    return [vocabulary[name] for name in names]


def _injected(
    recipe: Recipe, train_tokens: Sequence[int], in_main_memory: bool
) -> tuple[LoadedBase, nn.Module]:
    """Loads a recipe's base and injects its adapter."""
    section, full = recipe.model, recipe.lora.method == FULL
    dtype = resolve_dtype("float32" if full else section.dtype, resolve_device())
    base = load_base(
        section.name,
        revision=section.revision,
        dtype=dtype_name(dtype),
        quantization=section.quantization,
        skip_quantization=section.skip_quantization,
        device="cpu" if in_main_memory else None,
    )
    lengths = {key: getattr(recipe.data, key) for key in ("max_source_tokens", "max_target_tokens")}
    check_lengths(base.family, base.model.config, name=section.name, **lengths)
    model: nn.Module
    if full:
        model = train_weights(base, recipe.training.freeze)
    else:
        model = inject_lora(base, recipe.lora, train_tokens=train_tokens, seed=recipe.training.seed)
    base.family.set_dropout(model, recipe.training.dropout)
    if recipe.training.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    return base, model


def _stored(base: LoadedBase) -> str:
    """The number format of a base's weights, and what of it is quantized."""
    dtype = dtype_name(base.dtype)
    kept = f" but for {', '.join(base.skip_quantization)}" if base.skip_quantization else ""
    return dtype if base.quantization == "none" else f"{base.quantization}{kept}, the rest {dtype},"
