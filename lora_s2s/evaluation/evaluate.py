"""Decode, score, compare, and write what came out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation.labels import LabelTable, distinct_labels, label_table
from lora_s2s.evaluation.metrics import (
    Difference,
    References,
    Score,
    check_metrics,
    compare,
    measure,
    scores_of,
)
from lora_s2s.evaluation.notes import Answers, notes_on
from lora_s2s.evaluation.significance import SEED
from lora_s2s.files import jsonl_line, write_json, write_text
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.outputs import PREDICTIONS, whole_folder
from lora_s2s.records import add_scores

SCORES = "scores.json"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EvaluatedRow:
    """One unique source, all its references, and what the model (and the base, where asked)
    answered.
    """

    source: str
    references: tuple[str, ...]
    prediction: str
    baseline: str | None = None

    def to_json(self) -> dict[str, object]:
        """Returns the row of ``predictions.jsonl``; ``baseline`` only where there is one."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Evaluation:
    """The outcome for ``n`` unique sources.

    Attributes:
        references: how many there are in all.
        unstopped: answers that met the length limit.
        sources: how many sources there were, of which ``n`` are a sample where they are fewer.
        labels: counts of each label, where the references are labels.
        notes: what a reader should know before trusting the scores.
    """

    n: int
    metrics: dict[str, Score]
    baseline: dict[str, Score] | None
    difference: dict[str, Difference] | None
    rows: tuple[EvaluatedRow, ...]
    settings: DecodingSettings
    references: int
    unstopped: int
    sources: int
    labels: LabelTable | None = None
    notes: tuple[str, ...] = ()

    def to_json(self, predictions: Path | None = None) -> dict[str, object]:
        """Returns the contract's ``eval`` object; ``predictions`` is where the rows were
        written.
        """
        return {
            "n": self.n,
            "metrics": _entries(self.metrics),
            "baseline": _entries(self.baseline),
            "difference": _entries(self.difference),
            "predictions": None if predictions is None else str(predictions),
            "references": self.references,
            "unstopped": self.unstopped,
            "decoding": asdict(self.settings),
            "sources": self.sources,
            "labels": None if self.labels is None else self.labels.to_json(),
            "notes": list(self.notes),
        }

    def write(self, out: Path) -> Path:
        """Writes ``predictions.jsonl`` and ``scores.json`` into ``out``, whole or not at all; an
        earlier pair goes.

        Returns:
            the path of ``predictions.jsonl``.

        Raises:
            UsageError: ``out`` holds other files, which would be lost, or it cannot be written.
        """
        if foreign := sorted(
            item.name for item in out.glob("*") if item.name not in (PREDICTIONS, SCORES)
        ):
            raise UsageError(
                f"{out} holds other files ({foreign[0]}, …)", hint="give --out a folder of its own"
            )
        with whole_folder(out, replace=True) as staged:
            write_text(
                staged / PREDICTIONS, "".join(jsonl_line(row.to_json()) for row in self.rows)
            )
            # A name beside this file, not a path of this machine.
            write_json(staged / SCORES, self.to_json(Path(PREDICTIONS)))
        return out / PREDICTIONS


def _entries(scores: Mapping[str, Score] | None) -> dict[str, object] | None:
    return None if scores is None else {name: entry.to_json() for name, entry in scores.items()}


def sample_places(total: int, count: int | None) -> list[int]:
    """Returns the places of ``count`` of ``total`` items, ascending: a random sample, the same one
    every time.
    """
    if count is None or count >= total:
        return list(range(total))
    return sorted(random.Random(SEED).sample(range(total), count))


def group_references(
    sources: Iterable[str], targets: Iterable[str]
) -> tuple[list[str], list[list[str]]]:
    """Returns the unique sources in order of first appearance, and every target each of them came
    with.

    Raises:
        ValueError: more of one than of the other.
    """
    grouped: dict[str, list[str]] = {}
    for source, target in zip(sources, targets, strict=True):
        grouped.setdefault(source, []).append(target)
    return list(grouped), list(grouped.values())


def evaluate(
    predictor: Predictor,
    sources: Sequence[str],
    references: References,
    *,
    metrics: Sequence[str],
    settings: DecodingSettings,
    baseline: Predictor | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Decodes unique sources, scores them against all their raw references, and compares with a
    baseline.

    Args:
        predictor: the model under test.
        sources: rendered sources, each once (:func:`group_references`).
        references: all raw target texts of each source.
        metrics: names from ``metrics.METRICS``.
        settings: decoding limits, the same for both models.
        baseline: usually ``predictor.baseline()``.
        limit: score a random sample of so many sources; the same one every time, in the order
            given.
        progress: called with (what, sources done, sources in all).

    Raises:
        UsageError: an unknown metric.
        DataError: nothing to score.
    """
    check_metrics(metrics)
    total, are_labels = len(sources), bool(references) and distinct_labels(references) is not None
    places = sample_places(total, limit)
    sources, references = (
        [sources[place] for place in places],
        [references[place] for place in places],
    )
    if not sources:
        raise DataError("there is nothing to score: no rows")
    answers = decode(predictor, sources, settings, _named(progress, "decode"))
    texts = [answer.text for answer in answers]
    unstopped = sum(not answer.stopped for answer in answers)
    measured, base_measured, base_texts = measure(texts, references, metrics), None, None
    if baseline is not None:
        base_texts = [
            answer.text
            for answer in decode(baseline, sources, settings, _named(progress, "baseline"))
        ]
        base_measured = (
            measured if base_texts == texts else measure(base_texts, references, metrics)
        )
    scores, labels = scores_of(measured), label_table(texts, references) if are_labels else None
    answered = Answers(texts, references, unstopped, settings.max_new_tokens, base_texts)
    return Evaluation(
        n=len(sources),
        metrics=scores,
        baseline=None if base_measured is None else scores_of(base_measured),
        difference=None if base_measured is None else compare(measured, base_measured),
        rows=_rows(sources, references, texts, base_texts),
        settings=settings,
        references=sum(map(len, references)),
        unstopped=unstopped,
        sources=total,
        labels=labels,
        notes=notes_on(answered, scores, labels),
    )


def _rows(
    sources: Sequence[str],
    references: References,
    texts: Sequence[str],
    base_texts: Sequence[str] | None,
) -> tuple[EvaluatedRow, ...]:
    bases: Sequence[str | None] = base_texts if base_texts is not None else [None] * len(texts)
    return tuple(map(EvaluatedRow, sources, map(tuple, references), texts, bases))


def _named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)


def record_scores(adapter_dir: Path, name: str, evaluation: Evaluation) -> None:
    """Puts an evaluation under ``scores`` → ``name`` of an adapter's manifest.

    Raises:
        DataError: the manifest is missing or is not an object.
    """
    entry = {key: value for key, value in evaluation.to_json().items() if key != "predictions"}
    add_scores(adapter_dir, name, entry)
