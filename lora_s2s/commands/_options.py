"""Words and options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a shipped recipe's name.")]
Model = Annotated[str, typer.Argument(metavar="MODEL_OR_ADAPTER", help="Adapter or model folder, hub id, or demo.")]
Adapter = Annotated[str, typer.Argument(metavar="ADAPTER", help="Adapter folder.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key of the recipe; repeats."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="MODEL", help="A base to use in place of the one the adapter names."),
]
