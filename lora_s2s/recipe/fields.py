"""Types of a recipe's values, each with its bounds, and the base class of its sections.

`records.py` reads files that repeat such a value with the same types.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from lora_s2s.errors import nearest
from lora_s2s.recipe.combinations import read_combination
from lora_s2s.recipe.constraint import parse

Metric = Literal[
    "auto",
    "bleu",
    "chrf",
    "chrf++",
    "ter",
    "rouge1",
    "rouge2",
    "rougeL",
    "rougeLsum",
    "exact_match",
    "accuracy",
    "macro_f1",
    "token_f1",
    "edit_similarity",
    "json_valid",
    "json_f1",
    "number_accuracy",
    "length_ratio",
    "copy_rate",
    "repetition_rate",
    "loss",
    "bits_per_byte",
]
# Metrics that count errors, and losses: lower is better.
ERROR_RATES = frozenset({"ter", "loss", "bits_per_byte"})
# What answers are like, whatever their quality: neither higher nor lower is better.
DESCRIPTIVE = frozenset({"length_ratio", "copy_rate", "repetition_rate"})
# Metrics that may exceed 100.
UNBOUNDED = ERROR_RATES | {"length_ratio"}
Tracker = Literal["tensorboard", "wandb", "trackio"]
Quantization = Literal["none", "nf4", "int8"]
Truncation = Literal["left", "right", "drop"]
# What a recipe may say; FORMATS of examples/shapes.py has the layouts of those that have their own.
FORMAT_NAMES = (
    "auto",
    "pairs",
    "parallel",
    "conversations",
    "messages",
    "squad",
    "instructions",
    "alpaca",
)
# METHODS of lora/methods.py has an entry for each; and what is refused, with the reason.
METHOD_NAMES = (
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
FULL = "full"
"""``lora.method`` without an adapter: the base's own weights train."""
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
_ENCODINGS = """
    utf-8 cp1252 latin-1 mac-roman cp850 cp437 utf-16 cp1250 cp1251 cp1253 cp1254 iso8859-15 koi8-r
    shift_jis euc_jp gb18030 big5 euc_kr
""".split()
_NO_TEXT = ("", "idna", "punycode", "unicode-escape", "raw-unicode-escape")
LARGEST_NUMBER = 2**40
FUNCTION = re.compile(r"[\w.]+:\w+")  # module:function, which runs code of the user's own
_RANK_OF = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}=[1-9][0-9]{0,3}")
Language = Annotated[str | None, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
# A key with this value is set from the data and the base; the resolved recipe holds the number.
Auto = Literal["auto"]
AUTO: Auto = "auto"
# Of two such keys a recipe has one. Setting it takes back the other from an earlier layer.
ALTERNATIVES = {
    "training.epochs": "training.max_steps",
    "training.max_steps": "training.epochs",
    "training.batch_size": "training.tokens_per_batch",
    "training.tokens_per_batch": "training.batch_size",
}
LOSS = "loss"
"""As ``training.best_metric``, the validation loss."""


@dataclass(frozen=True)
class _Between:
    """Bounds of a number or `auto`; those of `Field` would be reported once per member of a union.

    Attributes:
        above: ``low`` itself is excluded.
    """

    low: float
    high: float
    above: bool = False

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        lowest = "exclusiveMinimum" if self.above else "minimum"
        return {**handler(schema), lowest: self.low, "maximum": self.high}

    def _check(self, value: object) -> object:
        if isinstance(value, (int, float)) and (
            not self.low <= value <= self.high or (self.above and value == self.low)
        ):
            raise ValueError(f"should be auto, or {self}")
        return value

    def __str__(self) -> str:
        if self.above:
            return f"greater than {self.low:,} and at most {self.high:,}"
        return f"between {self.low:,} and {self.high:,}"


_MOST_TOKENS = 65_536
SourceLimit = Annotated[int, Field(ge=4, le=_MOST_TOKENS)]
TargetLimit = Annotated[int, Field(ge=2, le=_MOST_TOKENS)]
AnswerLimit = Annotated[int, Field(ge=1, le=_MOST_TOKENS)]
Beams = Annotated[int, Field(ge=1, le=64)]
LengthPenalty = Annotated[float, Field(ge=-5, le=5)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=10)]
NgramSize = Annotated[int, Field(ge=0, le=100)]
Temperature = Annotated[float, Field(ge=0, le=10)]
TopP = Annotated[float, Field(gt=0, le=1)]
Candidates = Annotated[int, Field(ge=2, le=64)]
NBest = Annotated[int, Field(ge=0, le=256)]
SamplingSeed = Annotated[int, Field(ge=0, lt=2**63)]
SourceTokens = Annotated[int | Auto, _Between(4, _MOST_TOKENS)]
TargetTokens = Annotated[int | Auto, _Between(2, _MOST_TOKENS)]
NewTokens = Annotated[int | Auto, _Between(1, _MOST_TOKENS)]
Epochs = Annotated[float | Auto, _Between(0, 10_000, above=True)]
BatchTokens = Annotated[int | Auto | None, _Between(8, LARGEST_NUMBER)]
Rate = Annotated[float | Auto, _Between(0, 10, above=True)]
Interval = Annotated[int | Auto, _Between(0, 10**9)]


