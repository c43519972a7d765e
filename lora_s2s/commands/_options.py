"""Options and checks that several commands share."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands import _complete
from lora_s2s.errors import UsageError
from lora_s2s.machine import launched_processes
from lora_s2s.outputs import appears_whole, check_writable, is_special

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL_OR_ADAPTER",
        help="Adapter or its name in adapters/, model folder, hub id, or demo.",
        autocompletion=_complete.models,
    ),
]
Adapter = Annotated[
    str,
    typer.Argument(
        metavar="ADAPTER",
        help="Adapter folder, or its name in adapters/.",
        autocompletion=_complete.models,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override a key of the recipe; repeatable.",
        autocompletion=_complete.settings,
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        help="Training data, instead of the recipe's; repeatable.",
    ),
]
BaseName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Base model, instead of the recipe's: folder, hub id, or demo.",
        autocompletion=_complete.models,
    ),
]
Port = Annotated[int, typer.Option(metavar="N", help="Port; 0 takes any.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Base model, instead of the one that the adapter names.",
        autocompletion=_complete.models,
    ),
]
Compared = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Data to compare on. Default: what the adapter was scored or trained on.",
    ),
]
RecipeOrFolder = Annotated[
    str,
    typer.Argument(
        metavar="[RECIPE|FOLDER]",
        help="YAML file, name of a shipped recipe, or folder of prepared data.",
        autocompletion=_complete.runs,
    ),
]


# An option that takes a number of processes.
count_option = partial(typer.Option, min=1, max=1024, metavar="N")

AnsweringProcesses = Annotated[
    int,
    count_option(
        help="Answer in N processes on this machine, one for each GPU; the output is that of one "
        "with as many threads.",
    ),
]
Constraint = Annotated[
    str | None,
    typer.Option(
        metavar="C",
        help="What answers may be: labels, '[yes, no]', 'regex: …', json:FILE or grammar:FILE.",
        autocompletion=_complete.words("labels"),
    ),
]
DecodedBy = Annotated[
    str | None,
    typer.Option(
        metavar="D",
        help="checkpoint: decode by the base's own generation settings. Default: default.",
    ),
]
Mbr = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC",
        help="Answer with the sample (or beam) that agrees most with the others by a metric, such "
        "as chrf.",
        autocompletion=_complete.metrics,
    ),
]


def several(processes: int) -> bool:
    """Whether several processes work: so many are asked for, or a launcher started them."""
    return max(processes, launched_processes()) > 1


def with_options(sets: list[str] | None, **options: object) -> list[str]:
    """Returns the words after ``--set``, with those of options that are keys of ``evaluation``."""
    given = {key: value for key, value in options.items() if value is not None}
    return [*(sets or []), *(f"evaluation.{key}={value}" for key, value in given.items())]


def seconds_of(text: str) -> int:
    """Parses a time such as ``3h``, ``90m`` or ``45s``.

    Raises:
        UsageError: it is not one.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,8})([hms])", text)
    if not match:
        raise UsageError(f"invalid time '{text}': expected 3h, 90m or 45s, for example")
    return int(match[1]) * {"h": 3600, "m": 60, "s": 1}[match[2]]


def check_output(path: Path, *, resume: bool) -> None:
    """Checks that an output file can be written, before the work for it starts.

    Raises:
        UsageError: it is a folder, cannot be written, or is not to ``resume`` what a stopped
            command left.
    """
    from lora_s2s.pipeline.unfinished import Unfinished

    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, expected a file", hint=f"--output {path}/predictions.jsonl"
        )
    if not is_special(path):
        check_writable(Path(os.path.realpath(path)).parent)
    elif not os.access(path, os.W_OK):
        raise UsageError(f"cannot write to {path}: no permission", hint="choose another file")
    if not resume and appears_whole(path):
        Unfinished(path, {}, resume=False)
