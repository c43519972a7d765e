"""``merge``: an adapter becomes part of its base."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands import _complete
from lora_s2s.commands._options import Adapter, Base, Compared, Json


def merge(
    adapter: Adapter,
    out: Annotated[str, typer.Option(metavar="DIR", help="Output folder of the merged model.")],
    onto: Annotated[
        str,
        typer.Option(
            metavar="BASE",
            help="original: the base as published; dequantized: as seen in nf4 or int8 training.",
            autocompletion=_complete.words("original", "dequantized"),
        ),
    ] = "original",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="D",
            help="float32, bfloat16 or float16; by default as in training.",
            autocompletion=_complete.words("float32", "bfloat16", "float16"),
        ),
    ] = None,
    data: Compared = None,
    base: Base = None,
    json: Json = False,
) -> None:
    """Merge an adapter into its base and measure the differences.

    Merges in float32, never into quantized weights, and compares logits and answers on real inputs;
    after training in nf4 or int8 with both bases. The result loads with
    AutoModelForSeq2SeqLM.from_pretrained. The base is not changed.
    """
    from lora_s2s.outputs import check_new
    from lora_s2s.pipeline.names import located_adapter

    folder = located_adapter(adapter)
    check_new(Path(out))
    from lora_s2s.commands._show import next_prediction
    from lora_s2s.console import say, warn, write_json
    from lora_s2s.pipeline.merge import merge_model

    report = merge_model(folder, Path(out), onto=onto, dtype=dtype, data=data, base=base)
    say(
        f"{report.out}: {report.dtype}, compared with the adapter on its base at "
        f"{report.positions:,} positions:"
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
        say(f"  closer to the trained model: {nearer}")
    say(
        f"  with transformers' `generate` alone: {report.answers_changed:.0%} of {report.answers} "
        "answers changed"
    )
    if report.not_used:
        say(f"not used from the checkpoint's generation_config: {report.not_used}")
    if report.note:
        warn(report.note)
    say(f"next: {next_prediction(report.out)}")
    if json:
        write_json(asdict(report))
