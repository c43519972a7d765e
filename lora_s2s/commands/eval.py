"""``eval``: decode, score, compare with the base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands._options import Base, Constraint, Json, Model, Sets, with_option


def evaluate(
    model: Model,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="What to score on; the recipe's test data by default; repeats.",
        ),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Score the base too, and the difference.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Score a random sample of N sources.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where predictions go; ADAPTER/evaluations/DATA by default.",
        ),
    ] = None,
    base: Base = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="E",
            help="torch, or a runtime to export to first (ct2). Default: what the folder is made "
            "for.",
        ),
    ] = None,
    constraint: Constraint = None,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Score a model or adapter against all references of each source, with 95 % intervals."""
    from lora_s2s.commands._show import show_scores
    from lora_s2s.console import say, write_json
    from lora_s2s.pipeline.evaluate import score_model
    from lora_s2s.pipeline.names import located

    model = located(model)
    named = data[0] if data and len(data) == 1 else data or None
    scores = score_model(
        model,
        data=named,
        baseline=baseline,
        limit=limit,
        out=Path(out) if out else None,
        base=base,
        engine=engine,
        overrides=with_option(sets, constraint),
    )
    show_scores(f"{model}: {scores.n:,} sources", scores.to_dict())
    if scores.predictions:
        say(f"predictions: {scores.predictions}")
    if json:
        write_json(scores.to_dict())
