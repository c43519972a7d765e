"""``adapters``: list trained adapters, show one, compare several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands import _complete
from lora_s2s.commands._options import Adapter, Base, Json
from lora_s2s.console import say, table, write_json
from lora_s2s.errors import UsageError, quoted

adapters = typer.Typer(
    help="List trained adapters; show one; compare or average several.",
    rich_markup_mode=None,
    invoke_without_command=True,
)
Folder = Annotated[str, typer.Option("--dir", metavar="DIR", help="Folder of adapters.")]


@adapters.callback()
def listed(context: typer.Context, folder: Folder = "adapters", json: Json = False) -> None:
    """List trained adapters; show one; compare or average several."""
    if context.invoked_subcommand is not None:
        return
    from lora_s2s.pipeline.adapters import list_adapters, unfinished_runs

    items, runs = list_adapters(Path(folder)), unfinished_runs(Path(folder))
    if json:
        write_json({"adapters": [adapter.to_json() for adapter in items], "unfinished": runs})
        return
    if items:
        table(
            folder,
            ["name", "base", "steps", "data", "main score"],
            [adapter.row() for adapter in items],
        )
    elif not runs:
        say(f"no adapter in {folder}; train one: lora-s2s train demo")
    for run in runs:
        asked = f"of {run['max_steps']}" if run["max_steps"] else f"in {run['epochs']} epochs"
        then = f"training now: {run['process']}"
        if not run["process"]:
            then = f"continue: {run['command']}"
        say(f"{run['name']}: unfinished, {run['step']} steps {asked} saved; {then}")


@adapters.command("show")
def show(name: Adapter, folder: Folder = "adapters", json: Json = False) -> None:
    """Show an adapter's base, data, settings and scores."""
    from lora_s2s.commands._show import show_adapter
    from lora_s2s.pipeline.adapters import find_adapter

    adapter = find_adapter(name, Path(folder))
    write_json(adapter.to_json()) if json else show_adapter(adapter)


@adapters.command("compare")
def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="A B …",
            help="Adapter folders or names, two or more.",
            autocompletion=_complete.models,
        ),
    ],
    folder: Folder = "adapters",
    report: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write a page: which answers the same sources better than A, examples, charts.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show the differences of adapters: scores, settings, data."""
    from lora_s2s.outputs import check_writable
    from lora_s2s.pipeline.adapters import differences, find_adapter

    if len(names) < 2:
        raise UsageError("compare takes two adapters or more, got one", hint="lora-s2s adapters")
    adapters = [find_adapter(name, Path(folder)) for name in names]
    if report:
        from lora_s2s.pipeline.compare import write_comparison

        check_writable(Path(report).absolute().parent)
        write_comparison(Path(report), adapters)
        say(f"report: {report}")
    if json:
        write_json({"adapters": [adapter.to_json() for adapter in adapters]})
        return
    heads = ["what", *(adapter.name for adapter in adapters)]
    table("Differences", heads, differences(*adapters))


@adapters.command("average")
def average(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="A B …",
            help="Adapter folders or names, or checkpoints (RUN/checkpoints/step-N), two or more.",
            autocompletion=_complete.models,
        ),
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder of the new adapter.")],
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="linear: the exact mean of the updates B A, of the adapters' ranks together; svd: "
            "the same at --rank; ties, dare_linear, dare_ties: PEFT's, on the updates, at --rank; "
            "factors: the mean of A and B themselves, of any method, for adapters of one run.",
            autocompletion=_complete.words(
                "linear", "svd", "ties", "dare_linear", "dare_ties", "factors"
            ),
        ),
    ] = "linear",
    weights: Annotated[
        str | None,
        typer.Option(metavar="W,W,…", help="Weight of each, divided by their sum; default: equal."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            metavar="R",
            help="Rank of the result; default: the largest of the adapters. Not linear.",
        ),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Share of each update that ties and dare keep; default: 0.5."
        ),
    ] = None,
    base: Base = None,
    json: Json = False,
) -> None:
    """Average adapters of one base, or checkpoints of runs, into a new adapter."""
    from lora_s2s.outputs import check_new

    check_new(Path(out))
    from lora_s2s.lora.average import How
    from lora_s2s.pipeline.average import average_adapters

    how = How(method, density, rank)
    shares = None if weights is None else _numbers(weights)
    made = average_adapters(names, Path(out), how, weights=shares, base=base)
    if json:
        write_json(made.to_dict())
    if made.rank is not None:
        left_out = f", {made.error:.1%} of the update left out" if made.error else ""
        say(f"rank {made.rank}{left_out}")
    say(f"{made.out}: {made.method} of {len(made.of)} adapters")
    say(f"next: lora-s2s eval {quoted(made.out)} --baseline")


def _numbers(text: str) -> list[float]:

    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--weights {text}: expected numbers such as 2,1,1") from error
