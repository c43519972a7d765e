"""``push``: upload an adapter, a model or an export with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands import _complete
from lora_s2s.commands._options import Json

License = Annotated[
    str | None,
    typer.Option(metavar="ID", help="License for the card, such as apache-2.0."),
]


def push(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="Adapter or its name in adapters/, merged model, or export.",
            autocompletion=_complete.models,
        ),
    ],
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="Repository: USER/NAME, or s3://BUCKET/FOLDER.")
    ],
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List every file and what is left out; upload nothing."),
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Public repository. Default: private.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace files of a repository that holds some already."),
    ] = False,
    examples: Annotated[
        bool,
        typer.Option(
            "--examples", help="Also upload what quotes the data: predictions, report, examples."
        ),
    ] = False,
    base_license: License = None,
    data_license: License = None,
    json: Json = False,
) -> None:
    """Upload an adapter, a merged model or an export to the hub or a bucket, with its card.

    Only files that such a folder consists of are uploaded. Folders with
    passwords, tokens or paths of this machine are refused.
    """
    from lora_s2s.console import say, write_json
    from lora_s2s.pipeline.names import check_finished, located
    from lora_s2s.pipeline.push import PushOptions, push_folder

    options = PushOptions(dry_run, public, overwrite, examples, base_license, data_license)
    place = located(folder)
    check_finished(place)
    report = push_folder(Path(place).expanduser(), repo, options)
    for file in report.files:
        say(f"{file['bytes']:>13,}  {file['path']}")
    for entry in report.left_out:
        say(f"     left out  {entry['path']}: {entry['reason']}")
    access = "public" if public else "private"
    say(report.url or f"dry run: nothing was uploaded to {repo} ({access})")
    if json:
        write_json(report.to_dict())
