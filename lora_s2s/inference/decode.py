"""Batch decoding: texts in, texts out, in input order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from typing_extensions import TypedDict

from lora_s2s.inference.engine import DecodingSettings, Engine, QueuedEngine, TokenIds
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.score import answer_log_probs
from lora_s2s.tokens.encoder import panics_as_errors

Row: TypeAlias = tuple[int, ...]
"""A source's token ids."""
Progress: TypeAlias = Callable[[int, int], None]


class ScoredAnswer(TypedDict):
    """One of several answers, and its exact log-probability as the whole answer, in nats."""

    text: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """One answer: its text without special tokens, the tokens produced (``</s>`` counted), whether
    ``</s>`` came; ``n_best`` are the answers that were asked for with scores, this one first.
    """

    text: str
    tokens: int
    stopped: bool
    n_best: tuple[ScoredAnswer, ...] = ()


def decode(
    predictor: Predictor,
    sources: Sequence[str],
    settings: DecodingSettings | None = None,
    progress: Progress | None = None,
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
    settings = settings or DecodingSettings()
    rows = [tuple(predictor.encode(source)) for source in sources]
    answers = _decoded(predictor, rows, settings, progress)
    predictions = {row: read_answer(predictor, ids[0]) for row, ids in answers.items()}
    if settings.n_best:
        values = answer_log_probs(predictor, [*answers], [*answers.values()], settings)
        for (row, several), scores in zip(answers.items(), values, strict=True):
            pairs = zip(several, scores, strict=True)
            scored = [
                ScoredAnswer(text=read_answer(predictor, ids).text, score=value)
                for ids, value in pairs
            ]
            predictions[row] = replace(predictions[row], n_best=tuple(scored))
    return [predictions[row] for row in rows]


def choose_decoder(
    predictor: Predictor, sources: Sequence[str], settings: DecodingSettings
) -> None:
    """Lets the engine choose how it decodes as it would if these were the first sources."""
    rows = dict.fromkeys(tuple(predictor.encode(source)) for source in sources)
    if isinstance(predictor.engine, QueuedEngine):
        predictor.engine.queued_answers([*rows], predictor.within_positions(settings))


def candidates(
    predictor: Predictor,
    sources: Sequence[str],
    settings: DecodingSettings,
    progress: Progress | None = None,
) -> list[list[Prediction]]:
    """Returns the answers to every rendered source that the engine returns; see :func:`decode`."""
    rows = [tuple(predictor.encode(source)) for source in sources]
    answers = _decoded(predictor, rows, settings, progress)
    read = {row: [read_answer(predictor, ids) for ids in one] for row, one in answers.items()}
    return [read[row] for row in rows]


def _decoded(
    predictor: Predictor,
    rows: Sequence[Row],
    settings: DecodingSettings,
    progress: Progress | None,
) -> dict[Row, list[Row]]:
    """The ids of the answers to each row."""
    settings = predictor.within_positions(settings)
    repeats, answers, done = Counter(rows), dict[Row, list[Row]](), 0
    for row, several in _answered(predictor.engine, list(repeats), settings):
        answers[row] = _found(several, settings)
        done += repeats[row]
        if progress is not None:
            progress(done, len(rows))
    return answers


def _answered(
    engine: Engine, rows: Sequence[Row], settings: DecodingSettings
) -> Iterator[tuple[Row, list[list[int]]]]:
    """Every row with its answers' ids, in the order in which they end."""
    count = settings.returned
    queued = engine.queued_answers(rows, settings) if isinstance(engine, QueuedEngine) else None
    if queued is not None:
        several: list[list[int]] = []
        for place, ids in queued:
            several.append(ids)
            if len(several) == count:
                yield rows[place // count], several
                several = []
        return
    for batch in length_batches(rows, settings):
        answers = engine.answers(batch, settings)
        for place, row in enumerate(batch):
            yield row, answers[place * count : (place + 1) * count]


def _found(several: TokenIds, settings: DecodingSettings) -> list[Row]:
    """The answers without those that only fill places: of a search that found fewer than beams."""
    answers = [tuple(ids) for ids in several]
    if settings.num_beams > 1:
        answers = [*dict.fromkeys(answers)]
    return [answers[0], *(ids for ids in answers[1:] if ids)]


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
