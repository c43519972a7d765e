"""Score answers, compare them with those of a baseline, write the results."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lora_s2s.evaluation.labels import LabelTable, distinct_labels, label_table
from lora_s2s.evaluation.metrics import (
    Difference,
    Score,
    check_fit,
    check_metrics,
    compare,
    metrics_in,
    scores_of,
    without_value,
)
from lora_s2s.evaluation.notes import BASE, Answers, enough_sources, notes_on
from lora_s2s.evaluation.probabilities import ProbabilityScores
from lora_s2s.evaluation.tasks import Scored, TaskIntervals, by_task, intervals_by_task
from lora_s2s.evaluation.ter import time_note
from lora_s2s.evaluation.texts import Losses, References
from lora_s2s.files import jsonl_line, write_json, write_text
from lora_s2s.inference.decode import Prediction, ScoredAnswer
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.outputs import PREDICTIONS, SCORES, check_results, whole_folder
from lora_s2s.records import add_scores

_SEED = 12345  # of the sample


@dataclass(frozen=True)
class EvaluatedRow:
    """One unique source with its references, and the answers of the model, of the scored base, and
    of the model it is compared with; ``n_best`` are several of the model's with scores.
    """

    source: str
    references: tuple[str, ...]
    prediction: str
    baseline: str | None = None
    against: str | None = None
    n_best: tuple[ScoredAnswer, ...] | None = None

    def to_json(self) -> dict[str, object]:
        """The row of ``predictions.jsonl``; what was not asked for is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Answered:
    """Answers to the same sources: the model's, its base's, and those of another model ``other``.

    ``settings`` is None for answers that were made elsewhere. ``losses`` are those of the three
    systems on the references, where a metric needs them.
    """

    answers: Sequence[Prediction]
    settings: DecodingSettings | None
    baseline: Sequence[Prediction] | None = None
    other: str = ""
    against: Sequence[Prediction] | None = None
    losses: tuple[Losses | None, ...] = (None, None, None)


@dataclass(frozen=True)
class Comparison:
    """Another model on the same sources: its scores, the differences model − other, and how many of
    its answers reached the length limit.
    """

    name: str
    metrics: dict[str, Score]
    difference: dict[str, Difference]
    unstopped: int = 0

    def to_json(self) -> dict[str, object]:
        """The field ``against`` of ``eval --json``."""
        return {
            "name": self.name,
            "metrics": _entries(self.metrics),
            "difference": _entries(self.difference),
            "unstopped": self.unstopped,
        }


@dataclass(frozen=True)
class Evaluation:
    """The outcome for ``n`` unique sources.

    Attributes:
        references: how many there are in total.
        unstopped: answers that reached the length limit; ``baseline_unstopped`` are the base's.
        sources: how many there are; ``n`` of them are scored, a random sample if fewer.
        labels: counts of each label, if the references are labels.
        probabilities: how good the probabilities of labels are, if they were scored.
        notes: what limits the reliability of the scores.
        against: the comparison with another model.
        enough: one sentence on the differences that ``n`` sources can show, if there is one.
        tasks: the model's scores by task, and ``n``, if scores are means over tasks;
            ``task_intervals`` are those of the scores.
    """

    n: int
    metrics: dict[str, Score]
    baseline: dict[str, Score] | None
    difference: dict[str, Difference] | None
    rows: tuple[EvaluatedRow, ...]
    settings: DecodingSettings | None
    references: int
    unstopped: int
    sources: int
    baseline_unstopped: int | None = None
    labels: LabelTable | None = None
    notes: tuple[str, ...] = ()
    probabilities: ProbabilityScores | None = None
    against: Comparison | None = None
    enough: str | None = None
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    task_intervals: TaskIntervals = field(default_factory=dict)

    def to_json(self, predictions: Path | None = None) -> dict[str, object]:
        """The object of ``eval --json``; ``predictions`` is the file of the rows."""
        return {
            "n": self.n,
            "metrics": _entries(self.metrics),
            "baseline": _entries(self.baseline),
            "difference": _entries(self.difference),
            "predictions": None if predictions is None else str(predictions),
            "references": self.references,
            "unstopped": self.unstopped,
            "baseline_unstopped": self.baseline_unstopped,
            "decoding": self._decoding(),
            "sources": self.sources,
            "labels": self._labels(),
            "notes": list(self.notes),
            "against": None if self.against is None else self.against.to_json(),
            "enough": self.enough,
            **self._by_task(),
        }

    def _by_task(self) -> dict[str, object]:
        return {"tasks": self.tasks, "task_intervals": self.task_intervals} if self.tasks else {}

    def _decoding(self) -> dict[str, object] | None:
        if self.settings is None:
            return None
        constraint = self.settings.constraint
        listed = list(constraint) if isinstance(constraint, tuple) else constraint
        return {**asdict(self.settings), "constraint": listed}

    def _labels(self) -> dict[str, object] | None:
        if self.labels is None:
            return None
        scored = None if self.probabilities is None else asdict(self.probabilities)
        return {**self.labels.to_json(), "probabilities": scored}

    def write(self, out: Path) -> Path:
        """Writes ``predictions.jsonl`` and ``scores.json`` into ``out`` atomically, replacing an
        earlier pair; returns the path of the former.

        Raises:
            UsageError: see :func:`lora_s2s.outputs.check_results`.
        """
        check_results(out)
        with whole_folder(out, replace=True) as staged:
            write_text(
                staged / PREDICTIONS, "".join(jsonl_line(row.to_json()) for row in self.rows)
            )
            # The name of a file in the same folder, not a local path.
            write_json(staged / SCORES, self.to_json(Path(PREDICTIONS)))
        return out / PREDICTIONS