def ranks_by_name(words: Sequence[str]) -> dict[str, int]:
    """Returns ``lora.rank_pattern`` as name → rank; the last one said of a name counts."""
    return {name: int(rank) for name, _, rank in (word.partition("=") for word in words)}


def method_problem(name: str) -> str | None:
    """Returns why an adapter method cannot be had; None where it can."""
    if name in (*METHOD_NAMES, FULL):
        return None
    if reason := REFUSED_METHODS.get(name.lower().replace("_", "-")):
        return f"{name} is refused: {reason}; expected one of {_methods()}"
    return f"expected one of {_methods()}{nearest(name, (*METHOD_NAMES, FULL))}"


def _methods() -> str:
    return f"{', '.join(METHOD_NAMES)}, or {FULL} (no adapter)"


def _known_format(value: str) -> str:
    if value in FORMAT_NAMES or FUNCTION.fullmatch(value):
        return value
    raise ValueError(
        f"expected {', '.join(FORMAT_NAMES)} or module:function{nearest(value, FORMAT_NAMES)}"
    )


def _known_encoding(value: str) -> str:
    name = ""
    with suppress(LookupError, ValueError):
        b"a".decode(value)
        name = codecs.lookup(value).name
    if name in _NO_TEXT:
        close = nearest(value, _ENCODINGS)
        raise ValueError(f"expected a text encoding such as cp1252{close}")
    return name


def _known_method(value: str) -> str:
    if problem := method_problem(value):
        raise ValueError(problem)
    return value


def _names_and_ranks(words: list[str]) -> list[str]:
    for word in words:
        if not _RANK_OF.fullmatch(word):
            raise ValueError(f"expected NAME=RANK such as cross-attention=32, got '{word}'")
    return words


def _known_constraint(value: str | list[str] | None) -> str | list[str] | None:
    if value is not None:
        parse(value)
    return value


def _known_metrics(names: list[str]) -> list[str]:
    if AUTO in names and len(names) > 1:
        raise ValueError("auto stands alone: it chooses the whole list")
    known = get_args(Metric)
    for name in names:
        if name not in known and not FUNCTION.fullmatch(name):
            try:
                read_combination(name, known[1:])
            except ValueError as error:
                raise ValueError(
                    f"expected one of {', '.join(known)}, a combination such as "
                    f"sqrt(bleu*chrf++), or module:function: {error}"
                ) from error
    return names


def _judging_metric(name: str) -> str:
    if name == LOSS:
        return name
    if name == AUTO or name in DESCRIPTIVE:
        better = "chosen at the scoring" if name == AUTO else "neither better high nor low"
        raise ValueError(f"expected {LOSS}, or a metric; {name} is {better}")
    return _known_metrics([name])[0]


def _known_utility(name: str | None) -> str | None:
    if name == AUTO or name in DESCRIPTIVE:
        raise ValueError("expected a metric that answers can be chosen by, such as chrf")
    return name if name is None else _known_metrics([name])[0]


def _steps_or_minutes(value: object) -> str | int:
    text = str(value).replace("_", "")
    if isinstance(value, bool) or not re.fullmatch(r"[1-9][0-9]{0,8}m?", text):
        raise ValueError("should be a number of steps of at least 1, or of minutes, such as 10m")
    return text if text.endswith("m") else int(text)


_BASES = ["demo", "google/flan-t5-small", "google/flan-t5-base"]
BaseId = Annotated[str, Field(min_length=1, examples=_BASES)]
Format = Annotated[str, AfterValidator(_known_format), Field(examples=[*FORMAT_NAMES])]
TextEncoding = Annotated[str, AfterValidator(_known_encoding)]
Method = Annotated[str, AfterValidator(_known_method), Field(examples=[*METHOD_NAMES, FULL])]
RankPattern = Annotated[list[str], AfterValidator(_names_and_ranks)]
ConstraintValue = Annotated[str | list[str] | None, AfterValidator(_known_constraint)]
Metrics = Annotated[list[str | Metric], AfterValidator(_known_metrics)]
BestMetric = Annotated[str, AfterValidator(_judging_metric)]
Utility = Annotated[str | None, AfterValidator(_known_utility)]
SaveEvery = Annotated[str | int, BeforeValidator(_steps_or_minutes)]


class Section(BaseModel):
    """A group of keys: frozen, no unknown keys, no NaN, no number beyond what arrays of them
    hold.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    def by_key(self, name: str) -> dict[str, str]:
        """The values as text by their whole keys, ``name.key``."""
        values = self.model_dump(mode="json")
        return {f"{name}.{key}": str(value) for key, value in values.items()}

    @field_validator("*")
    @classmethod
    def _within_reason(cls, value: object) -> object:
        if isinstance(value, int | float) and value > LARGEST_NUMBER:
            raise ValueError(f"should be less than or equal to {LARGEST_NUMBER}")
        return value
