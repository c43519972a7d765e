"""``predict``: texts or rows in, answers out, in the same order."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands._options import Base, Model, Sets


def predict(
    model: Model,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT …]", help="Texts to answer; - reads lines from stdin."),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--input", metavar="FILE", help=".txt: a line each; .jsonl, .csv, …: rows."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE", help="Written whole; stdout by default."),
    ] = None,
    base: Base = None,
    sets: Sets = None,
) -> None:
    """Answer texts or rows. Rows keep their fields and gain a "prediction".

    --set evaluation.num_beams=4 and the like change the decoding.
    """
    from lora_s2s.commands._pipeline import check_writable
    from lora_s2s.commands._scoring import decoding_settings, recipe_of
    from lora_s2s.commands._texts import read_inputs, rendered
    from lora_s2s.console import ProgressLine, plain, say, write_out
    from lora_s2s.files import write_text
    from lora_s2s.inference.decode import decode
    from lora_s2s.inference.loading import load_predictor

    inputs = read_inputs(texts or [], file)
    if output:
        check_writable(Path(output).parent)
    section = recipe_of(model, sets or ())
    predictor = load_predictor(model, base=base, dtype=section.model.dtype)
    sources = rendered(predictor, inputs)
    with ProgressLine("predict") as line:
        answers = decode(
            predictor,
            sources,
            decoding_settings(section.evaluation),
            (lambda done, total: line.update({}, done=done, total=total)) if len(sources) > 1 else None,
        )
    written = inputs.written([answer.text for answer in answers])
    if output:
        write_text(Path(output), written)
        say(f"{len(answers):,} predictions: {output}")
    elif sys.stdout.isatty():
        # A terminal acts on control characters; a pipe gets the text as it is.
        write_out("\n".join(plain(line) for line in written.splitlines()))
    else:
        write_out(written.removesuffix("\n"))