def _entries(scores: Mapping[str, Score] | None) -> dict[str, object] | None:
    return None if scores is None else {name: entry.to_json() for name, entry in scores.items()}


def sample_places(total: int, count: int | None) -> list[int]:
    """Indices of a fixed random sample of ``count`` of ``total`` items, ascending."""
    if count is None or count >= total:
        return list(range(total))
    return sorted(random.Random(_SEED).sample(range(total), count))


def duration_note(
    metrics: Sequence[str], references: References, *, limit: int | None, systems: int
) -> str | None:
    """Returns what to say before decoding if a metric takes minutes.

    Raises:
        UsageError: an unknown metric, one with nothing to count, or a text too long for it.
    """
    check_metrics(metrics)
    places = sample_places(len(references), limit)
    check_fit(metrics, [references[place] for place in places])
    if "ter" not in metrics_in(metrics):
        return None
    return time_note([references[place] for place in places], systems=systems)


def group_references(
    sources: Iterable[str], targets: Iterable[str]
) -> tuple[list[str], list[list[str]]]:
    """The unique sources in order of first appearance, and all targets of each.

    Raises:
        ValueError: the numbers of sources and targets differ.
    """
    grouped: dict[str, list[str]] = {}
    for source, target in zip(sources, targets, strict=True):
        grouped.setdefault(source, []).append(target)
    return list(grouped), list(grouped.values())


def assess(
    sources: Sequence[str],
    references: References,
    answered: Answered,
    *,
    places: Sequence[int],
    metrics: Sequence[str],
    trained_labels: Collection[str] = (),
    tasks: Sequence[str] = (),
) -> Evaluation:
    """Scores answers against all raw references, and compares with those of other systems.

    Args:
        sources: rendered sources, each once (:func:`group_references`).
        references: all raw target texts of each source.
        answered: the answers to the sources at ``places``.
        metrics: names from ``metrics.METRICS``.
        trained_labels: what the model was trained to answer, where that is a set of labels.
        tasks: that of each source; scores are then means over tasks.

    Raises:
        UsageError: an unknown metric, or one that does not fit the references.
    """
    total = len(sources)
    are_labels = bool(references) and distinct_labels(references, trained_labels) is not None
    sources = [sources[place] for place in places]
    references = [references[place] for place in places]
    texts = _texts(answered.answers)
    given = sources if any(sources) else None  # predictions made elsewhere may lack them
    own, *theirs = answered.losses
    in_tasks = [tasks[place] for place in places] if tasks else []
    scored = Scored(references, metrics, given, in_tasks)
    measured = scored.measured(texts, own)
    their_answers = (answered.baseline, answered.against)
    their_texts = [None if some is None else _texts(some) for some in their_answers]
    others = [
        measured
        if other is None or (other == texts and losses == own)
        else scored.measured(other, losses)
        for other, losses in zip(their_texts, theirs, strict=True)
    ]
    undefined = without_value(measured, *others)
    for system in (measured, *others):
        for name in undefined:
            system.pop(name, None)
    scores, labels = scores_of(measured), label_table(texts, references) if are_labels else None
    base, against = (
        None
        if some is None
        else Comparison(name, scores_of(other), compare(measured, other), _unstopped(some))
        for name, some, other in zip((BASE, answered.other), their_answers, others, strict=True)
    )
    unstopped = [_unstopped(some or ()) for some in (answered.answers, *their_answers)]
    limit = answered.settings.max_new_tokens if answered.settings else 0
    about = Answers(texts, references, unstopped, limit, answered.other, *their_texts)
    compared = against or base
    return Evaluation(
        n=len(sources),
        metrics=scores,
        baseline=None if base is None else base.metrics,
        difference=None if base is None else base.difference,
        rows=_rows(sources, references, answered),
        settings=answered.settings,
        references=sum(map(len, references)),
        unstopped=unstopped[0],
        sources=total,
        baseline_unstopped=None if base is None else base.unstopped,
        labels=labels,
        notes=(*notes_on(about, scores, labels), *map(_undefined, undefined)),
        against=against,
        enough=enough_sources(len(sources), compared.difference) if compared else None,
        tasks=by_task(measured, in_tasks),
        task_intervals=intervals_by_task(measured),
    )


def _texts(answers: Sequence[Prediction]) -> list[str]:
    return [answer.text for answer in answers]


def _unstopped(answers: Sequence[Prediction]) -> int:
    return sum(not answer.stopped for answer in answers)


def _undefined(metric: str) -> str:
    return f"{metric} is omitted: not a number (a division by zero, or a root of a negative number)"


def _rows(
    sources: Sequence[str], references: References, answered: Answered
) -> tuple[EvaluatedRow, ...]:
    nothing = [None] * len(answered.answers)
    systems = (answered.answers, answered.baseline, answered.against)
    texts = [nothing if answers is None else _texts(answers) for answers in systems]
    several = [answer.n_best or None for answer in answered.answers]
    return tuple(map(EvaluatedRow, sources, map(tuple, references), *texts, several))


def record_scores(adapter_dir: Path, name: str, evaluation: Evaluation) -> None:
    """Records an evaluation as ``scores`` → ``name`` in an adapter's manifest.

    Raises:
        DataError: the manifest is missing or not an object.
    """
    entry = {key: value for key, value in evaluation.to_json().items() if key != "predictions"}
    add_scores(adapter_dir, name, entry)
