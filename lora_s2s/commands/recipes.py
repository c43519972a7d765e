"""``recipes``: the shipped recipes and the JSON Schema."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands import _complete
from lora_s2s.commands._options import Json
from lora_s2s.console import say, table, write_json, write_out

recipes = typer.Typer(
    help="List, show or copy the shipped recipes; print the schema.",
    rich_markup_mode=None,
    invoke_without_command=True,
)
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Name of a shipped recipe.", autocompletion=_complete.recipes
    ),
]


@recipes.callback()
def listed(context: typer.Context, json: Json = False) -> None:
    """List the shipped recipes by purpose; show or copy one; print the schema."""
    if context.invoked_subcommand is not None:
        return
    from lora_s2s.recipe.catalogue import about, shipped

    recipes = {name: about(path) for name, path in shipped().items()}
    if json:
        write_json({"recipes": [{"name": name, **vars(one)} for name, one in recipes.items()]})
        return
    by_purpose = sorted(recipes.items(), key=lambda item: (item[1].purpose, item[0]))
    rows = [[one.purpose, name, one.machine, one.summary] for name, one in by_purpose]
    table("Shipped recipes", ["purpose", "name", "machine", "summary"], rows)
    say("show NAME prints one, copy NAME makes it yours; init --data FILE writes one for your file")


@recipes.command("show")
def show(name: Name) -> None:
    """Print a shipped recipe with its comments."""
    from lora_s2s.recipe.catalogue import find_recipe, text_of

    write_out(text_of(find_recipe(name)).rstrip("\n"))


@recipes.command("copy")
def copy(
    name: Name,
    to: Annotated[
        str, typer.Argument(metavar="FILE", help="Output file; ./NAME.yaml by default.")
    ] = "",
) -> None:
    """Copy a shipped recipe to a file of your own."""
    from lora_s2s.errors import UsageError, quoted
    from lora_s2s.files import write_text
    from lora_s2s.recipe.catalogue import find_recipe, for_elsewhere, text_of

    source = find_recipe(name)
    target = Path(to or source.name)
    if target.exists():
        raise UsageError(
            f"{target} exists already", hint=f"give another file: lora-s2s recipes copy {name} FILE"
        )
    write_text(target, for_elsewhere(text_of(source)))
    say(f"wrote {target}; try it with: lora-s2s train {quoted(target)} --dry-run")


@recipes.command("schema")
def schema(json: Json = False) -> None:
    """List every key of a recipe with its default, values and meaning.

    Prints JSON Schema, for editors, with --json or if stdout is not a terminal.
    """
    from lora_s2s.recipe.catalogue import json_schema, key_rows

    if json or not sys.stdout.isatty():
        write_json(json_schema())
    else:
        table("Keys of a recipe", ["key", "default", "values", "meaning"], key_rows())
