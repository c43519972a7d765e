"""A conversation with a model, a line at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor


@dataclass
class Chat:
    """Answers texts through the model's template; a model that was trained on dialogues reads the
    turns before, the oldest left out where they would be too long.
    """

    predictor: Predictor
    settings: DecodingSettings
    turns: list[dict[str, str]] = field(default_factory=list)

    def answer(self, text: str) -> str:
        """Returns the answer to a text.

        Raises:
            UsageError: the template needs several columns.
            DataError: the text is empty.
        """
        asked = self.predictor.opened([*self.turns, {"role": "user", "content": text}])
        source = self.predictor.render(
            {"messages": asked} if self.predictor.reads_dialogues else text
        )
        answer = decode(self.predictor, [source], self.settings)[0].text
        if self.predictor.reads_dialogues:
            self.turns = [*asked, {"role": "assistant", "content": answer}]
        return answer
