"""What a run reports of its data: columns, limits, warnings, pairs. Light to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_s2s.console import plain, say, warn

_LONGEST = 400
_LIMIT_BY = {
    "recipe": "set",
    "data": "auto",
    "cap": "auto, its most",
    "positions": "auto, all that the base has",
    "memory": "auto, all that this machine's memory allows",
}


def limits_line(report: Mapping[str, Any]) -> str:
    """Returns one line on the length limits and what set them."""
    limits = {side: report["limits"][f"max_{side}_tokens"] for side in ("source", "target")}
    words = [
        f"{side}s {limit['tokens']:,} tokens ({_LIMIT_BY[limit['by']]})"
        for side, limit in limits.items()
    ]
    return f"limits: {', '.join(words)}"


def show_data(report: Mapping[str, Any]) -> None:
    """Shows in a few lines what a run trains on: columns, limits, warnings."""
    say(str(report["columns_line"]))
    say(limits_line(report))
    for sentence in report["warnings"]:
        warn(sentence)


def show_preview(pairs: Sequence[Mapping[str, Any]]) -> None:
    """Shows some training pairs as the model sees them, and what the loss is on."""
    for number, pair in enumerate(pairs, start=1):
        source, target = pair["source"], pair["target"]
        say(f"  {number}. {short(source['text'])}  [{source['tokens']:,} tokens, no loss]")
        say(f"     → {short(target['text'])}  [{target['tokens']:,} tokens, all in the loss]")


def short(text: str) -> str:
    """Returns a text on one line, cut where it is long."""
    return plain(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")
