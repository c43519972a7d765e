"""Decode, score, compare, and write what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation.metrics import Difference, Score, check_metrics, compare, measure, scores_of
from lora_s2s.files import jsonl_line, read_json, write_json, write_text
from lora_s2s.inference.decode import DecodingSettings, decode
from lora_s2s.inference.loading import MANIFEST, Predictor
from lora_s2s.outputs import whole_folder

PREDICTIONS = "predictions.jsonl"
SCORES = "scores.json"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EvaluatedRow:
    """One unique source, all its references, and what the model (and the base, where asked) answered."""

    source: str
    references: tuple[str, ...]
    prediction: str
    baseline: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the row of ``predictions.jsonl``; ``baseline`` only where there is one."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Evaluation:
    """The outcome for ``n`` unique sources; ``unstopped`` counts answers that met the length limit."""

    n: int
    metrics: dict[str, Score]
    baseline: dict[str, Score] | None
    difference: dict[str, Difference] | None
    rows: tuple[EvaluatedRow, ...]
    settings: DecodingSettings
    references: int
    unstopped: int

    def to_json(self, predictions: Path | None = None) -> dict[str, Any]:
        """Returns the contract's ``eval`` object; ``predictions`` is where the rows were written."""
        return {
            "n": self.n,
            "metrics": _entries(self.metrics),
            "baseline": _entries(self.baseline),
            "difference": _entries(self.difference),
            "predictions": None if predictions is None else str(predictions),
            "references": self.references,
            "unstopped": self.unstopped,
            "decoding": asdict(self.settings),
        }

    def write(self, out: Path) -> Path:
        """Writes ``predictions.jsonl`` and ``scores.json`` into ``out``, whole or not at all; an earlier pair goes.

        Returns:
            the path of ``predictions.jsonl``.

        Raises:
            UsageError: ``out`` holds other files, which would be lost, or it cannot be written.
        """
        if foreign := sorted(item.name for item in out.glob("*") if item.name not in (PREDICTIONS, SCORES)):
            raise UsageError(f"{out} holds other files ({foreign[0]}, …)", hint="give --out a folder of its own")
        with whole_folder(out, replace=True) as staged:
            write_text(staged / PREDICTIONS, "".join(jsonl_line(row.to_json()) for row in self.rows))
            # A name beside this file, not a path of this machine.
            write_json(staged / SCORES, self.to_json(Path(PREDICTIONS)))
        return out / PREDICTIONS


def _entries(scores: Mapping[str, Score] | None) -> dict[str, Any] | None:
    return None if scores is None else {name: entry.to_json() for name, entry in scores.items()}


def group_references(sources: Iterable[str], targets: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    """Returns the unique sources in order of first appearance, and every target each of them came with.

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
    references: Sequence[Sequence[str]],
    *,
    metrics: Sequence[str],
    settings: DecodingSettings,
    baseline: Predictor | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Decodes unique sources, scores them against all their raw references, and compares with a baseline.

    Args:
        predictor: the model under test.
        sources: rendered sources, each once (:func:`group_references`).
        references: all raw target texts of each source.
        metrics: names from ``metrics.METRICS``.
        settings: decoding limits, the same for both models.
        baseline: usually ``predictor.baseline()``.
        limit: score the first so many sources only.
        progress: called with (what, sources done, sources in all).

    Raises:
        UsageError: an unknown metric.
        DataError: nothing to score.
    """
    check_metrics(metrics)
    sources, references = sources[:limit], references[:limit]
    if not sources:
        raise DataError("there is nothing to score: no rows")
    answers = decode(predictor, sources, settings, _named(progress, "decode"))
    texts = [answer.text for answer in answers]
    measured, base_measured = measure(texts, references, metrics), None
    base_texts: Sequence[str | None] = [None] * len(texts)
    if baseline is not None:
        base_answers = [answer.text for answer in decode(baseline, sources, settings, _named(progress, "baseline"))]
        base_texts, base_measured = base_answers, measure(base_answers, references, metrics)
    return Evaluation(
        n=len(sources),
        metrics=scores_of(measured),
        baseline=None if base_measured is None else scores_of(base_measured),
        difference=None if base_measured is None else compare(measured, base_measured),
        rows=tuple(map(EvaluatedRow, sources, map(tuple, references), texts, base_texts)),
        settings=settings,
        references=sum(map(len, references)),
        unstopped=sum(not answer.stopped for answer in answers),
    )


def _named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)


def record_scores(adapter_dir: Path, name: str, evaluation: Evaluation) -> dict[str, Any]:
    """Puts an evaluation under ``scores`` → ``name`` of an adapter's manifest and returns the manifest.

    Raises:
        DataError: the manifest is missing or is not an object.
    """
    path = adapter_dir / MANIFEST
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise DataError("the manifest is not an object", where=str(path))
    scores = manifest.get("scores")
    entry = {key: value for key, value in evaluation.to_json().items() if key != "predictions"}
    manifest["scores"] = {**(scores if isinstance(scores, dict) else {}), name: entry}
    write_json(path, manifest)
    return manifest
