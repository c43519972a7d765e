"""``predict``: texts or rows in, answers out, in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands._options import Base, Model, Sets, check_output


def predict(
    model: Model,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT …]", help="Texts to answer; - reads lines from stdin."),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Input file: one text per line (.txt) or one record per row (.jsonl, .csv, …); - "
            "reads stdin.",
        ),
    ] = None,
    literal: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="TEXT", help="A text that is also a file's name; repeats."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Output file, written at once: .jsonl: rows; .csv and .tsv: rows of such an "
            "input. Default: stdout.",
        ),
    ] = None,
    base: Base = None,
    sets: Sets = None,
) -> None:
    """Answer texts or rows. Rows keep their fields and gain a "prediction"; CSV stays CSV.

    --set evaluation.num_beams=4 and the like change the decoding.
    """
    from lora_s2s.console import require_stdout, say, write_out

    if not output:
        require_stdout()
    from lora_s2s.outputs import write_output
    from lora_s2s.pipeline.adapters import recipe_of
    from lora_s2s.pipeline.model import predictor_of
    from lora_s2s.pipeline.names import located
    from lora_s2s.pipeline.predict import answer, rendered, template_lines
    from lora_s2s.pipeline.texts import check_kind, read_inputs, refuse_file_names

    refuse_file_names(texts or [])
    model = located(model)
    recipe = recipe_of(model, sets or ())
    inputs = read_inputs(
        [*(texts or []), *(literal or [])], file, parallel=recipe.data.format == "parallel"
    )
    if output:
        check_output(Path(output))
        check_kind(output, inputs)
    predictor = predictor_of(model, recipe, base)
    for line in template_lines(predictor, inputs):
        say(line)
    answers = answer(predictor, rendered(predictor, inputs), recipe.evaluation, label="predict")
    written = inputs.written(answers, output=output)
    if output:
        write_output(Path(output), written)
        say(f"{len(answers):,} predictions: {output}")
        return
    write_out(written.removesuffix("\n"))
