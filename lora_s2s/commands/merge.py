"""``merge``: fold an adapter into its base."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands._options import Adapter, Base, Json


def merge(
    adapter: Adapter,
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="Output folder of the merged model.")
    ],
    onto: Annotated[
        str,
        typer.Option(
            "--onto", help="original: the base as published; dequantized: as it was in nf4 or int8."
        ),
    ] = "original",
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="D",
            help="float32, bfloat16 or float16; by default what the adapter was trained in.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="What to compare on; what it was scored or trained on by default.",
        ),
    ] = None,
    base: Base = None,
    json: Json = False,
) -> None:
    """Fold an adapter into its base; measure what changed.

    Folded in float32 and compared on real inputs; never quantized. After
    training in nf4 or int8 both bases are compared. The result loads with
    AutoModelForSeq2SeqLM.from_pretrained; the base is left as it is.
    """
    from lora_s2s.console import say, warn, write_json
    from lora_s2s.pipeline.merge import merge_model
    from lora_s2s.pipeline.names import located

    folder = located(adapter)
    report = merge_model(folder, Path(out), onto=onto, dtype=dtype, data=data, base=base)
    say(
        f"{report.out}: {report.dtype}, against the adapter on its base over {report.positions:,} "
        "positions:"
    )
    measured = {report.onto: asdict(report), **report.other}
    for name, measures in measured.items():
        say(
            f"  onto {name}: largest logit difference {measures['max_logit_difference']:.2g}, mean "
            f"{measures['mean_logit_difference']:.2g}, most likely token changed at "
            f"{measures['top1_changed']:.2%}"
        )
    if report.other:
        nearer = min(measured, key=lambda name: measured[name]["mean_logit_difference"])
        say(f"  nearer to what was trained: {nearer}")
    say(
        f"  plain transformers, `generate` alone: {report.answers_changed:.0%} of {report.answers} "
        "answers changed"
    )
    if report.not_used:
        say(f"not used from the checkpoint's generation_config: {report.not_used}")
    if report.note:
        warn(report.note)
    if json:
        write_json(asdict(report))
