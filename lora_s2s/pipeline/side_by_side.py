"""A model beside its base on a text of one's own, and answers that were judged, kept as training
data. Heavy to import.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from lora_s2s.errors import DataError, UsageError
from lora_s2s.files import jsonl_line
from lora_s2s.hub import check_folder
from lora_s2s.inference.baseline import baseline_of
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.pipeline.decoding import settings_for
from lora_s2s.pipeline.followed import recipe_to_answer
from lora_s2s.pipeline.model import Model, predictor_of
from lora_s2s.recipe.layers import Overrides
from lora_s2s.reports.samples import sample_rows

FEEDBACK = "ui-feedback.jsonl"
LONGEST_TEXT, MOST_BEAMS, MOST_TOKENS = 20_000, 8, 512
_EXAMPLES, _LONGEST_EXAMPLE = 6, 2_000


@dataclass(frozen=True)
class Answered:
    """A text with the model's answer, and the base's where there is one."""

    text: str
    answer: str
    baseline: str | None


@dataclass(frozen=True)
class SideBySide:
    """A model, and its base where it is compared with it; answers one text at a time."""

    model: Model
    base: Model | None
    decoding: DecodingSettings
    examples: list[str] = field(repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def answers(self, text: str, num_beams: int, max_new_tokens: int) -> Answered:
        """Answers a text with both.

        Raises:
            UsageError: an empty, too long or invalid text, or a number out of range.
        """
        if not text.strip():
            raise UsageError("there is no text to answer")
        if text != text.encode(errors="ignore").decode():
            raise UsageError("the text is not valid Unicode: half of a surrogate pair")
        _check("characters of the text", len(text), LONGEST_TEXT)
        _check("beams", num_beams, MOST_BEAMS)
        _check("tokens of the answer", max_new_tokens, MOST_TOKENS)
        with self._lock:  # both share one set of weights, the adapter on or off
            mine, other = (
                model(text, num_beams=num_beams, max_new_tokens=max_new_tokens) if model else None
                for model in (self.model, self.base)
            )
        return Answered(text, mine or "", other)

    @property
    def settings(self) -> tuple[int, int]:
        """Beams and length of the answers that the model was scored with, within bounds."""
        scored = self.decoding
        return min(scored.num_beams, MOST_BEAMS), min(scored.max_new_tokens, MOST_TOKENS)


def open_side_by_side(
    name: str, *, baseline: bool, base: str | None = None, overrides: Overrides = ()
) -> SideBySide:
    """Loads a model, once; its base is the same weights without the adapter.

    Args:
        baseline: compare with the base.
        base: a base in place of the one that the adapter names.

    Raises:
        UsageError: ``baseline``, and the model is not an adapter.
    """
    recipe = recipe_to_answer(name, overrides)
    predictor = predictor_of(name, recipe, base)
    other = Model(name, baseline_of(predictor), recipe, False) if baseline else None
    decoding = settings_for(recipe, predictor)
    return SideBySide(Model(name, predictor, recipe, False), other, decoding, _examples(name))


def keep(answered: Answered, folder: Path, *, good: bool) -> Path:
    """Appends a judged answer: good ones to ``ui-feedback.jsonl``, which ``prepare`` reads with
    its columns source and target; bad ones to a file beside it, which is not training data.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / (FEEDBACK if good else FEEDBACK.replace(".", "-bad."))
    row = {"source": answered.text, ("target" if good else "answer"): answered.answer}
    with path.open("a", encoding="utf-8", newline="") as stream:
        stream.write(jsonl_line(row))
    return path


def _examples(name: str) -> list[str]:
    """Returns sources that the adapter was scored on."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return []
    try:
        rows = sample_rows(check_folder(folder), _EXAMPLES)
    except DataError:
        return []
    sources = [row.get("source") for row in rows]
    return [text for text in sources if isinstance(text, str) and len(text) <= _LONGEST_EXAMPLE]


def _check(what: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise UsageError(f"{what}: expected 1 to {most:,}, got {value:,}")
