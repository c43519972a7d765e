"""What a user may say: six sections, every key documented here and nowhere else.

Sections are frozen; the layers below get sections or plain values, never the whole recipe.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lora_s2s.recipe.fields import (
    AUTO,
    METHOD_NAMES,
    BatchTokens,
    Beams,
    Epochs,
    Format,
    Interval,
    Language,
    Method,
    Metrics,
    NewTokens,
    Quantization,
    RankPattern,
    Rate,
    SaveEvery,
    Section,
    SourceTokens,
    TargetTokens,
    Tracker,
    Truncation,
)

_BASE_ANSWER = 128


class ModelSection(Section):
    """The base that is adapted."""

    name: str = Field(min_length=1, description="Hub id, folder, or `demo` for the bundled base.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Precision of the base; auto: bfloat16 on a GPU, float16 where it lacks that; "
        "float32 on a CPU.",
    )
    quantization: Quantization = Field(
        default="none",
        description="Storage of the frozen base's linear layers: nf4 is 4 bits, int8 is 8.",
    )
    skip_quantization: list[str] = Field(
        default=[],
        description="Linear layers kept in dtype all the same, by their ending, such as wo.",
    )


class DataSection(Section):
    """Where the examples are and how they become token ids. Paths are relative to the current
    folder.
    """

    train: str | list[str] = Field(
        description="File, folder, glob, `hf:NAME[:SPLIT]` or `demo:train`; or a list."
    )
    validation: str | list[str] | None = Field(
        default=None,
        description="The same for validation; without it a share of the training data is held out.",
    )
    test: str | list[str] | None = Field(
        default=None, description="The same for `eval`; never seen in training."
    )
    format: Format = Field(
        default="auto",
        description="Shape of a row: auto, pairs (a source and a target column), parallel (two "
        "files side by side), conversations or messages (a list of turns), alpaca, squad, "
        "instructions (a Super-NaturalInstructions task), or `module:function` of your own.",
    )
    source_column: str | None = Field(
        default=None, description="Input column; found by its name when absent."
    )
    target_column: str | None = Field(
        default=None, description="Output column; found by its name when absent."
    )
    template: str | list[str] | None = Field(
        default=None,
        description="Source text with `{column}` places, or Jinja; of a list each row has one, by "
        "a hash.",
    )
    max_source_tokens: SourceTokens = Field(
        default="auto",
        description="Longest source in tokens, `</s>` included; "
        "auto: the longest source, or the 99th percentile if under half of it; at most 1,024.",
    )
    max_target_tokens: TargetTokens = Field(
        default="auto",
        description="Longest target in tokens, `</s>` included; "
        "auto: the longest target, or the 99th percentile if under half of it; at most 512.",
    )
    truncate_source: Truncation = Field(
        default="right",
        description="Which end of a source that is too long is cut, or drop the row.",
    )
    long_targets: Literal["drop", "cut", "keep"] = Field(
        default="drop",
        description="What happens to a target that is too long; a cut one gets no `</s>`.",
    )
    validation_fraction: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of distinct sources held out when `validation` is absent.",
    )
    source_language: Language = Field(
        default=None,
        description="Language code of the sources, for multilingual translation bases.",
    )
    target_language: Language = Field(
        default=None,
        description="Language code of the targets; answers begin with it too.",
    )
    lossless_text: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Spare rows of T5's embeddings carry newlines, braces and what else the "
        "vocabulary lacks; auto: where targets need it.",
    )
    special_tokens: Literal["auto", "use", "text"] = Field(
        default="auto",
        description="Tokens added to the base's vocabulary, where the data has them: auto: one id "
        "each, "
        "but sentinels "
        "(`<extra_id_0>`) are text; use: sentinels too; text: none. Pad, end and language marks "
        "are always text.",
    )
    max_rejected: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of rows that may be unusable; more of them end `prepare`.",
    )

    def named(self, split: str) -> str | list[str]:
        """Returns what is named for ``train``, ``validation`` or ``test``; an empty list where
        nothing is.
        """
        files = {"train": self.train, "validation": self.validation, "test": self.test}
        return files[split] or []


class LoraSection(Section):
    """The adapter."""

    r: int = Field(default=16, ge=1, le=1024, description="Rank.")
    alpha: float = Field(
        default=32, gt=0, le=65_536, description="Scale: the update is multiplied by alpha / r."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: str | list[str] = Field(
        default="all-linear",
        description="attention-qv, attention, cross-attention, encoder, decoder, all-linear, or "
        "module names.",
    )
    last_blocks: int | None = Field(
        default=None,
        ge=1,
        description="Only the last so many blocks of each stack take an adapter; all when absent.",
    )
    rank_pattern: RankPattern = Field(
        default=[],
        description="Other ranks, as GROUP=RANK or MODULE=RANK, such as [cross-attention=32, "
        "wo=8].",
    )
    method: Method = Field(
        default="lora", description=f"How the update is built: {', '.join(METHOD_NAMES)}."
    )
    train_tokens: Literal["auto"] | list[str] = Field(
        default="auto",
        description="Tokens whose embeddings train too; auto: those of text the vocabulary lacks.",
    )


class TrainingSection(Section):
    """The loop. Keys that are ``auto`` are chosen when the data is prepared and the base is
    known.
    """

    epochs: Epochs = Field(
        default=AUTO,
        description="Passes over the training data; or set max_steps. auto: as many as make about "
        "500 to 3,000 steps of small data, one to three of large data, within what a CPU computes "
        "in minutes.",
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps, instead of epochs."
    )
    tokens_per_batch: BatchTokens = Field(
        default=AUTO,
        description="Padded tokens in a micro-batch, at most; or set batch_size. auto: 8 to 32 "
        "rows of the data's mean length, fewer where there are few rows, so that there are enough "
        "steps.",
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="Rows in a micro-batch, instead of tokens_per_batch."
    )
    gradient_accumulation: int = Field(
        default=1, ge=1, description="Micro-batches in one optimizer step."
    )
    learning_rate: Rate = Field(
        default=AUTO,
        description="Peak learning rate. auto: by the base's size, from 3e-3 (5 M parameters, "
        "measured) through 9e-4 (250 M) to 3e-4 (11,000 M).",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="Decay after warm-up."
    )
    warmup: float = Field(
        default=0.03, ge=0, description="Share of all steps when below 1, else a number of steps."
    )
    weight_decay: float = Field(
        default=0.0, ge=0, lt=1, description="AdamW's decoupled weight decay."
    )
    optimizer: Literal["adamw", "adamw-8bit", "adamw-paged", "adamw-paged-8bit"] = Field(
        default="adamw",
        description="AdamW; its 8-bit and paged forms keep less of its state in GPU memory.",
    )
    lora_plus_ratio: float = Field(
        default=1.0,
        ge=1,
        le=1000,
        description="LoRA+: learning rate of B over that of A; 1 is plain LoRA.",
    )
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="Gradients are clipped to this norm; 0 is off."
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Probability mass spread over the vocabulary."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout inside the base.")
    packing: bool = Field(
        default=False,
        description="Several examples in one row without padding, in random order; needs "
        "tokens_per_batch.",
    )
    z_loss: float = Field(
        default=0.0, ge=0, lt=1, description="Weight of the squared log of each token's normaliser."
    )
    cache_encoder: bool = Field(
        default=False,
        description="States of an encoder without adapters: once to disk, then read in every "
        "epoch.",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Less memory for half as much compute again."
    )
    save_every: SaveEvery = Field(
        default=500,
        description="Optimizer steps between checkpoints, such as 500, or minutes, such as 10m.",
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, description="How many checkpoints stay, besides the best."
    )
    evaluate_every: Interval = Field(
        default=AUTO,
        description="Optimizer steps between validations; 0 is every epoch. auto: ten validations "
        "a run, fewer where they would take long.",
    )
    early_stopping: int = Field(
        default=0,
        ge=0,
        description="Validations in a row without a lower validation loss until the end; 0 is off.",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop", description="When loss or gradients are not finite: stop, or skip the step."
    )
    seed: int = Field(
        default=42, ge=0, le=2**32 - 1, description="Seed of initial weights, order and dropout."
    )
    trackers: list[Tracker] = Field(
        default=[], description="Where metrics go besides metrics.jsonl."
    )

    @property
    def save_minutes(self) -> int | None:
        """Minutes between checkpoints, where ``save_every`` counts them."""
        return int(self.save_every[:-1]) if isinstance(self.save_every, str) else None

    @model_validator(mode="before")
    @classmethod
    def _alternatives(cls, values: object) -> object:
        """One of each pair: epochs or max_steps, tokens_per_batch or batch_size, packing or
        batch_size.
        """
        if not isinstance(values, dict):
            return values
        given = {
            key
            for key, value in values.items()
            if value is not None and value is not False and value != AUTO
        }
        for pair in (
            {"epochs", "max_steps"},
            {"tokens_per_batch", "batch_size"},
            {"packing", "batch_size"},
        ):
            if pair <= given:
                raise ValueError(f"{' and '.join(sorted(pair))} exclude each other: keep one")
        if "batch_size" in given:
            return {**values, "tokens_per_batch": None}
        return {
            key: value
            for key, value in values.items()
            if key != "tokens_per_batch" or value is not None
        }

    def settled(self) -> TrainingSettings:
        """This section for a run; raises ValueError where a key is still ``auto``."""
        values = self.model_dump()
        if self.max_steps is not None:
            del values["epochs"]
        return TrainingSettings.model_validate(values)


class TrainingSettings(TrainingSection):
    """The training section of a run: no key is ``auto``."""

    epochs: float = Field(default=3.0, gt=0, le=10_000)
    tokens_per_batch: int | None = Field(default=4096, ge=8, le=2**40)
    learning_rate: float = Field(default=5e-4, gt=0, le=10)
    evaluate_every: int = Field(default=0, ge=0, le=10**9)


class EvaluationSection(Section):
    """Decoding and scores."""

    metrics: Metrics = Field(
        default=["auto"],
        min_length=1,
        description="Scores; the first is the main one. auto chooses by the targets: labels, a "
        "translation, one short answer or a text.",
    )
    max_new_tokens: NewTokens = Field(
        default="auto",
        description="Longest prediction in tokens; auto: data.max_target_tokens, 128 for a base "
        "without an adapter.",
    )
    num_beams: Beams = Field(default=1, description="Beams; 1 is greedy.")
    batch_tokens: int = Field(default=8192, ge=16, description="Padded tokens decoded at once.")
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Score a random sample of so many sources, the same one every time.",
    )

    def answer_tokens(self, trained: int | None) -> int:
        """Returns the length limit of answers; where it is ``auto``, that of the targets trained
        on.
        """
        return (trained or _BASE_ANSWER) if self.max_new_tokens == AUTO else self.max_new_tokens


class OutputSection(Section):
    """Where the adapter goes."""

    dir: str = Field(
        default="adapters", min_length=1, description="Folder of adapters, from the current folder."
    )
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


SECTIONS: dict[str, type[Section]] = {
    name: info.annotation
    for name, info in Recipe.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
}
