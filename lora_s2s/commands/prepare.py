"""``prepare``: check, split and tokenise data files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lora_s2s import limits
from lora_s2s.commands import _complete
from lora_s2s.commands._options import BaseName, Data, Json, Sets
from lora_s2s.console import say, write_json
from lora_s2s.errors import UsageError

if TYPE_CHECKING:
    from lora_s2s.data.shards import PreparedShard

RecipeFile = Annotated[
    str,
    typer.Argument(
        metavar="[RECIPE]",
        help="YAML file, or name of a shipped recipe.",
        autocompletion=_complete.runs,
    ),
]


def prepare(
    recipe: RecipeFile = "",
    data: Data = None,
    model: BaseName = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Output folder or s3:// URL; prepared/NAME by default.",
        ),
    ] = None,
    previews: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=1000, help="How many pairs to show."),
    ] = 3,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first unusable row.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="N/COUNT", help="Prepare one of COUNT parts: 3/16 is the third."),
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Join all shards: the folder that one run writes.")
    ] = False,
    ray: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            min=1,
            max=limits.MOST_SHARDS,
            help="Make COUNT shards by the workers of a Ray cluster, then join them.",
        ),
    ] = None,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Read, check, clean, split and tokenise data.

    Shows sample pairs as the model will see them, with warnings and advice; the full report is
    report.html in the output folder.

    Dropped rows are listed in rejected.jsonl of that folder, with file, line and reason.

    Several machines: --shard 1/4 to 4/4 with one --out that all reach, in any order, then --join.
    """
    if sum((shard is not None, join, ray is not None)) > 1:
        raise UsageError("--shard, --join and --ray exclude each other", hint="give one of them")
    from lora_s2s.pipeline.recipes import check_named, chosen_recipe, train_command

    loaded = chosen_recipe(recipe, data or (), model, sets or (), command="prepare", out=out)
    if not join:
        check_named(loaded)
    from lora_s2s.commands._show import show_prepared
    from lora_s2s.pipeline.lengths import warn_of_short_answers
    from lora_s2s.pipeline.prepare import data_line
    from lora_s2s.pipeline.shards import prepare_shard_to, prepare_to
    from lora_s2s.remote import is_url

    if shard is not None:
        _show_shard(prepare_shard_to(loaded, shard, out or None, strict=strict), json=json)
        return
    if ray is not None:
        from lora_s2s.pipeline.on_ray import prepare_on_ray

        prepared = prepare_on_ray(loaded, ray, out or None, previews=previews, strict=strict)
    else:
        prepared = prepare_to(loaded, out or None, previews=previews, strict=strict, join=join)
    url = out if out and is_url(out) else None
    say(data_line(prepared))
    show_prepared(prepared.manifest.report, prepared.preview)
    warn_of_short_answers(loaded, prepared)
    say(f"report: {prepared.path / 'report.html'}")
    say(f"next: {train_command(url or prepared.path)}")
    if json:
        write_json({**prepared.report, **({"out": url} if url else {})})


def _show_shard(made: PreparedShard, *, json: bool) -> None:
    from lora_s2s.pipeline.shards import shard_lines

    for line in shard_lines(made):
        say(line)
    if json:
        write_json(made.to_dict())
