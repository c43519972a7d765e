"""``predict``: texts or rows in, answers out, in the same order."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_s2s.commands._options import (
    AnsweringProcesses,
    Base,
    Constraint,
    DecodedBy,
    Mbr,
    Model,
    Sets,
    check_output,
    several,
    with_options,
)
from lora_s2s.console import require_stdout, say, write_out
from lora_s2s.errors import Error, UsageError, again

if TYPE_CHECKING:
    from lora_s2s.inference.engine import DecodingSettings
    from lora_s2s.inference.predictor import Predictor
    from lora_s2s.pipeline.inputs import Inputs
    from lora_s2s.pipeline.predict import Work


File = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="FILE",
        help="Input file: one text per line (.txt) or one record per row (.jsonl, .csv, …); - "
        "reads stdin.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Output file, complete or not at all. .jsonl, .parquet: rows; .csv and .tsv: rows "
        "of such an input. Default: stdout.",
    ),
]
Scores = Annotated[
    bool,
    typer.Option(
        "--scores",
        help="Choose the most likely label. Rows gain its probability among the labels (those of "
        "all labels, scores, sum to 1) and log_prob, the logarithm of its probability among all "
        "texts. Labels: those of the training targets, or --labels.",
    ),
]
NBest = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Answer with the N best beams, or N samples, and their log-probabilities.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="LABELS",
        help="For --scores: a file (a label a line, or a JSON list), or 'yes, no'.",
    ),
]

_NOT_CONSTRAINED = "--scores chooses among these labels; evaluation.constraint is not used"


def predict(
    model: Model,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT …]", help="Texts to answer; - reads lines from stdin."),
    ] = None,
    file: File = None,
    literal: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="TEXT", help="A text that is also a file's name; repeats."),
    ] = None,
    output: Output = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue what a stopped command left (FILE.part)."),
    ] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Answer line by line, as a chat.")
    ] = False,
    scores: Scores = False,
    labels: Labels = None,
    base: Base = None,
    constraint: Constraint = None,
    n_best: NBest = None,
    decoding: DecodedBy = None,
    mbr: Mbr = None,
    sets: Sets = None,
    processes: AnsweringProcesses = 1,
    context: typer.Context = None,  # type: ignore[assignment]
) -> None:
    """Answer texts or rows. Rows keep their fields and gain a "prediction"; CSV stays CSV.

    --set evaluation.num_beams=4 and the like change the decoding. --scores decodes nothing.
    """
    _check_options(output, labels, resume=resume, n_best=n_best, scores=scores, chat=interactive)
    from lora_s2s.pipeline.inputs import check_texts, read_inputs, refuse_file_names
    from lora_s2s.pipeline.names import located_model

    words = [*(texts or []), *(literal or [])]
    _check_asked(words, file, chat=interactive, also=bool(output or scores))
    refuse_file_names(model, texts or [])
    model = located_model(model)
    from lora_s2s.pipeline.decoding import decoding_line, settings_for, show_system
    from lora_s2s.pipeline.followed import recipe_to_answer

    keys = {"constraint": constraint, "n_best": n_best, "decoding": decoding, "mbr": mbr}
    recipe = recipe_to_answer(model, with_options(sets, **keys))
    if several(processes):
        _check_shared(words, file, interactive)
    if processes > 1:
        from lora_s2s.pipeline.launch import in_processes

        raise typer.Exit(in_processes(processes, context.obj, saving=False))
    parallel, encoding = recipe.data.format == "parallel", recipe.data.encoding
    inputs = None if interactive else read_inputs(words, file, parallel=parallel, encoding=encoding)
    if inputs:
        check_texts(model, inputs)
        _check_file(output, inputs, resume=resume)
    from lora_s2s.pipeline.label_set import label_choice
    from lora_s2s.pipeline.model import predictor_of
    from lora_s2s.pipeline.predict import Work, check_inputs
    from lora_s2s.pipeline.ranks import together

    if inputs is None:
        predictor = predictor_of(model, recipe, base)
        _chat(predictor, settings_for(recipe, predictor, plain=True))
        return
    with together() as ranks:
        choice = label_choice(model, recipe, sets or (), labels) if scores else None
        predictor = predictor_of(model, recipe, base)
        if ranks.first:
            check_inputs(predictor, inputs)
            show_system(predictor, inputs.columns)
        settings = settings_for(recipe, predictor)
        if choice is None or settings.constraint is not None:
            say(decoding_line(settings, predictor) if choice is None else _NOT_CONSTRAINED)
        work = Work(predictor, inputs, settings, choice, ranks, blanks=True)
        _answer(work, output, resume=resume)


def _check_options(
    output: str | None,
    labels: str | None,
    *,
    resume: bool,
    n_best: int | None,
    scores: bool,
    chat: bool,
) -> None:
    """Refuses options that exclude each other."""

    if not output:
        require_stdout()
    if resume and not output:
        raise UsageError("--resume continues a file of answers", hint="add --output FILE")
    if n_best and (scores or chat):
        other = "--scores decodes nothing" if scores else "--interactive shows one answer"
        raise UsageError(f"--n-best asks for several decoded answers: {other}")
    if labels is not None and not scores:
        raise UsageError("--labels names what --scores chooses from", hint="add --scores")


def _check_asked(words: list[str], file: str | None, *, chat: bool, also: bool) -> None:
    """Refuses a command that asks nothing, or in two ways, before anything is loaded."""
    if chat and (words or file or also):
        takes = "it takes no texts and no files, and no --scores"
        raise UsageError(f"--interactive reads and answers lines: {takes}")
    if not chat and bool(words) == bool(file):
        expected = "expected texts, or --input FILE (- for stdin)"
        if words:
            raise UsageError(f"{expected}, not both", hint="omit one of them")
        piped = sys.stdin is not None and not sys.stdin.isatty()
        asked = "--input -" if piped else '"your text"'
        raise UsageError(expected, hint=f"{again('')} {asked}")


def _check_shared(words: list[str], file: str | None, interactive: bool) -> None:
    """Refuses what only one process can read."""
    from lora_s2s.pipeline.inputs import STDIN

    if interactive:
        raise UsageError("predict --interactive runs in one process", hint="omit --processes")
    if STDIN in (file, *words):
        raise UsageError("several processes cannot read stdin", hint="give --input FILE")


def _check_file(output: str | None, inputs: Inputs, *, resume: bool) -> None:
    from lora_s2s.pipeline.inputs import check_kind

    if output:
        check_output(Path(output), resume=resume)
        check_kind(output, inputs)


def _answer(work: Work, output: str | None, *, resume: bool) -> None:
    """Writes answers into a file, or to stdout as they come."""
    from lora_s2s.pipeline.predict import answer_into

    if not work.ranks.first:
        for _ in work.answers():
            pass
    elif output:
        answer_into(Path(output), work, resume=resume)
        say(f"{work.inputs.count:,} predictions: {output}")
    else:
        for line in work.lines():
            write_out(line.removesuffix("\n"))


def _chat(predictor: Predictor, settings: DecodingSettings) -> None:
    """Answers the lines of stdin until it ends."""
    from lora_s2s.commands._failures import show_failure
    from lora_s2s.pipeline.chat import Chat
    from lora_s2s.pipeline.decoding import show_system

    show_system(predictor)
    chat = Chat(predictor, settings)
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    if at_terminal:
        begin = "an empty line begins a new conversation, " if predictor.reads_dialogues else ""
        say(f"{begin}Ctrl-D ends")
    while True:
        try:
            text = input("> " if at_terminal else "")
        except (EOFError, KeyboardInterrupt):
            if at_terminal:
                say()  # ends the line of the prompt
            return
        if not text.strip():
            chat.turns.clear()
            continue
        try:
            write_out(chat.answer(text))
        except Error as error:
            show_failure(error)
