"""What a user may say: six sections, every key documented here and nowhere else.

Sections are frozen; the layers below get sections or plain values, never the whole recipe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from lora_s2s.errors import nearest

Metric = Literal[
    "auto",
    "bleu",
    "chrf",
    "rouge1",
    "rouge2",
    "rougeL",
    "rougeLsum",
    "exact_match",
    "macro_f1",
    "token_f1",
]
Tracker = Literal["tensorboard", "wandb", "trackio"]
_RANK_OF = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}=[1-9][0-9]{0,3}")
FORMATS = (
    "auto",
    "pairs",
    "parallel",
    "conversations",
    "messages",
    "squad",
    "instructions",
    "alpaca",
)
# One row of lora/methods.py each; and what cannot be had, with the reason.
METHODS = (
    "lora",
    "rslora",
    "dora",
    "pissa",
    "olora",
    "ia3",
    "vera",
    "hira",
    "miss",
    "oft",
    "loha",
    "lokr",
)
_PROMPTS = (
    "it puts vectors before the input instead of changing weights, so there is nothing to merge"
)
REFUSED_METHODS = {
    "eva": "its initialisation fails on encoder-decoders",
    "loftq": "its start needs scipy and a quantization of its own; lora with model.quantization "
    "nf4 does without",
    "adalora": "it fails when it is loaded again and run with labels",
    "lora+": "it is method lora with training.lora_plus_ratio above 1",
    "qlora": "it is method lora with model.quantization nf4",
    **dict.fromkeys(("prompt", "prompt-tuning", "prefix", "prefix-tuning", "p-tuning"), _PROMPTS),
}
_LARGEST_NUMBER = 2**40
LANGUAGE = r"^[A-Za-z][A-Za-z0-9_-]{0,31}$"
# A key with this value is set from the data and the base; the resolved recipe holds the number.
Auto = Literal["auto"]
AUTO: Auto = "auto"
_BASE_ANSWER = 128
_Value = TypeVar("_Value")


def _between(low: float, high: float, *, above: bool = False) -> Callable[[_Value], _Value]:
    """Returns a validator for a number or `auto`; a bound on a union would be reported once per
    member.

    Args:
        low, high: the bounds.
        above: ``low`` itself is excluded.
    """

    def check(value: _Value) -> _Value:
        if isinstance(value, (int, float)) and (
            not low <= value <= high or (above and value == low)
        ):
            bounds = (
                f"greater than {low:,} and at most {high:,}"
                if above
                else f"between {low:,} and {high:,}"
            )
            raise ValueError(f"should be auto, or {bounds}")
        return value

    return check


SourceTokens = Annotated[int | Auto, AfterValidator(_between(4, 65_536))]
TargetTokens = Annotated[int | Auto, AfterValidator(_between(2, 65_536))]
NewTokens = Annotated[int | Auto, AfterValidator(_between(1, 65_536))]
Epochs = Annotated[float | Auto, AfterValidator(_between(0, 10_000, above=True))]
BatchTokens = Annotated[int | Auto | None, AfterValidator(_between(8, 2**40))]
Rate = Annotated[float | Auto, AfterValidator(_between(0, 10, above=True))]
Interval = Annotated[int | Auto, AfterValidator(_between(0, 10**9))]


def ranks_by_name(words: Sequence[str]) -> dict[str, int]:
    """Returns ``lora.rank_pattern`` as name → rank; the last one said of a name counts."""
    return {name: int(rank) for name, _, rank in (word.partition("=") for word in words)}


def method_problem(name: str) -> str | None:
    """Returns why an adapter method cannot be had; None where it can."""
    if name in METHODS:
        return None
    if reason := REFUSED_METHODS.get(name.lower().replace("_", "-")):
        return f"{name} is refused: {reason}; expected one of {', '.join(METHODS)}"
    return f"expected one of {', '.join(METHODS)}{nearest(name, METHODS)}"


class Section(BaseModel):
    """A group of keys: frozen, no unknown keys, no NaN, no number beyond what arrays of them
    hold.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    @field_validator("*")
    @classmethod
    def _within_reason(cls, value: object) -> object:
        if isinstance(value, int | float) and value > _LARGEST_NUMBER:
            raise ValueError(f"should be less than or equal to {_LARGEST_NUMBER}")
        return value


