"""``demo``: every step on the bundled base, offline, on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands._options import Json, Sets


def demo(
    out: Annotated[str, typer.Option(metavar="DIR", help="Output folder.")] = "lora-s2s-demo",
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Run every step on a small bundled model, offline.

    Prepares, trains, scores adapter and base, merges, and shows a table of before and after.

    The task: turn informal booking messages into structured records. Takes a few minutes on two CPU
    cores.
    """
    from lora_s2s.commands._show import show_demo
    from lora_s2s.console import write_json
    from lora_s2s.pipeline.demo import run_demo

    result, samples = run_demo(Path(out), sets or ())
    show_demo(result, samples)
    if json:
        write_json(result)
