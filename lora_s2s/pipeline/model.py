"""A model that answers: an adapter on its base, a base, or a merged model. Heavy to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, overload

from lora_s2s.console import say
from lora_s2s.display import Display
from lora_s2s.errors import UsageError
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline.adapters import recipe_of
from lora_s2s.pipeline.inputs import Input, Inputs
from lora_s2s.pipeline.predict import answers_to, decoding_settings
from lora_s2s.pipeline.surroundings import called
from lora_s2s.recipe.layers import Overrides
from lora_s2s.recipe.load import with_overrides
from lora_s2s.recipe.schema import Recipe

Row = Mapping[str, object]


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
    recipe = recipe_of(name, overrides)
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
        *,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        batch_tokens: int | None = None,
    ) -> str: ...

    @overload
    def __call__(
        self,
        inputs: Row,
        *,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        batch_tokens: int | None = None,
    ) -> dict[str, Any]: ...

    @overload
    def __call__(
        self,
        inputs: list[str] | tuple[str, ...],
        *,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        batch_tokens: int | None = None,
    ) -> list[str]: ...

    @overload
    def __call__(
        self,
        inputs: list[dict[str, Any]],
        *,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        batch_tokens: int | None = None,
    ) -> list[dict[str, Any]]: ...

    def __call__(
        self,
        inputs: object,
        *,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        batch_tokens: int | None = None,
    ) -> object:
        """Answers texts or rows, in the order given.

        Args:
            inputs: a text, a row, or a list of texts or rows.
            num_beams: 1 is greedy; that of the recipe by default.
            max_new_tokens: the longest answer; by default that of the recipe.
            batch_tokens: padded source tokens × beams of a batch.

        Raises:
            Error: an option out of range, or a row that lacks a column.
        """
        options = {
            "num_beams": num_beams,
            "max_new_tokens": max_new_tokens,
            "batch_tokens": batch_tokens,
        }
        given = {f"evaluation.{key}": value for key, value in options.items() if value is not None}
        several = isinstance(inputs, list | tuple)
        items = _items(inputs)
        with called(self._progress):
            recipe = with_overrides(self._recipe, given) if given else self._recipe
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
