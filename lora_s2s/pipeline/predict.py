"""Answers to texts and rows. Heavy to import."""

from __future__ import annotations

from collections.abc import Sequence

from lora_s2s.console import ProgressLine
from lora_s2s.errors import DataError
from lora_s2s.examples.template import PromptTemplate
from lora_s2s.inference import decode as decoding
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline.texts import Inputs
from lora_s2s.recipe.schema import EvaluationSection
from lora_s2s.records import InputSettings


def rendered(predictor: Predictor, inputs: Inputs) -> list[str]:
    """Returns the encoder's text of every input; an error says which one.

    Raises:
        DataError: a row lacks a column, or holds something other than text in it.
    """
    sources = []
    for item, place in zip(inputs.items, inputs.places, strict=True):
        try:
            sources.append(predictor.render(item))
        except DataError as error:
            raise DataError(error.message, hint=error.hint, where=place) from error
    return sources


def template_lines(predictor: Predictor, inputs: Inputs) -> list[str]:
    """Returns what a user should know of the template: which is applied, and to which texts it was
    already.
    """
    settings = predictor.settings
    template, listed = settings.first_template, settings.template
    if template is None:
        return []
    which = f" 1 of {len(listed)}" if isinstance(listed, list | tuple) and len(listed) > 1 else ""
    lines = [f"template{which}: {template}"]
    one = PromptTemplate.of(template).templates[0]
    begun = sum(
        one.begun({one.first: item} if isinstance(item, str) else item) for item in inputs.items
    )
    if begun:
        lines.append(
            f"{begun:,} of {len(inputs.items):,} inputs begin with '{one.opening}' already: it "
            "stands once there"
        )
    return lines


def decoding_settings(section: EvaluationSection, trained_on: InputSettings) -> DecodingSettings:
    """Returns the decoding part of a recipe's evaluation section, its limit that of the targets
    where it is auto.
    """
    limit = section.answer_tokens(trained_on.max_target_tokens)
    return DecodingSettings(
        limit,
        num_beams=section.num_beams,
        batch_tokens=section.batch_tokens,
        early_stopping=section.early_stopping,
    )


def answer(
    predictor: Predictor, sources: Sequence[str], section: EvaluationSection, *, label: str
) -> list[str]:
    """Returns the answers to rendered sources, with a progress line called ``label``."""
    with ProgressLine(label) as line:
        answers = decoding.decode(
            predictor,
            sources,
            decoding_settings(section, predictor.settings),
            (lambda done, total: line.update({}, done=done, total=total))
            if len(sources) > 1
            else None,
        )
    return [answer.text for answer in answers]
