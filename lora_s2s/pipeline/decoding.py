"""The settings that answers are decoded with, and one line that says what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from lora_s2s.console import say
from lora_s2s.errors import DataError, UsageError
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.models.own_decoding import CHECKPOINT, OwnDecoding
from lora_s2s.pipeline.notices import short
from lora_s2s.recipe.constraint import parse
from lora_s2s.recipe.evaluation import EvaluationSection
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import InputSettings

if TYPE_CHECKING:
    from lora_s2s.inference.predictor import Predictor

# Of samples that mbr chooses among: hotter ones of a small model are too poor, and the choice too;
# see benchmarks/mbr.py.
_MBR_TEMPERATURE = 0.5


def settings_for(recipe: Recipe, predictor: Predictor, *, plain: bool = False) -> DecodingSettings:
    """Returns the settings that a model answers a recipe by; see :func:`decoding_settings`.

    Args:
        plain: one answer at a time, as it is decoded: without ``n_best`` and ``mbr``.

    Raises:
        UsageError: the checkpoint's own settings are asked for, and there is none.
        DataError: one of them is out of range.
    """
    section = recipe.evaluation
    if plain:
        if section.mbr is not None:
            say(f"evaluation.mbr {section.mbr} is for eval and predict: not used here")
            section = section.model_copy(update={"mbr": None, "temperature": 0.0})
        section = section.model_copy(update={"n_best": 0})
    if section.decoding == CHECKPOINT:
        if predictor.own_decoding is None:
            raise UsageError(
                f"evaluation.decoding is checkpoint, and {predictor.name} is an export without "
                "generation settings of its own",
                hint="--set evaluation.decoding=default, or answer with the model itself",
            )
        section = _of_checkpoint(section, predictor.own_decoding, predictor.name)
    return decoding_settings(section, predictor.settings)


def decoding_settings(section: EvaluationSection, trained_on: InputSettings) -> DecodingSettings:
    """Returns the decoding part of a recipe's evaluation section, its limit that of the targets
    where it is auto; ``mbr`` without beams and a temperature samples at 0.5.
    """
    if section.mbr is not None and section.num_beams == 1 and not section.temperature:
        section = section.model_copy(update={"temperature": _MBR_TEMPERATURE})
    limit = section.answer_tokens(trained_on.answer_limit)
    names = {field.name for field in fields(DecodingSettings)}
    asked = section.model_dump(include=names)
    constraint = None if section.constraint is None else parse(section.constraint).value
    return DecodingSettings(**{**asked, "max_new_tokens": limit, "constraint": constraint})


def recorded_settings(decoding: Mapping[str, Any]) -> DecodingSettings:
    """Returns the settings that a manifest's ``decoding`` stands for."""
    return decoding_settings(EvaluationSection(**decoding), InputSettings())


def _of_checkpoint(section: EvaluationSection, own: OwnDecoding, name: str) -> EvaluationSection:
    """The section with a checkpoint's settings for keys at their defaults; beams and sampling
    exclude each other, so what is asked of one leaves out the other.
    """
    usual, updates = EvaluationSection(), dict[str, object]()
    other = {"num_beams": "temperature", "temperature": "num_beams"}
    for key, value in own.keys.items():
        rival = other.get(key, key)
        if any(getattr(section, one) != getattr(usual, one) for one in (key, rival)):
            continue
        try:
            updates[key] = getattr(EvaluationSection(**{key: value}), key)
        except ValueError as error:
            problem = f"the checkpoint's generation_config has {key} {value!r:.40}: out of range"
            hint = "--set evaluation.decoding=default"
            raise DataError(problem, hint=hint, where=name) from error
    return section.model_copy(update=updates)


def report_own_decoding(predictor: Predictor, recipe: Recipe) -> None:
    """Reports which generation settings of the checkpoint answers follow, and which not."""
    if predictor.own_decoding is not None:
        followed = recipe.evaluation.decoding == CHECKPOINT
        for line in predictor.own_decoding.lines(followed=followed):
            say(line)


def decoding_line(settings: DecodingSettings, predictor: Predictor) -> str:
    """Returns how answers are decoded: the search, the length limit, and what else was asked."""
    settings = predictor.within_positions(settings)
    search = "greedy" if settings.num_beams == 1 else f"{settings.num_beams} beams"
    if settings.temperature > 0:
        search = f"sampling, temperature {settings.temperature:g}"
    others = [
        "as evaluation.constraint allows" if name == "constraint" else f"{name} {value}"
        for name, value in settings.changed().items()
        if name not in ("num_beams", "temperature", "max_new_tokens", "mbr", "mbr_candidates")
    ]
    if settings.mbr is not None:
        samples = f"{settings.mbr_candidates} samples"
        among = f"{settings.num_beams} beams" if settings.num_beams > 1 else samples
        others.append(f"the one of {among} with the highest expected {settings.mbr}")
    limit = limit_words(settings.max_new_tokens, predictor.settings)
    return f"decoding: {', '.join([search, limit, *others])}"


def limit_words(limit: int, trained_on: InputSettings) -> str:
    """Returns the length limit of answers, and why it is what it is where that is recorded."""
    begin = f"at most {limit:,} tokens"
    if trained_on.target_p99 is None or limit != trained_on.answer_limit:
        return begin
    lengths = f"{trained_on.target_p99:,}, the longest {trained_on.longest_target:,}"
    return f"{begin} (auto: 99 % of the training targets have up to {lengths})"


def show_system(predictor: Predictor, columns: Sequence[str] = ()) -> None:
    """Shows the system text that plain texts get, if any; rows, which have columns, get none."""
    if predictor.reads_dialogues and not columns and (text := predictor.settings.system):
        say(f"system text, as in each training conversation: {short(text)}")
