"""A model that answers: an adapter on its base, a base, or a merged model. Heavy to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, overload

from typing_extensions import TypedDict, Unpack

from lora_s2s.display import Display
from lora_s2s.errors import Error, UsageError
from lora_s2s.inference.decode import ScoredAnswer
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline.decoding import report_own_decoding, settings_for
from lora_s2s.pipeline.followed import KEY, recipe_to_answer, with_constraint
from lora_s2s.pipeline.inputs import Input, Inputs
from lora_s2s.pipeline.label_set import label_choice
from lora_s2s.pipeline.predict import Work, rankings
from lora_s2s.pipeline.predictions import N_BEST, Answer, fields_of
from lora_s2s.pipeline.ranking import Candidates, LabelChoice, Ranking, Weighing, candidates_of
from lora_s2s.pipeline.surroundings import called
from lora_s2s.recipe.layers import Overrides
from lora_s2s.recipe.load import with_arguments
from lora_s2s.recipe.schema import Recipe

Row = Mapping[str, object]
Rows = list[dict[str, Any]]


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
    decoding: str | None
    mbr: str | None
    mbr_candidates: int | None
    constraint: str | list[str] | Mapping[str, object] | None


class ScoringOptions(TypedDict, total=False):
    """What bounds the scoring of candidates; see the section ``evaluation`` of a recipe."""

    max_new_tokens: int | None
    batch_tokens: int | None


def predictor_of(model: str, recipe: Recipe, base: str | None = None) -> Predictor:
    """Loads what answers, and reports which generation settings of the checkpoint it follows."""
    predictor = load_predictor(model, base=base, dtype=recipe.model.dtype)
    report_own_decoding(predictor, recipe)
    return predictor


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
    def __call__(self, inputs: str, **options: Unpack[DecodingOptions]) -> str: ...

    @overload
    def __call__(
        self, inputs: list[str] | tuple[str, ...], **options: Unpack[DecodingOptions]
    ) -> list[str]: ...

    @overload
    def __call__(
        self, inputs: str, *, n_best: int, **options: Unpack[DecodingOptions]
    ) -> list[ScoredAnswer]: ...

    @overload
    def __call__(
        self,
        inputs: list[str] | tuple[str, ...],
        *,
        n_best: int,
        **options: Unpack[DecodingOptions],
    ) -> list[list[ScoredAnswer]]: ...

    @overload
    def __call__(
        self, inputs: Row, *, n_best: int = 0, **options: Unpack[DecodingOptions]
    ) -> dict[str, Any]: ...

    @overload
    def __call__(
        self, inputs: Rows, *, n_best: int = 0, **options: Unpack[DecodingOptions]
    ) -> Rows: ...

    def __call__(
        self, inputs: object, *, n_best: int = 0, **options: Unpack[DecodingOptions]
    ) -> object:
        """Answers texts or rows, in the order given.

        Args:
            inputs: a text, a row, or a list of texts or rows.
            n_best: so many answers to each, the best beams or samples: for a text a list of
                ``{"text": …, "score": …}``, which a row has as ``n_best``; ``score`` is the exact
                log-probability of the answer.
            options: keys of a recipe's ``evaluation`` section that change the decoding, such as
                ``num_beams=4``; by default those of the recipe.

        Raises:
            Error: an option out of range, or a row that lacks a column.
        """
        several = isinstance(inputs, list | tuple)
        items, asked = _items(inputs), {**options, "n_best": n_best}
        with called(self._progress):
            recipe = with_arguments(self._recipe, "evaluation", asked)
            recipe = with_constraint(recipe, self.name, {KEY: options.get("constraint")})
            settings = settings_for(recipe, self._predictor)
            texts = chain.from_iterable(Work(self._predictor, items, settings).answers())
            answers = [_answered(item, text) for (item, _), text in zip(items, texts, strict=True)]
        return answers if several else answers[0]

    @cached_property
    def _labels(self) -> LabelChoice:
        try:
            return label_choice(self.name, self._recipe, (), None)
        except Error as error:
            error.hint = 'name the candidates: model.score("one text", ["yes", "no"])'
            raise

    @overload
    def score(
        self,
        inputs: str | Row,
        candidates: Sequence[str] | None = None,
        *,
        length_normalized: bool = False,
        temperature: float | None = None,
        **options: Unpack[ScoringOptions],
    ) -> Ranking: ...

    @overload
    def score(
        self,
        inputs: list[str] | tuple[str, ...] | Rows,
        candidates: Candidates | None = None,
        *,
        length_normalized: bool = False,
        temperature: float | None = None,
        **options: Unpack[ScoringOptions],
    ) -> list[Ranking]: ...

    def score(
        self,
        inputs: object,
        candidates: object = None,
        *,
        length_normalized: bool = False,
        temperature: float | None = None,
        **options: Unpack[ScoringOptions],
    ) -> Ranking | list[Ranking]:
        """Ranks candidates by their exact log-probability as the whole answer.

        Args:
            inputs: a text, a row, or a list of texts or rows.
            candidates: a list of texts for all of them, or a list for each; by default the labels
                of an adapter's last evaluation, else those among its training targets.
            length_normalized: compare log-probabilities per token, which does not prefer short
                candidates; without it, probabilities are those of the model.
            temperature: divides log-probabilities before they are normalised over the candidates;
                by default 1, for an adapter's own labels what its evaluation fitted.
            options: ``max_new_tokens``, which bounds a candidate, and ``batch_tokens``.

        Raises:
            Error: candidates that are fewer than two, empty, the same, too long, or that the
                tokenizer cannot write.
        """
        if unknown := sorted(options.keys() - ScoringOptions.__annotations__.keys()):
            raise UsageError(f"score has no option {unknown[0]}: nothing is decoded")
        several = isinstance(inputs, list | tuple)
        items = [*_items(inputs)]
        with called(self._progress):
            choice = self._labels if candidates is None else LabelChoice(())
            given = choice.labels if candidates is None else candidates
            lists = candidates_of(given, len(items), several=several)
            recipe = with_arguments(self._recipe, "evaluation", options)
            settings = settings_for(recipe, self._predictor)
            fitted = choice.weighing.temperature
            weighing = Weighing(fitted if temperature is None else temperature, length_normalized)
            ranked = [*rankings(self._predictor, items, lists, settings, weighing)]
        return ranked if several else ranked[0]


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


def _answered(item: Input, answer: Answer) -> object:
    fields = fields_of(answer)
    if isinstance(item, str):
        return fields.get(N_BEST, answer)
    return {**item, **fields}
