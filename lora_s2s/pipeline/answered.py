"""What a model, its base and another model answer to the same sources, and their losses on the
references where a metric needs them. Heavy to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_s2s.console import say
from lora_s2s.errors import UsageError
from lora_s2s.evaluation.evaluate import Answered
from lora_s2s.evaluation.metrics import need_the_model
from lora_s2s.evaluation.texts import Losses
from lora_s2s.inference.baseline import baseline_of
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.score import reference_losses
from lora_s2s.pipeline.kept_answers import KeptAnswers
from lora_s2s.pipeline.opponent import Opponent
from lora_s2s.pipeline.scored_data import ScoredData


@dataclass(frozen=True)
class Answering:
    """A model that is scored, by the name that the user gave, and how it answers.

    Attributes:
        baseline: answer with its base too.
    """

    model: str
    predictor: Predictor
    settings: DecodingSettings
    kept: KeptAnswers
    baseline: bool

    def answered(
        self,
        data: ScoredData,
        places: Sequence[int],
        metrics: Sequence[str],
        opponent: Opponent | None,
    ) -> Answered:
        """The answers to the sources at some places of the data.

        Raises:
            UsageError: there is no base to compare with, or a metric needs a model and
                ``opponent`` has none.
        """
        by_model = need_the_model(metrics)
        if by_model and opponent is not None and opponent.losses is None:
            raise UsageError(
                f"{opponent.name} is a file of predictions: loss and bits_per_byte need a model",
                hint="omit them from evaluation.metrics, or compare with a model",
            )
        baseline = baseline_of(self.predictor) if self.baseline else None
        sources = [data.sources[place] for place in places]
        answers = self.kept.decode("decode", self.predictor, sources, self.settings, self.model)
        of_base = None
        if baseline is not None:
            alone = self.settings.without_scores()
            of_base = self.kept.decode("baseline", baseline, sources, alone, self.model)
        theirs = opponent.answers(places) if opponent else None
        losses: list[Losses | None] = [None, None, None]
        if by_model and self.kept.ranks.first:
            say("scoring the references, for loss and bits_per_byte")
            references = [data.references[place] for place in places]
            for place, one in enumerate((self.predictor, baseline)):
                if one is not None:
                    losses[place] = reference_losses(one, sources, references, self.settings)
            if opponent is not None and opponent.losses is not None:
                losses[2] = opponent.losses(places)
        name = opponent.name if opponent else ""
        return Answered(answers, self.settings, of_base, name, theirs, tuple(losses))
