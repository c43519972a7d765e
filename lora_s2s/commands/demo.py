"""``demo``: all steps on the bundled base, offline, on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands._options import Json, Sets


def demo(
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="Where everything goes.")
    ] = "lora-s2s-demo",
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Run all steps on a small bundled model, offline.

    Prepares, trains, scores against the base, merges, and ends with a before/after table.

    The task: messy booking messages become clean records. Takes a few minutes on two CPU cores and
    no network.
    """
    from lora_s2s.commands._show import show_demo
    from lora_s2s.console import write_json
    from lora_s2s.pipeline.demo import run_demo

    result, samples = run_demo(Path(out), sets or ())
    show_demo(result, samples)
    if json:
        write_json(result)