class ModelSection(Section):
    """The base that is adapted."""

    name: str = Field(min_length=1, description="Hub id, folder, or `demo` for the bundled base.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Precision of the base; auto: bfloat16 on a GPU, float16 where it lacks that; "
        "float32 on a CPU.",
    )
    quantization: Literal["none", "nf4", "int8"] = Field(
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
    format: str = Field(
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
    truncate_source: Literal["left", "right", "drop"] = Field(
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
    source_language: str | None = Field(
        default=None,
        pattern=LANGUAGE,
        description="Language code of the sources, for multilingual translation bases.",
    )
    target_language: str | None = Field(
        default=None,
        pattern=LANGUAGE,
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

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        if value in FORMATS or re.fullmatch(r"[\w.]+:\w+", value):
            return value
        raise ValueError(
            f"expected {', '.join(FORMATS)} or module:function{nearest(value, FORMATS)}"
        )


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
    rank_pattern: list[str] = Field(
        default=[],
        description="Other ranks, as GROUP=RANK or MODULE=RANK, such as [cross-attention=32, "
        "wo=8].",
    )
    method: str = Field(
        default="lora", description=f"How the update is built: {', '.join(METHODS)}."
    )
    train_tokens: Literal["auto"] | list[str] = Field(
        default="auto",
        description="Tokens whose embeddings train too; auto: those of text the vocabulary lacks.",
    )

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        if problem := method_problem(value):
            raise ValueError(problem)
        return value

    @field_validator("rank_pattern")
    @classmethod
    def _name_and_rank(cls, value: list[str]) -> list[str]:
        for word in value:
            if not _RANK_OF.fullmatch(word):
                raise ValueError(f"expected NAME=RANK such as cross-attention=32, got '{word}'")
        return value


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
    save_every: str | int = Field(
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
    on_nonfinite: Literal["stop", "skip", "restore"] = Field(
        default="stop",
        description="Loss or gradient not finite: stop, skip the step, or go back to a checkpoint "
        "at half the rate.",
    )
    seed: int = Field(
        default=42, ge=0, le=2**32 - 1, description="Seed of initial weights, order and dropout."
    )
    trackers: list[Tracker] = Field(
        default=[], description="Where metrics go besides metrics.jsonl."
    )

    @field_validator("save_every", mode="before")
    @classmethod
    def _steps_or_minutes(cls, value: object) -> str | int:
        text = str(value).replace("_", "")
        if isinstance(value, bool) or not re.fullmatch(r"[1-9][0-9]{0,8}m?", text):
            raise ValueError(
                "should be a number of steps of at least 1, or of minutes, such as 10m"
            )
        return text if text.endswith("m") else int(text)

    @property
    def save_minutes(self) -> int | None:
        """Minutes between checkpoints, where ``save_every`` counts them."""
        return int(self.save_every[:-1]) if isinstance(self.save_every, str) else None

    @model_validator(mode="before")
    @classmethod
    def _alternatives(cls, values: Any) -> Any:
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

    metrics: list[Metric] = Field(
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
    num_beams: int = Field(default=1, ge=1, le=64, description="Beams; 1 is greedy.")
    batch_tokens: int = Field(default=8192, ge=16, description="Padded tokens decoded at once.")
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Score a random sample of so many sources, the same one every time.",
    )

    @field_validator("metrics")
    @classmethod
    def _auto_alone(cls, names: list[Metric]) -> list[Metric]:
        """Refuses `auto` beside named metrics."""
        if AUTO in names and len(names) > 1:
            raise ValueError("auto stands alone: it chooses the whole list")
        return names

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
