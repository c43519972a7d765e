"""Scores of a model that is being trained: its answers to a fixed sample of sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_s2s.console import say
from lora_s2s.evaluation.mbr import decode
from lora_s2s.evaluation.metrics import measure
from lora_s2s.evaluation.texts import References
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.fast_decoding import forget
from lora_s2s.inference.predictor import Predictor

_EXAMPLES, _LONGEST_SHOWN = 3, 160


@dataclass(frozen=True)
class ScoredSample:
    """Sources with their references, and how the model in training answers and is scored."""

    predictor: Predictor
    sources: Sequence[str]
    references: References
    metrics: Sequence[str]
    settings: DecodingSettings

    def scores(self) -> dict[str, float]:
        """The scores now, of which a few answers are shown. The model, its mode and the random
        numbers of training stay as they are.
        """
        model = self.predictor.torch.model
        was_training = model.training
        try:
            answers = decode(self.predictor, self.sources, self.settings)
        finally:
            model.train(was_training)
            forget(model)  # a second copy of its weights
        texts = [answer.text for answer in answers]
        measured = measure(texts, self.references, self.metrics, self.sources)
        for place in range(min(_EXAMPLES, len(texts))):
            say(f"  {_short(self.sources[place])}")
            say(f"    answer:   {_short(texts[place])}")
            say(f"    expected: {_short(self.references[place][0])}")
        return {name: metric.value() for name, metric in measured.items()}


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
