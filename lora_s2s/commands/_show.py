"""Tables and lines for people that several verbs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_s2s.console import plain, say, table

_LONGEST = 400


def show_preview(pairs: Sequence[tuple[str, str]]) -> None:
    """Shows a few training pairs as the model sees them."""
    for number, (source, target) in enumerate(pairs, start=1):
        say(f"  {number}. {short(source)}")
        say(f"     → {short(target)}")


def short(text: str) -> str:
    """Returns a text on one line, cut where it is long."""
    return plain(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def show_scores(title: str, result: Mapping[str, Any]) -> None:
    """Shows what ``eval`` found: a row for each metric, the baseline beside it where there is one."""
    baseline, difference = result.get("baseline"), result.get("difference")
    rows = []
    for name, score in result["metrics"].items():
        row = [name, _with_interval(score)]
        if baseline and difference:
            row = [name, f"{baseline[name]['value']:.2f}", f"{score['value']:.2f}",
                   _with_interval(difference[name], "+"), f"{difference[name]['p_value']:.3f}"]  # fmt: skip
        rows.append(row)
    heads = ["metric", "base", "adapter", "difference [95 %]", "p"] if baseline else ["metric", "score [95 %]"]
    table(title, heads, rows)


def _with_interval(score: Mapping[str, Any], sign: str = "") -> str:
    low, high = score["interval"]
    return f"{score['value']:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def show_prepared(report: Mapping[str, Any], preview: Sequence[tuple[str, str]]) -> None:
    """Shows the report of ``prepare`` and some pairs."""
    rows = [
        [side, *(f"{report[f'{side}_tokens'][key]:,}" for key in ("p50", "p95", "max")),
         f"{report['truncated'][side]:,}", f"{report['unknown_tokens'][side]:.2%}"]
        for side in ("source", "target")
    ]  # fmt: skip
    table("Tokens", ["side", "median", "95 %", "longest", "cut", "unknown"], rows)
    for reason, count in report["rows"]["by_reason"].items():
        say(f"left out: {count:,} × {reason}")
    if report["leaked"]:
        say(f"{report['leaked']:,} held-out rows have a source that also stands in train: it was taken out of train")
    show_preview(preview)
