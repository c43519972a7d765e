"""A model that answers: an adapter on its base, a base, or a merged model. Heavy to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, overload

from typing_extensions import TypedDict, Unpack

from lora_s2s.console import say
from lora_s2s.display import Display
from lora_s2s.errors import UsageError
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline.followed import KEY, recipe_to_answer, with_constraint
from lora_s2s.pipeline.inputs import Input, Inputs
from lora_s2s.pipeline.predict import answers_to, decoding_settings
from lora_s2s.pipeline.surroundings import called
from lora_s2s.recipe.layers import Overrides
from lora_s2s.recipe.load import with_arguments
from lora_s2s.recipe.schema import Recipe

Row = Mapping[str, object]


class DecodingOptions(TypedDict, total=False):
    """How a model answers; see the section ``evaluation`` of a recipe."""

    max_new_tokens: int | None
    num_beams: int | None
    batch_tokens: int | None
    early_stopping: bool | None
    length_penalty: float | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    constraint: str | list[str] | None


def predictor_of(model: str, recipe: Recipe, base: str | None = None) -> Predictor:
    """Loads what answers, and reports which generation settings of the checkpoint it ignores."""
    predictor = load_predictor(model, base=base, dtype=recipe.model.dtype)
    report_not_used(predictor)
    return predictor


def report_not_used(predictor: Predictor) -> None:
    """Reports which generation settings of the checkpoint answers do not follow."""
    if predictor.not_used:
        say(f"not used from the checkpoint's generation_config: {predictor.not_used}")


def open_model(
    name: str, *, base: str | None, overrides: Overrides, progress: bool | Display
) -> Model:
    """Loads a model with the recipe that it was trained with."""
    recipe = recipe_to_answer(name, overrides)
    return Model(name, predictor_of(name, recipe, base), recipe, progress)


@dataclass(frozen=True)
class Model:
    """Answers a text with a text, a list with a list, and a row (a dict) with the row and its
    ``prediction``.

    Attributes:
        name: what was loaded.
    """

    name: str
    _predictor: Predictor = field(repr=False)
    _recipe: Recipe = field(repr=False)
    _progress: bool | Display = field(repr=False, default=True)

    @overload
    def __call__(
        self,
        inputs: str,
        **options: Unpack[DecodingOptions],
    ) -> str: ...

    @overload
    def __call__(
        self,
        inputs: Row,
        **options: Unpack[DecodingOptions],
    ) -> dict[str, Any]: ...

    @overload
    def __call__(
        self,
        inputs: list[str] | tuple[str, ...],
        **options: Unpack[DecodingOptions],
    ) -> list[str]: ...

    @overload
    def __call__(
        self,
        inputs: list[dict[str, Any]],
        **options: Unpack[DecodingOptions],
    ) -> list[dict[str, Any]]: ...

    def __call__(
        self,
        inputs: object,
        **options: Unpack[DecodingOptions],
    ) -> object:
        """Answers texts or rows, in the order given.

        Args:
            inputs: a text, a row, or a list of texts or rows.
            options: keys of a recipe's ``evaluation`` section that change the decoding, such as
                ``num_beams=4``; by default those of the recipe.

        Raises:
            Error: an option out of range, or a row that lacks a column.
        """
        several = isinstance(inputs, list | tuple)
        items = _items(inputs)
        with called(self._progress):
            recipe = with_arguments(self._recipe, "evaluation", options)
            recipe = with_constraint(recipe, self.name, {KEY: options.get("constraint")})
            settings = decoding_settings(recipe.evaluation, self._predictor.settings)
            texts = chain.from_iterable(answers_to(self._predictor, items, settings))
            answers = [_answered(item, text) for (item, _), text in zip(items, texts, strict=True)]
        return answers if several else answers[0]


def _items(inputs: object) -> Inputs:
    listed = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    items: list[Input] = []
    for number, item in enumerate(listed, start=1):
        if not isinstance(item, str | Mapping):
            kind = type(item).__name__
            raise UsageError(
                f"expected a text or a row (a dict), got {kind}",
                hint="give a text, a row, or a list of them: model(list(texts))",
                where=f"item {number}" if isinstance(inputs, list | tuple) else None,
            )
        items.append(item if isinstance(item, str) else dict(item))
    return Inputs.of(items, [f"item {number}" for number in range(1, len(items) + 1)])


def _answered(item: Input, text: str) -> str | dict[str, Any]:
    return text if isinstance(item, str) else {**item, "prediction": text}
