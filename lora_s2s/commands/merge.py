"""``merge``: fold an adapter into its base."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands._options import Adapter, Base, Json, check_writable


def merge(
    adapter: Adapter,
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where the whole model goes.")],
    onto: Annotated[str, typer.Option("--onto", help="original: the base as published.")] = "original",
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="D", help="float32 or bfloat16; what the adapter was trained in by default."),
    ] = None,
    base: Base = None,
    json: Json = False,
) -> None:
    """Fold an adapter into its base; measure what changed.

    Folded in float32 and compared on real inputs. The result loads with
    AutoModelForSeq2SeqLM.from_pretrained; the base is left as it is.
    """
    from lora_s2s.commands._scoring import probe_texts
    from lora_s2s.console import say, write_json
    from lora_s2s.lora.merge import merge_adapter

    folder = Path(adapter)
    check_writable(Path(out).parent)
    report = merge_adapter(
        folder, Path(out), onto=onto, dtype=dtype, base_override=base, probe_texts=probe_texts(folder)
    )
    say(
        f"{report.out}: {report.dtype}. Against the adapter on its base, over {report.positions:,} positions: largest "
        f"logit difference {report.max_logit_difference:.2g}, most likely token changed at {report.top1_changed:.2%}"
    )
    if json:
        write_json(asdict(report))
