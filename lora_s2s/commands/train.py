"""``train``: a recipe becomes an adapter."""

from __future__ import annotations

from typing import Annotated

import typer

from lora_s2s.commands._options import Json, RecipeName, Sets


def train(
    recipe: RecipeName,
    sets: Sets = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run of this name.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the resolved recipe, rows, steps and parameters; train nothing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an adapter or run of this name.")] = False,
    json: Json = False,
) -> None:
    """Train an adapter; prepares the data first.

    The adapter lands in adapters/NAME; data paths are relative to the current folder.
    """
    from lora_s2s.commands import _pipeline
    from lora_s2s.console import say, write_json, write_out
    from lora_s2s.errors import UsageError
    from lora_s2s.recipe.load import load_recipe, recipe_to_yaml

    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other: keep one")
    loaded = load_recipe(recipe, sets or ())
    if dry_run:
        counted = _pipeline.dry_run(loaded)
        write_json(counted) if json else write_out(recipe_to_yaml(loaded).rstrip("\n"))
        return
    result = _pipeline.train_adapter(loaded, resume=resume, overwrite=overwrite)
    if json:
        write_json(result)
    losses = {"train loss": result["train_loss"], "validation loss": result["validation_loss"]}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if value is not None)
    say(f"{result['steps']:,} steps, {shown}, {result['tokens_per_second']:,.0f} tokens/s: {result['adapter']}")
    say(f"next: lora-s2s eval {result['adapter']} --baseline")
