"""``init``: look at a file and write a recipe for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands._options import BaseName, Json, Sets


def init(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="Training data.")] = "",
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="The same; repeatable."),
    ] = None,
    model: BaseName = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="RECIPE.yaml", help="Output file; ./NAME.yaml by default."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: take what is suggested.")
    ] = False,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory of the GPU that will train (8GB); by default this machine trains.",
        ),
    ] = None,
    sets: Sets = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace any recipe of this name, and drop what was given for it before.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Write a recipe for a file and this machine, with the reason of each value.

    Chooses columns, base, length limits, metrics and the rest; asks at most four questions, and
    none with --yes or without a terminal. Nothing is downloaded. Of a recipe that nobody edited,
    what was given with --set before is kept.
    """
    from lora_s2s.console import say, write_json
    from lora_s2s.errors import quoted
    from lora_s2s.hub import is_local, is_offline
    from lora_s2s.pipeline.wishes import Wishes, look

    files = [file] * bool(file) + list(data or ())
    words = [f"model.name={model}"] * bool(model) + list(sets or ())
    asks = not yes and all(stream and stream.isatty() for stream in (sys.stdin, sys.stderr))
    if not (yes or asks):
        say("no terminal: nothing is asked, as with --yes")
    wishes = Wishes(
        data=files,
        sets=words,
        out=Path(out).expanduser() if out else None,
        gpu_memory=gpu_memory,
        overwrite=overwrite,
        ask=_ask if asks else None,
    )
    looked = look(wishes)
    from lora_s2s.pipeline.init import write_recipe

    recipe = write_recipe(looked)
    base = recipe.recipe.model
    demo = is_offline() and not is_local(base.name, base.revision)
    say(f"next: lora-s2s train {quoted(recipe.path)}{' --set model.name=demo' * demo}")
    if json:
        write_json(recipe.to_dict())


def _ask(question: str, default: str) -> str:
    from lora_s2s.console import plain, stop_waiting

    stop_waiting()
    answer = typer.prompt(plain(question), default=default, err=True, show_default=bool(default))
    return str(answer).strip()
