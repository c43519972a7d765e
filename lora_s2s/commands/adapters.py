"""``adapters``: list trained adapters, show one, compare two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands._options import Json

adapters = typer.Typer(
    help="List trained adapters; show one; compare two.",
    rich_markup_mode=None,
    invoke_without_command=True,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Adapter folder, or its name in --dir.")]
Folder = Annotated[str, typer.Option("--dir", metavar="DIR", help="Folder of adapters.")]


@adapters.callback()
def listed(context: typer.Context, folder: Folder = "adapters", json: Json = False) -> None:
    """List trained adapters; show one; compare two."""
    if context.invoked_subcommand is not None:
        return
    from lora_s2s.console import say, table, write_json
    from lora_s2s.pipeline.adapters import list_adapters

    items = list_adapters(Path(folder))
    if json:
        write_json({"adapters": [adapter.to_json() for adapter in items]})
    elif items:
        table(
            folder,
            ["name", "base", "steps", "data", "main score"],
            [adapter.row() for adapter in items],
        )
    else:
        say(f"no adapter in {folder}; train one: lora-s2s train demo")


@adapters.command("show")
def show(name: Name, folder: Folder = "adapters", json: Json = False) -> None:
    """Show an adapter's base, data, settings and scores."""
    from lora_s2s.commands._show import show_adapter
    from lora_s2s.console import write_json
    from lora_s2s.pipeline.adapters import find_adapter

    adapter = find_adapter(name, Path(folder))
    write_json(adapter.to_json()) if json else show_adapter(adapter)


@adapters.command("compare")
def compare(
    one: Annotated[str, typer.Argument(metavar="A", help="Adapter folder or name.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    folder: Folder = "adapters",
    json: Json = False,
) -> None:
    """Show the differences of two adapters: scores, settings, data."""
    from lora_s2s.console import table, write_json
    from lora_s2s.pipeline.adapters import differences, find_adapter

    two = [find_adapter(name, Path(folder)) for name in (one, other)]
    if json:
        write_json({"adapters": [adapter.to_json() for adapter in two]})
        return
    table("Differences", ["what", two[0].name, two[1].name], differences(*two))
