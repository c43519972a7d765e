"""``eval``: decode, score, compare with the base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_s2s.commands import _complete
from lora_s2s.commands._options import (
    AnsweringProcesses,
    Base,
    Constraint,
    Json,
    Sets,
    several,
    with_options,
)

if TYPE_CHECKING:
    from lora_s2s.pipeline.scores import Asked

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL_OR_ADAPTER …",
        help="Adapter or its name in adapters/, model folder, hub id, or demo. Several: each "
        "is scored and compared with the first.",
        autocompletion=_complete.models,
    ),
]
EvalData = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        help="What to score on, files or a folder of prepared data; the recipe's test data by "
        "default; repeats.",
    ),
]
Baseline = Annotated[
    bool, typer.Option("--baseline", help="Score the base too, and the difference.")
]
Against = Annotated[
    str | None,
    typer.Option(
        metavar="M",
        help="Score another model, or a file of predictions, too, and the difference.",
        autocompletion=_complete.models,
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Score predictions made elsewhere (.jsonl, .csv, …, or one per line) against the "
        "references in the file, or those of --data.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Score a random sample of N sources."),
]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Where predictions go; ADAPTER/evaluations/DATA by default.",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="E",
        help="torch, or a runtime to export to first (ct2). Default: what the folder is made for.",
        autocompletion=_complete.words("torch", "ct2", "onnx"),
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an evaluation that was stopped.")]


def evaluate(
    models: Models = None,
    data: EvalData = None,
    baseline: Baseline = False,
    against: Against = None,
    predictions: From = None,
    limit: Limit = None,
    out: Out = None,
    base: Base = None,
    engine: Engine = None,
    resume: Resume = False,
    constraint: Constraint = None,
    sets: Sets = None,
    processes: AnsweringProcesses = 1,
    json: Json = False,
    context: typer.Context = None,  # type: ignore[assignment]
) -> None:
    """Score a model or adapter against all references of each source, with 95 % intervals."""
    from lora_s2s.errors import UsageError

    if not models and predictions is None:
        raise UsageError(
            "expected a model, an adapter or predictions",
            hint="lora-s2s eval adapters/demo, or --from predictions.jsonl",
        )
    from lora_s2s.outputs import check_results
    from lora_s2s.pipeline.names import located_model
    from lora_s2s.readers.origins import check_there

    named = [located_model(model) for model in models or ()]
    if several(processes) and predictions is not None:
        raise UsageError(
            "--from decodes nothing: several processes have nothing to share",
            hint="run it in one process",
        )
    if processes > 1:
        from lora_s2s.pipeline.launch import in_processes

        raise typer.Exit(in_processes(processes, context.obj, saving=False))
    check_there([*(data or ()), *([predictions] if predictions else ())])
    if out and len(named) < 2:
        check_results(Path(out))
    from lora_s2s.pipeline.ranks import together
    from lora_s2s.pipeline.scores import Asked

    with together() as ranks:
        asked = Asked(
            data=data[0] if data and len(data) == 1 else data or None,
            baseline=baseline,
            against=against,
            predictions=predictions,
            limit=limit,
            out=Path(out) if out else None,
            base=base,
            engine=engine,
            resume=resume,
            ranks=ranks,
        )
        _score(named, asked, with_options(sets, constraint=constraint), json=json)


def _score(named: list[str], asked: Asked, overrides: list[str], *, json: bool) -> None:
    from lora_s2s.commands._show import next_prediction, show_several, show_written
    from lora_s2s.console import say, write_json
    from lora_s2s.pipeline.evaluate import answer_for_the_first, score_model
    from lora_s2s.pipeline.several import score_several

    if not asked.ranks.first:
        answer_for_the_first(named, asked, overrides)
        return
    if len(named) > 1:
        several = score_several(named, asked, overrides)
        show_several(several)
        result = several.to_dict()
    else:
        scores = score_model(named[0] if named else None, asked, overrides)
        show_written(asked.predictions or named[0], scores)
        result = scores.to_dict()
        if named:  # with probabilities of labels, no answer is another text
            chosen = " --scores" * bool((result.get("labels") or {}).get("probabilities"))
            say(f"next: {next_prediction(named[0])}{chosen}")
    if json:
        write_json(result)
