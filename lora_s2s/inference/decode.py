"""Batch decoding: texts in, texts out, in input order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from transformers import PreTrainedTokenizerBase

from lora_s2s.inference.engine import DecodingSettings, Watch, WatchedEngine
from lora_s2s.inference.predictor import Predictor
from lora_s2s.tokens.encoder import panics_as_errors
from lora_s2s.tokens.special_tokens import first_ids

# The step's logits have one row per hypothesis and the whole vocabulary: short sources alone would
# not bound them.
MOST_HYPOTHESES = 512


@dataclass(frozen=True)
class Prediction:
    """One answer: its text without special tokens, the tokens produced (``</s>`` counted), whether
    ``</s>`` came.
    """

    text: str
    tokens: int
    stopped: bool


Follow: TypeAlias = Callable[[int, Callable[[], Prediction]], bool]
"""Called after each token of an answer, with the place of its source and a function that returns
the answer so far; True ends it there.
"""


def decode(
    predictor: Predictor,
    sources: Sequence[str],
    settings: DecodingSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
    follow: Follow | None = None,
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
        progress: called with (sources done, sources in all) after each batch.
        follow: follows answers while they are produced, if the engine can; never with beams, which
            change their mind.

    Raises:
        ResourceError: a batch does not fit the accelerator's memory.
        DataError: the model's logits are not finite.
        UsageError: the engine lacks one of the settings.
    """
    settings = predictor.within_positions(settings or DecodingSettings())
    rows = [tuple(predictor.encode(source)) for source in sources]
    places: dict[tuple[int, ...], list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row, []).append(place)
    first = first_ids(predictor.tokenizer)["first"]
    read = partial(_prediction, tokenizer=predictor.tokenizer, first=first)
    predictions: dict[tuple[int, ...], Prediction] = {}
    done = 0
    engine = predictor.engine
    for batch in length_batches(list(places), settings):
        if follow is not None and settings.num_beams == 1 and isinstance(engine, WatchedEngine):
            watch = _watch(follow, [places[row] for row in batch], read)
            answers = engine.watched_answers(batch, settings, watch)
        else:
            answers = engine.answers(batch, settings)
        for row, ids in zip(batch, answers, strict=True):
            predictions[row] = read(ids)
        done += sum(len(places[row]) for row in batch)
        if progress is not None:
            progress(done, len(rows))
    return [predictions[row] for row in rows]


def _watch(
    follow: Follow, places: Sequence[Sequence[int]], read: Callable[[list[int]], Prediction]
) -> Watch:
    """Returns what an engine calls: a row is ended once none of its sources wants more."""

    def watch(row: int, ids: list[int]) -> bool:
        so_far = partial(read, ids)
        wishes = [follow(place, so_far) for place in places[row]]
        return all(wishes)

    return watch


def length_batches(
    rows: Sequence[tuple[int, ...]], settings: DecodingSettings
) -> list[list[tuple[int, ...]]]:
    """Groups token rows by length, longest first, so that rows × longest × beams stays within
    ``batch_tokens``.
    """
    batches: list[list[tuple[int, ...]]] = []
    room = 0
    for row in sorted(rows, key=lambda row: (-len(row), row)):
        if room == 0:
            fitting = settings.batch_tokens // (max(len(row), 1) * settings.num_beams)
            room = max(1, min(fitting, MOST_HYPOTHESES // settings.num_beams))
            batches.append([])
        batches[-1].append(row)
        room -= 1
    return batches


def _prediction(
    ids: list[int], tokenizer: PreTrainedTokenizerBase, first: int | None
) -> Prediction:
    stopped = tokenizer.eos_token_id in ids
    # M2M100 does not count its language codes among the special tokens.
    shown = ids[1:] if ids[:1] == [first] else ids
    with panics_as_errors():
        text = tokenizer.decode(shown, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Prediction(text=text, tokens=len(ids), stopped=stopped)
