"""Batch decoding: texts in, texts out, in input order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lora_s2s.inference.engine import DecodingSettings, Engine, QueuedEngine
from lora_s2s.inference.predictor import Predictor
from lora_s2s.tokens.encoder import panics_as_errors

Row: TypeAlias = tuple[int, ...]
"""A source's token ids."""


@dataclass(frozen=True)
class Prediction:
    """One answer: its text without special tokens, the tokens produced (``</s>`` counted), whether
    ``</s>`` came.
    """

    text: str
    tokens: int
    stopped: bool


def decode(
    predictor: Predictor,
    sources: Sequence[str],
    settings: DecodingSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Answers every rendered source, in input order.

    Sources are sorted by length into batches, longest first, so padding is small and a batch too
    large for the memory fails at once; equal sources are decoded once. The result of a source does
    not depend on its neighbours beyond the rounding of the arithmetic. The model is left in
    evaluation mode.

    Args:
        predictor: what answers.
        sources: encoder texts as :meth:`Predictor.render` gives them.
        settings: limits; the defaults if None.
        progress: called with (sources done, sources in all) after each answer.

    Raises:
        ResourceError: a batch does not fit the accelerator's memory.
        DataError: the model's logits are not finite.
        UsageError: the engine lacks one of the settings.
    """
    settings = predictor.within_positions(settings or DecodingSettings())
    rows = [tuple(predictor.encode(source)) for source in sources]
    repeats = Counter(rows)
    predictions: dict[Row, Prediction] = {}
    done = 0
    for row, ids in _answered(predictor.engine, list(repeats), settings):
        predictions[row] = read_answer(predictor, ids)
        done += repeats[row]
        if progress is not None:
            progress(done, len(rows))
    return [predictions[row] for row in rows]


def _answered(
    engine: Engine, rows: Sequence[Row], settings: DecodingSettings
) -> Iterator[tuple[Row, list[int]]]:
    """Every row with its answer's ids, in the order in which they end."""
    queued = engine.queued_answers(rows, settings) if isinstance(engine, QueuedEngine) else None
    if queued is not None:
        yield from ((rows[place], ids) for place, ids in queued)
        return
    for batch in length_batches(rows, settings):
        yield from zip(batch, engine.answers(batch, settings), strict=True)


def length_batches(rows: Sequence[Row], settings: DecodingSettings) -> list[list[Row]]:
    """Groups token rows by length, longest first, so that rows × longest × beams stays within
    ``batch_tokens``.
    """
    batches: list[list[Row]] = []
    room = 0
    for row in sorted(rows, key=lambda row: (-len(row), row)):
        if room == 0:
            room = settings.rows_at_once(len(row))
            batches.append([])
        batches[-1].append(row)
        room -= 1
    return batches


def read_answer(predictor: Predictor, ids: Sequence[int]) -> Prediction:
    """Returns the answer that an engine's ids are, complete or not."""
    tokenizer = predictor.tokenizer
    stopped = tokenizer.eos_token_id in ids
    # M2M100 does not count its language codes among the special tokens.
    prefix = predictor.answer_prefix
    begins = tuple(ids[: len(prefix)]) == prefix
    shown = list(ids[len(prefix) :] if begins else ids)
    with panics_as_errors():
        text = tokenizer.decode(shown, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Prediction(text=text, tokens=len(ids), stopped=stopped)
