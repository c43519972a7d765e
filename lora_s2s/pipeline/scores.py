"""The result of an evaluation, and where it is recorded. Heavy to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from lora_s2s.evaluation.evaluate import Evaluation, record_scores
from lora_s2s.hub import EVALUATIONS, is_trained
from lora_s2s.outputs import check_results
from lora_s2s.pipeline import html
from lora_s2s.pipeline.ranks import ALONE, Ranks
from lora_s2s.pipeline.trained_on import trained_on_note
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import has_manifest
from lora_s2s.reports.adapter_page import write_report
from lora_s2s.reports.card import write_card
from lora_s2s.reports.summary import with_interval

if TYPE_CHECKING:
    from lora_s2s.display import Display
    from lora_s2s.pipeline.recipes import Name


class EvaluationOptions(TypedDict, total=False):
    """Keyword arguments of :func:`lora_s2s.evaluate`."""

    baseline: bool
    against: Name | None
    predictions: Name | None
    limit: int | None
    out: Name | None
    base: Name | None
    engine: str | None
    resume: bool
    overrides: Mapping[str, object] | None
    progress: bool | Display


@dataclass(frozen=True)
class Asked:
    """What is scored, on what, and compared with what.

    Attributes:
        data: files, or a folder of prepared data; the recipe's test data if None.
        baseline: score the base too.
        against: another model, or a file of predictions, that is scored too.
        predictions: score a file of predictions; nothing is decoded.
        limit: score a random sample of so many sources.
        out: the folder of the results; in the adapter's folder by default.
        base: a base in place of the one that the adapter names; results on it stay out of the
            adapter's folder, since they are not its own.
        engine: ``torch``, or a runtime that the model is exported to first, in float32; by default
            what the folder is made for.
        resume: continue an evaluation that was stopped.
        ranks: the processes that decode together, of which the first scores and writes.
    """

    data: str | Sequence[str] | None = None
    baseline: bool = False
    against: str | None = None
    predictions: str | None = None
    limit: int | None = None
    out: Path | None = None
    base: str | None = None
    engine: str | None = None
    resume: bool = False
    ranks: Ranks = ALONE


@dataclass(frozen=True, kw_only=True)
class Scores(Evaluation):
    """What a model scored, and where its predictions are.

    Attributes:
        predictions: the file of sources, references and answers; None where none was written.
        report: the adapter's page, if it was refreshed.
    """

    predictions: Path | None
    report: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """The object of ``eval --json``."""
        return self.to_json(self.predictions)

    def _repr_html_(self) -> str:
        return html.scored(self.to_dict())

    def __repr__(self) -> str:
        others = {"base": (self.baseline, self.difference)}
        if against := self.against:
            others[against.name] = against.metrics, against.difference
        lines = []
        for metric, score in self.metrics.items():
            line = f"{metric} {score.value:.2f}"
            for other, (theirs, change) in others.items():
                if theirs and change:
                    difference = with_interval(change[metric].to_json(), signed=True)
                    line += f" ({other} {theirs[metric].value:.2f}, difference {difference})"
            lines.append(line)
        apart = ",\n       " if self.baseline or self.against else ", "
        return f"Scores({apart.join(lines)}; n={self.n})"


@dataclass(frozen=True)
class Place:
    """Where results go: a folder, if they are written, and the adapter whose own they are."""

    name: str
    folder: Path | None
    home: Path | None = None


def place_of(model: str | None, name: str, asked: Asked) -> Place:
    """Where the results of a model on data of some name go, which is checked to be writable."""
    path = None if model is None else Path(model).expanduser()
    own = path is not None and path.is_dir() and is_trained(path)
    home = path if own and asked.base is None and asked.predictions is None else None
    folder = asked.out or (home / EVALUATIONS / name if home else None)
    if folder is not None:
        check_results(folder)
    return Place(name, folder, home)


def with_training_note(
    evaluation: Evaluation, model: str, recipe: Recipe, files: str | Sequence[str]
) -> Evaluation:
    """Adds a note if the model was trained on scored sources; see :func:`trained_on_note`."""
    note = trained_on_note(model, recipe, files, [row.source for row in evaluation.rows])
    return replace(evaluation, notes=(note, *evaluation.notes)) if note else evaluation


def written(evaluation: Evaluation, place: Place) -> Scores:
    """Writes predictions, and refreshes the manifest, card and report of the adapter whose own
    evaluation it is.
    """
    predictions = evaluation.write(place.folder) if place.folder is not None else None
    report = None
    if place.home and has_manifest(place.home):  # other tools' adapters have none
        record_scores(place.home, place.name, evaluation)
        report = write_report(place.home)
        write_card(place.home)
    return Scores(**vars(evaluation), predictions=predictions, report=report)
