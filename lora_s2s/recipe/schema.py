"""The recipe: six sections; every key is documented here and nowhere else.

Sections are frozen; the packages below receive sections or plain values, never the whole recipe.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lora_s2s.recipe.evaluation import EvaluationSection
from lora_s2s.recipe.fields import (
    AUTO,
    LOSS,
    METHOD_NAMES,
    BaseId,
    BatchTokens,
    BestMetric,
    Epochs,
    Format,
    Interval,
    Language,
    Method,
    Quantization,
    RankPattern,
    Rate,
    SaveEvery,
    Section,
    SourceTokens,
    TargetTokens,
    TextEncoding,
    Tracker,
    Truncation,
)
from lora_s2s.recipe.full import full_problem
from lora_s2s.recipe.output import OutputSection
from lora_s2s.recipe.sharding import sharding_problem

_SCORED_SOURCES = 100


class ModelSection(Section):
    """The base that is adapted."""

    name: BaseId = Field(description="Hub id, folder, or `demo` for the bundled base.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Precision of the base; auto: bfloat16 on a GPU (float16 if it lacks "
        "bfloat16), float32 on a CPU.",
    )
    quantization: Quantization = Field(
        default="none",
        description="Storage of the frozen base's linear layers: nf4 is 4 bits, int8 is 8.",
    )
    skip_quantization: list[str] = Field(
        default=[],
        description="Linear layers kept in dtype nevertheless, by the end of their name, such as "
        "wo.",
    )


class DataSection(Section):
    """The data and how it becomes token ids. Paths are relative to the current folder."""

    train: str | list[str] = Field(
        description="File, folder, glob, `hf:NAME[:SPLIT]` or `demo:train`; or a list."
    )
    validation: str | list[str] | None = Field(
        default=None,
        description="The same for validation; by default a part of the training data is held out.",
    )
    test: str | list[str] | None = Field(
        default=None, description="The same for `eval`; never seen in training."
    )
    format: Format = Field(
        default="auto",
        description="Layout of a row: auto, pairs (a source and a target column), parallel (two "
        "aligned files), conversations or messages (a list of turns), alpaca, squad, "
        "instructions (a Super-NaturalInstructions task), or your own `module:function`.",
    )
    encoding: TextEncoding = Field(
        default="utf-8", description="Encoding of text files that are neither UTF-8 nor UTF-16."
    )
    source_column: str | None = Field(
        default=None, description="Input column; by default recognized by name."
    )
    target_column: str | None = Field(
        default=None, description="Output column; by default recognized by name."
    )
    task_column: str | None = Field(
        default=None,
        description="Column that names a row's task, or file: each file is one; `eval --data` then "
        "averages every score over tasks.",
    )
    template: str | list[str] | None = Field(
        default=None,
        description="Source text with `{column}` placeholders, or Jinja; of a list, a hash selects "
        "one per row.",
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
        default="right", description="Truncate too long sources on this side, or drop the row."
    )
    long_targets: Literal["drop", "cut", "keep"] = Field(
        default="drop", description="Too long targets: drop, cut (without `</s>`) or keep."
    )
    validation_fraction: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Fraction of distinct sources held out if `validation` is not set.",
    )
    source_language: Language = Field(
        default=None, description="Language code of sources, for multilingual translation bases."
    )
    target_language: Language = Field(
        default=None, description="Language code of the targets; answers start with it too."
    )
    lossless_text: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Encode newlines, braces and other text that T5's vocabulary lacks in unused "
        "embedding rows; auto: if targets need it.",
    )
    special_tokens: Literal["auto", "use", "text"] = Field(
        default="auto",
        description="Tokens added to the base's vocabulary, in the data: auto: one id each, but "
        "sentinels (`<extra_id_0>`) are text; use: sentinels too; text: all are text. Padding, end "
        "and language tokens are always text.",
    )
    max_rejected: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Fraction of rows that may be dropped as unusable; `prepare` stops above it.",
    )

    def named(self, split: str) -> str | list[str]:
        """Returns the files of ``train``, ``validation`` or ``test``; an empty list if not set."""
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
        description="Adapt only this many last blocks of each stack; by default all.",
    )
    rank_pattern: RankPattern = Field(
        default=[],
        description="Other ranks, as GROUP=RANK or MODULE=RANK, such as [cross-attention=32, "
        "wo=8].",
    )
    method: Method = Field(
        default="lora",
        description=f"How the update is built: {', '.join(METHOD_NAMES)}; full: no adapter, all "
        "weights train (in float32) and the result is a whole model.",
    )
    train_tokens: Literal["auto"] | list[str] = Field(
        default="auto",
        description="Tokens whose embeddings are trained; auto: those of text the vocabulary "
        "lacks.",
    )


class TrainingSection(Section):
    """Training. Keys that are ``auto`` are chosen once data and base are known."""

    epochs: Epochs = Field(
        default=AUTO,
        description="Passes over the training data; or set max_steps. auto: about 500 to 3,000 "
        "steps on small data, one to three passes over large data, bounded to minutes on a CPU.",
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps, instead of epochs."
    )
    tokens_per_batch: BatchTokens = Field(
        default=AUTO,
        description="Maximum padded tokens in a micro-batch; or set batch_size. auto: 8 to 32 rows "
        "of mean length, fewer if there are few rows, so that there are enough steps.",
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="Rows per micro-batch, instead of tokens_per_batch."
    )
    gradient_accumulation: int = Field(
        default=1, ge=1, description="Micro-batches per optimizer step."
    )
    learning_rate: Rate = Field(
        default=AUTO,
        description="Peak learning rate. auto: by the base's size, from 3e-3 (5 M parameters, "
        "measured) through 9e-4 (250 M) to 3e-4 (11,000 M); a quarter of it with lora.method=full.",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="Decay after warm-up."
    )
    warmup: float = Field(
        default=0.03,
        ge=0,
        description="Fraction of all steps if below 1, otherwise a number of steps.",
    )
    weight_decay: float = Field(
        default=0.0, ge=0, lt=1, description="AdamW's decoupled weight decay."
    )
    optimizer: Literal["adamw", "adamw-8bit", "adamw-paged", "adamw-paged-8bit", "adafactor"] = (
        Field(
            default="adamw",
            description="AdamW; the 8-bit and paged variants need less GPU memory, Adafactor the "
            "least.",
        )
    )
    lora_plus_ratio: float = Field(
        default=1.0, ge=1, le=1000, description="LoRA+: learning rate of B over A's; 1: plain LoRA."
    )
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="Clip gradients to this norm; 0: off."
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Probability mass spread over the vocabulary."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout inside the base.")
    packing: bool = Field(
        default=False,
        description="Pack examples of mixed lengths into batches without padding, in random order; "
        "needs tokens_per_batch.",
    )
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Decay of a moving average of the adapter's weights, such as 0.999, which is "
        "what is evaluated and kept; 0: off.",
    )
    z_loss: float = Field(
        default=0.0, ge=0, lt=1, description="Weight of the squared log-partition (z-loss)."
    )
    cache_encoder: bool = Field(
        default=False,
        description="Compute the states of an encoder without adapters once, and read them from "
        "disk in every epoch.",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute activations: less memory, about 50 % more compute."
    )
    save_every: SaveEvery = Field(
        default=500,
        description="Optimizer steps between checkpoints, such as 500, or minutes, such as 10m.",
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, description="Number of checkpoints kept, besides the best."
    )
    evaluate_every: Interval = Field(
        default=AUTO,
        description="Optimizer steps between validations; 0: every epoch. auto: ten per run, fewer "
        "if they take long.",
    )
    scored_sources: int = Field(
        default=0,
        ge=0,
        description="Answer and score a fixed random sample of this many validation sources at "
        "each validation, by evaluation.metrics, and show a few answers; 0: none, or 100 for a "
        "best_metric that needs answers.",
    )
    best_metric: BestMetric = Field(
        default=LOSS,
        description="What the best checkpoint and early stopping go by: loss (of validation), or "
        "any metric of the answers to scored_sources.",
    )
    early_stopping: int = Field(
        default=0,
        ge=0,
        description="Stop after this many validations without a gain of 0.0001 or more in "
        "validation loss, or best_metric; 0: off.",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop", description="If loss or gradients are not finite: stop, or skip the step."
    )
    freeze: list[str] = Field(
        default=[],
        description="With lora.method=full, what does not train: embeddings, head, encoder, "
        "decoder, or names of modules.",
    )
    sharding: Literal["none", "full"] = Field(
        default="none",
        description="full: divide the base's weights among several processes (FSDP2).",
    )
    seed: int = Field(
        default=42, ge=0, le=2**32 - 1, description="Seed of initial weights, order and dropout."
    )
    trackers: list[Tracker] = Field(
        default=[], description="Trackers that receive metrics besides metrics.jsonl."
    )

    @property
    def judges_answers(self) -> bool:
        """Whether a metric of answers decides, and not the validation loss."""
        return self.best_metric != LOSS

    @property
    def sources_to_score(self) -> int:
        """How many validation sources are answered and scored at each validation."""
        return self.scored_sources or (_SCORED_SOURCES if self.judges_answers else 0)

    @property
    def save_minutes(self) -> int | None:
        """Minutes between checkpoints, if ``save_every`` is in minutes."""
        return int(self.save_every[:-1]) if isinstance(self.save_every, str) else None

    @model_validator(mode="before")
    @classmethod
    def _alternatives(cls, values: object) -> object:
        """Checks keys that exclude each other."""
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
        """This section for a run; raises ValueError if a key is still ``auto``."""
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


class Recipe(Section):
    """A run's settings, as loaded and never changed."""

    model: ModelSection
    data: DataSection
    lora: LoraSection = LoraSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    output: OutputSection = OutputSection()

    @model_validator(mode="after")
    def _together(self) -> Recipe:
        model, method, training = self.model, self.lora.method, self.training
        bits, scored = model.quantization, training.sources_to_score
        problem = full_problem(method, training.freeze, bits, model.dtype)
        if training.sharding == "full" and not problem:
            problem = sharding_problem(method, bits, training.optimizer, scored)
        if problem:
            raise ValueError(problem)
        return self


SECTIONS: dict[str, type[Section]] = {
    name: info.annotation
    for name, info in Recipe.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
}
