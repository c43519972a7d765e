"""``export``: write another runtime's format and check it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands import _complete
from lora_s2s.commands._options import Base, Compared, Json, Model


def export(
    model: Model,
    out: Annotated[str, typer.Option(metavar="DIR", help="Output folder, a new one.")],
    format: Annotated[
        str,
        typer.Option(
            metavar="F",
            help="ct2 (CTranslate2), onnx (onnxruntime, transformers.js) or safetensors "
            "(transformers).",
            autocompletion=_complete.words("ct2", "onnx", "safetensors"),
        ),
    ] = "ct2",
    precision: Annotated[
        str,
        typer.Option(
            metavar="P",
            help="Weights: float32; also float16, bfloat16 (ct2, safetensors), int8 (ct2, onnx), "
            "int8_float32, int8_float16 (ct2).",
        ),
    ] = "float32",
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Largest file of safetensors, such as 2GB. Default: one file.",
        ),
    ] = None,
    data: Compared = None,
    base: Base = None,
    json: Json = False,
) -> None:
    """Export a model for another runtime and check that it answers the same.

    An adapter is merged first. Log-probabilities, greedy answers and beam
    search are compared with the float32 model; if they differ by more than
    the precision explains, the command fails and leaves no output.
    """
    from lora_s2s.commands._show import next_prediction
    from lora_s2s.console import say, write_json
    from lora_s2s.outputs import check_new
    from lora_s2s.pipeline.names import located_model

    place = located_model(model)
    check_new(Path(out))
    from lora_s2s.pipeline.export import export_model

    report = export_model(
        place,
        Path(out),
        format=format,
        precision=precision,
        max_shard_size=max_shard_size,
        data=data,
        base=base,
    )
    found = report.parity
    say(f"{report.out}: {report.format} {precision}, {report.bytes / 2**20:,.1f} MiB")
    say(
        f"  log-probabilities of {found.tokens:,} tokens differ by "
        f"{found.mean_log_prob_difference:.2g} on average, {found.max_log_prob_difference:.2g} at "
        "most"
    )
    say(f"  equal answers: {found.greedy_equal:.0%} greedy, {found.beam_equal:.0%} with 4 beams")
    for name, speed in (("transformers", found.reference), (report.format, found.export)):
        say(
            f"  {name}: {speed.tokens_per_second:,.0f} tokens/s greedy, one source "
            f"{speed.latency_p50:.0f} ms (p50), {speed.latency_p95:.0f} ms (p95)"
        )
    say(f"next: {next_prediction(report.out)}")
    if json:
        write_json(report.to_dict())
