"""Probabilities of labels when a label task is scored: calibrated on validation data, then
measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora_s2s.console import ProgressLine, say
from lora_s2s.display import Silent, showing
from lora_s2s.errors import DataError, Error, UsageError
from lora_s2s.evaluation.evaluate import Evaluation, sample_places
from lora_s2s.evaluation.probabilities import (
    LabelledScores,
    ProbabilityScores,
    probability_scores,
)
from lora_s2s.evaluation.texts import References, plain_answer
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.score import score
from lora_s2s.pipeline.followed import followed
from lora_s2s.pipeline.label_set import known_labels, trained_labels
from lora_s2s.pipeline.scored_data import scored_data
from lora_s2s.recipe.layers import Overrides
from lora_s2s.recipe.schema import Recipe

# Candidates scored for a split: a random sample of its sources, where there are many labels. Other
# runtimes read the source again for each.
_MOST_CANDIDATES, _MOST_ELSEWHERE = 10_000, 1_000
_VALIDATION = "validation"


def recorded_labels(model: str) -> tuple[str, ...]:
    """The labels that a model's folder records; empty if there are none."""
    known = known_labels(model)
    return () if known is None else tuple(known.labels)


@dataclass(frozen=True)
class LabelTask:
    """What is scored: a model, and the recipe that names its training and validation data.

    Attributes:
        overrides: the user's; see :func:`lora_s2s.pipeline.followed.followed`.
    """

    model: str
    predictor: Predictor
    recipe: Recipe
    overrides: Overrides

    def probabilities(self, evaluation: Evaluation) -> ProbabilityScores | None:
        """Returns how good the probabilities of the labels are; None, with a message, where they
        cannot be scored.
        """
        references = [row.references for row in evaluation.rows]
        labels = self._labels(references)
        sources = [row.source for row in evaluation.rows]
        try:
            scored = self._scored(sources, references, labels, evaluation, "labels")
            validation = self._validation(labels, evaluation)
        except Error as error:
            say(f"no probabilities of labels: {error.message}")
            return None
        return probability_scores(scored, labels, validation=validation, fitted_on=_VALIDATION)

    def _labels(self, references: References) -> list[str]:
        """Those of the training targets, and what else the references hold."""
        labels = recorded_labels(self.model)
        try:
            labels = labels or trained_labels(self.recipe, self.model, self.overrides)
        except (DataError, UsageError):
            labels = ()
        known = {plain_answer(label) for label in labels}
        others = dict.fromkeys(plain_answer(texts[0]) for texts in references)
        return [*labels, *(label for label in others if label not in known)]

    def _validation(self, labels: Sequence[str], evaluation: Evaluation) -> LabelledScores | None:
        split = _VALIDATION if self.recipe.data.validation else "train"
        try:
            recipe = followed(self.recipe, self.model, self.overrides, split=split)
            data = recipe.data.model_copy(update={"test": None})
            with showing(Silent()):
                held_out = scored_data(
                    recipe.model_copy(update={"data": data}),
                    self.predictor,
                    None,
                    columns_named=False,
                )
        except (DataError, UsageError) as error:
            say(f"probabilities are not calibrated, for lack of validation data: {error.message}")
            return None
        texts = held_out.sources, held_out.references
        return self._scored(*texts, labels, evaluation, "calibration")

    def _scored(
        self,
        sources: Sequence[str],
        references: References,
        labels: Sequence[str],
        evaluation: Evaluation,
        what: str,
    ) -> LabelledScores:
        places = {plain_answer(label): place for place, label in enumerate(labels)}
        is_torch = self.predictor.engine.runtime == "torch"
        count = max(1, (_MOST_CANDIDATES if is_torch else _MOST_ELSEWHERE) // len(labels))
        pairs = [
            (sources[row], places[plain_answer(references[row][0])])
            for row in sample_places(len(sources), count)
            if plain_answer(references[row][0]) in places
        ]
        if not pairs:
            raise DataError("the validation data has none of the labels")
        with ProgressLine("eval", short=True) as line:
            scores = score(
                self.predictor,
                [source for source, _ in pairs],
                [labels] * len(pairs),
                evaluation.settings,
                lambda done, total: line.update({"": what}, done=done, total=total),
            )
        truth_N = np.array([place for _, place in pairs], dtype=np.int64)
        return LabelledScores(np.array([one.log_probs for one in scores]), truth_N)
