"""Notices on a run's data: columns, limits, warnings, sample pairs. Light to import."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lora_s2s.console import plain, say, warn
from lora_s2s.data_report import DataReport, Limit, PairSide, Sides
from lora_s2s.errors import COMMAND_LINE, again
from lora_s2s.machine import other_work
from lora_s2s.recipe.fields import FULL
from lora_s2s.recipe.schema import Recipe

_LONGEST = 400
_LIMIT_BY = {
    "recipe": "set",
    "data": "auto",
    "cap": "auto, its maximum",
    "positions": "auto, the base's maximum",
    "memory": "auto, the most that fits into memory",
}


def limits_line(report: DataReport) -> str:
    """One line on the length limits and what determined them."""
    limits, cut = report["limits"], report["truncated"]
    source = _limit(limits["max_source_tokens"], cut["source"])
    target = _limit(limits["max_target_tokens"], cut["target"])
    return f"limits: sources {source}, targets {target}"


def _limit(limit: Limit, cut: int) -> str:
    longer = f"; {cut:,} cut" if cut else ""
    return f"{limit['tokens']:,} tokens ({_LIMIT_BY[limit['by']]}{longer})"


def token_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table on the tokens of sources and targets."""
    rows = []
    for side in ("source", "target"):
        counts = report[f"{side}_tokens"]
        lengths = [f"{counts[point]:,}" for point in ("p50", "p90", "p99", "max")]
        unknown = f"{report['unknown_tokens'][side]:.2%}"
        lost = f"{report['lost_characters'][side]['count']:,}"
        rows.append([side, *lengths, f"{report['truncated'][side]:,}", unknown, lost])
    heads = ["side", "median", "90 %", "99 %", "longest", "cut", "unknown", "lost characters"]
    return heads, rows


def show_data(report: DataReport) -> None:
    """Shows columns, limits, warnings and notes of the training data."""
    say(report["columns_line"])
    say(limits_line(report))
    for sentence in report["warnings"]:
        warn(whole(sentence))
    for sentence in report["advice"]:
        say(f"note: {whole(sentence)}")


def whole(sentence: str) -> str:
    """A sentence, with this process's command in place of the setting that it ends with."""
    before, _, setting = sentence.rpartition(": --set ")
    command = COMMAND_LINE.get()
    if before and command:
        # Of the run, which exists by then.
        option = "--overwrite" * (command[0] == "train" and "--dry-run" not in command)
        with suppress(ValueError):  # a column's name holds anything, such as one quote
            return f"{before}: {again(option, *shlex.split(setting))}"
    return sentence


def beside_others(device: str, *, training: bool = False) -> tuple[int, str]:
    """See :func:`lora_s2s.machine.other_work`; on a GPU all of torch's threads, and no line."""
    from torch import get_num_threads

    threads = get_num_threads()
    return other_work(threads, training=training) if device == "cpu" else (threads, "")


def warn_of_dtype(recipe: Recipe) -> None:
    """Warns of a dtype that this machine's CPU has no instructions for."""
    from lora_s2s.models.precision import is_emulated, resolve_device, resolve_dtype

    name, device = recipe.model.dtype, resolve_device()
    if is_emulated(resolve_dtype(name, device), device) and recipe.lora.method != FULL:
        faster = "float32 is faster: --set model.dtype=float32"
        warn(f"this CPU has no instructions for {name}, so {faster}")


def show_preview(pairs: Sequence[Sides[PairSide]]) -> None:
    """Shows training pairs as the model sees them; only targets have a loss."""
    for number, pair in enumerate(pairs, start=1):
        source, target = pair["source"], pair["target"]
        say(f"  {number}. {short(source['text'])}  [{source['tokens']:,} tokens, no loss]")
        say(f"     → {short(target['text'])}  [{target['tokens']:,} tokens, all in the loss]")


def short(text: str) -> str:
    """A text on one line, cut if long."""
    return plain(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")
