"""What a user may say: six sections, every key documented here and nowhere else.

Sections are frozen; the layers below get sections or plain values, never the whole recipe.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lora_s2s.errors import nearest

Metric = Literal["bleu", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum", "exact_match", "token_f1"]
Tracker = Literal["tensorboard", "wandb", "trackio"]
FORMATS = ("auto", "pairs", "conversations")

# Values that the contract names and a later version brings: refused by name instead of as unknown.
LATER: dict[str, tuple[str, ...]] = {
    "model.quantization": ("nf4", "int8"),
    "data.format": ("alpaca", "messages", "parallel"),
    "data.lossless_text": ("on", "auto", "true"),
    "lora.method": ("dora", "rslora", "pissa", "olora", "eva", "loftq", "adalora"),
    "training.packing": ("true", "yes", "on"),
}


class Section(BaseModel):
    """A group of keys: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ModelSection(Section):
    """The base that is adapted."""

    name: str = Field(min_length=1, description="Hub id, folder, or `demo` for the bundled base.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Precision of the base; auto: bfloat16 on a GPU that has it, else float32."
    )
    quantization: Literal["none"] = Field(default="none", description="Precision of the frozen base's linear layers.")


class DataSection(Section):
    """Where the examples are and how they become token ids. Paths are relative to the current folder."""

    train: str | list[str] = Field(description="File, folder, glob, `hf:NAME[:SPLIT]` or `demo:train`; or a list.")
    validation: str | list[str] | None = Field(
        default=None, description="The same for validation; without it a share of the training data is held out."
    )
    test: str | list[str] | None = Field(default=None, description="The same for `eval`; never seen in training.")
    format: str = Field(
        default="auto",
        description="Shape of a row: auto, pairs (a source and a target column), conversations (a list of turns), "
        "or `module:function` of your own.",
    )
    source_column: str | None = Field(default=None, description="Input column; found by its name when absent.")
    target_column: str | None = Field(default=None, description="Output column; found by its name when absent.")
    template: str | None = Field(default=None, description="Source text with `{column}` places, in place of a column.")
    max_source_tokens: int = Field(default=512, ge=4, le=65_536, description="Longest source, `</s>` included.")
    max_target_tokens: int = Field(default=128, ge=2, le=65_536, description="Longest target, `</s>` included.")
    truncate_source: Literal["left", "right", "drop"] = Field(
        default="right", description="Which end of a source that is too long is cut, or drop the row."
    )
    long_targets: Literal["drop", "cut", "keep"] = Field(
        default="drop", description="What happens to a target that is too long; a cut one gets no `</s>`."
    )
    validation_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="Share of distinct sources held out when `validation` is absent."
    )
    lossless_text: Literal["off"] = Field(default="off", description="Spelling of characters the vocabulary lacks.")

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        if value in FORMATS or re.fullmatch(r"[\w.]+:\w+", value):
            return value
        raise ValueError(f"expected {', '.join(FORMATS)} or module:function{nearest(value, FORMATS)}")


class LoraSection(Section):
    """The adapter."""

    r: int = Field(default=16, ge=1, le=1024, description="Rank.")
    alpha: float = Field(default=32, gt=0, le=65_536, description="Scale: the update is multiplied by alpha / r.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: str | list[str] = Field(
        default="attention-qv",
        description="attention-qv, attention, cross-attention, decoder, all-linear, or module names.",
    )
    method: Literal["lora"] = Field(default="lora", description="How the low-rank update is built.")
    train_tokens: list[str] = Field(default=[], max_length=0, description="Tokens whose embeddings train too.")


class TrainingSection(Section):
    """The loop."""

    epochs: float = Field(default=3.0, gt=0, le=10_000, description="Passes over the training data; or set max_steps.")
    max_steps: int | None = Field(default=None, ge=1, description="Optimizer steps, instead of epochs.")
    tokens_per_batch: int | None = Field(
        default=4096, ge=8, description="Padded slots in a micro-batch, at most; or set batch_size."
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="Rows in a micro-batch, instead of tokens_per_batch."
    )
    gradient_accumulation: int = Field(default=1, ge=1, description="Micro-batches in one optimizer step.")
    learning_rate: float = Field(default=5e-4, gt=0, le=10, description="Peak learning rate.")
    schedule: Literal["linear", "cosine", "constant"] = Field(default="linear", description="Decay after warm-up.")
    warmup: float = Field(default=0.03, ge=0, description="Share of all steps when below 1, else a number of steps.")
    weight_decay: float = Field(default=0.0, ge=0, lt=1, description="AdamW's decoupled weight decay.")
    optimizer: Literal["adamw"] = Field(default="adamw", description="The optimizer.")
    max_grad_norm: float = Field(default=1.0, ge=0, description="Gradients are clipped to this norm; 0 is off.")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Probability mass spread over the vocabulary.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout inside the base.")
    packing: Literal[False] = Field(default=False, description="Several examples in one row without padding.")
    gradient_checkpointing: bool = Field(default=False, description="Less memory for half as much compute again.")
    save_every: int = Field(default=500, ge=1, description="Optimizer steps between checkpoints.")
    keep_checkpoints: int = Field(default=2, ge=1, description="How many checkpoints stay, besides the best.")
    evaluate_every: int = Field(default=0, ge=0, description="Optimizer steps between validations; 0 is every epoch.")
    early_stopping: int = Field(default=0, ge=0, description="Validations without progress until the end; 0 is off.")
    seed: int = Field(default=42, ge=0, le=2**32 - 1, description="Seed of initial weights, order and dropout.")
    trackers: list[Tracker] = Field(default=[], description="Where metrics go besides metrics.jsonl.")

    @model_validator(mode="before")
    @classmethod
    def _alternatives(cls, values: Any) -> Any:
        """One of each pair: epochs or max_steps, tokens_per_batch or batch_size."""
        if not isinstance(values, dict):
            return values
        given = {key for key, value in values.items() if value is not None}
        for pair in ({"epochs", "max_steps"}, {"tokens_per_batch", "batch_size"}):
            if pair <= given:
                raise ValueError(f"{' and '.join(sorted(pair))} exclude each other: keep one")
        if "batch_size" in given:
            return {**values, "tokens_per_batch": None}
        return {key: value for key, value in values.items() if key != "tokens_per_batch" or value is not None}


class EvaluationSection(Section):
    """Decoding and scores."""

    metrics: list[Metric] = Field(
        default=["rougeL", "chrf", "exact_match"], min_length=1, description="Scores; the first is the main one."
    )
    max_new_tokens: int = Field(default=128, ge=1, le=65_536, description="Longest prediction.")
    num_beams: int = Field(default=1, ge=1, le=64, description="Beams; 1 is greedy.")
    batch_tokens: int = Field(default=8192, ge=16, description="Padded slots decoded at once.")
    limit: int | None = Field(default=None, ge=1, description="Only the first so many sources are scored.")


class OutputSection(Section):
    """Where the adapter goes."""

    dir: str = Field(default="adapters", min_length=1, description="Folder of adapters, from the current folder.")
    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of the adapter's folder; the recipe's own name when absent.",
    )


class Recipe(Section):
    """A whole run, as loaded; nothing writes into it afterwards."""

    model: ModelSection
    data: DataSection
    lora: LoraSection = LoraSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    output: OutputSection = OutputSection()
