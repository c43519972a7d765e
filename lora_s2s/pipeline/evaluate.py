"""Scores a model or an adapter, and says where the scores go. Heavy to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_s2s.console import ProgressLine, say
from lora_s2s.errors import UsageError
from lora_s2s.evaluation.evaluate import Evaluation, duration_note, evaluate, record_scores
from lora_s2s.hub import ADAPTER_CONFIG, EVALUATIONS
from lora_s2s.outputs import check_writable
from lora_s2s.pipeline import html
from lora_s2s.pipeline.adapters import NO_DATA, names_code, recipe_of, trusted_metrics
from lora_s2s.pipeline.engines import predictor_on
from lora_s2s.pipeline.followed import followed, with_constraint
from lora_s2s.pipeline.label_scores import LabelTask
from lora_s2s.pipeline.predict import decoding_settings
from lora_s2s.pipeline.scored_data import check_files, chosen_metrics, scored_data
from lora_s2s.recipe.layers import Overrides, overridden_keys
from lora_s2s.records import has_manifest
from lora_s2s.reports.adapter_page import write_report
from lora_s2s.reports.card import write_card

_COLUMNS = {"data.source_column", "data.target_column"}


@dataclass(frozen=True, kw_only=True)
class Scores(Evaluation):
    """What a model scored, and where its predictions are.

    Attributes:
        predictions: the file of sources, references and answers; None where none was written.
    """

    predictions: Path | None

    def to_dict(self) -> dict[str, Any]:
        """The object of ``eval --json``."""
        return self.to_json(self.predictions)

    def _repr_html_(self) -> str:
        return html.scored(self.to_dict())

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {score.value:.2f}" for name, score in self.metrics.items())
        return f"Scores({scores}; n={self.n})"


def score_model(
    model: str,
    *,
    data: str | Sequence[str] | None = None,
    baseline: bool = False,
    limit: int | None = None,
    out: Path | None = None,
    base: str | None = None,
    engine: str | None = None,
    overrides: Overrides = (),
) -> Scores:
    """Decodes and scores; writes predictions and refreshes the adapter's manifest, card and report.

    Results on another base (``base``) stay out of the adapter's folder: they are not its own.

    Args:
        engine: ``torch``, or a runtime that the model is exported to first, in float32; by default
            what the folder is made for.
    """
    if data is not None:
        check_files(data)
    recipe = recipe_of(
        model, overrides, data=data if data is None or isinstance(data, str) else data[0]
    )
    if data is None and recipe.data.train != NO_DATA:
        recipe = followed(recipe, model, overrides)
    recipe = with_constraint(recipe, model, overrides)
    predictor = predictor_on(engine, model, recipe, base=base, data=data)
    if names_code(format := predictor.settings.format, overrides):
        raise UsageError(
            f"the model's folder names a function to read rows with, '{format}': it runs only "
            "where you name it",
            hint=f"--set data.format={format}",
        )
    columns_named = not _COLUMNS.isdisjoint(overridden_keys(overrides))
    scored = scored_data(recipe, predictor, data, columns_named=columns_named)
    metrics = chosen_metrics(trusted_metrics(recipe, overrides), scored)
    count, total = limit or recipe.evaluation.limit, len(scored.sources)
    systems = 2 if baseline else 1
    if note := duration_note(metrics, scored.references, limit=count, systems=systems):
        say(note)
    name = scored.name
    if count and count < total:
        name = f"{name}-sample-{count}"
        say(f"scoring a random sample of {count:,} of {total:,} sources, the same one every time")
    path = Path(model).expanduser()
    home = path if (path / ADAPTER_CONFIG).is_file() and base is None else None
    folder = out or (home / EVALUATIONS / name if home else None)
    if folder is not None:
        check_writable(folder.parent)
    with ProgressLine("eval") as line:
        evaluation = evaluate(
            predictor,
            scored.sources,
            scored.references,
            metrics=metrics,
            settings=decoding_settings(recipe.evaluation, predictor.settings),
            baseline=predictor.baseline() if baseline else None,
            limit=count,
            progress=lambda what, done, total: line.update({"": what}, done=done, total=total),
        )
    if evaluation.labels is not None:
        task = LabelTask(model, predictor, recipe, overrides)
        evaluation = replace(evaluation, probabilities=task.probabilities(evaluation))
    written = evaluation.write(folder) if folder is not None else None
    if home and has_manifest(home):  # other tools' adapters have none
        record_scores(home, name, evaluation)
        write_report(home)
        write_card(home)
    return Scores(**vars(evaluation), predictions=written)
