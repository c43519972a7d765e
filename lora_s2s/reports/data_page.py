"""``report.html`` of prepared data: advice, sample pairs, lengths, characters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_s2s.console import counted
from lora_s2s.files import write_text
from lora_s2s.reports.render import render

_SIDES = ("source", "target")
_MOST_NAMES = 3


def write_data_page(
    path: Path, report: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]]
) -> None:
    """Writes the page, whose title names the training data.

    Args:
        pairs: see :func:`lora_s2s.data.report.sample_pairs`.
    """
    names = [Path(file).name for file in report["files"]["train"][:_MOST_NAMES]]
    page = render(
        "data.html",
        title=f"Prepared data: {', '.join(names)}",
        report=report,
        pairs=pairs,
        sides=_SIDES,
        read_from=_read_from(report),
        counts=_counts(report),
    )
    write_text(path, page)


def _read_from(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The files, columns and settings that a folder was prepared from."""
    limits = [
        f"{key} {limit['tokens']:,} ({limit['by']})" for key, limit in report["limits"].items()
    ]
    columns = report["columns"]
    return [
        *((f"{split} files", ", ".join(files)) for split, files in report["files"].items()),
        ("columns", report["columns_line"].removeprefix("columns: ")),
        ("format", columns["format"]),
        ("template", columns["template"] or "none"),
        ("limits", ", ".join(limits)),
    ]


def _counts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    added = [repr(text) for text in report["lossless_text"] if text]
    return [
        ("exact duplicates", f"{report['duplicates']:,}"),
        ("equal up to case, spaces and punctuation", f"{report['near_duplicates']:,}"),
        ("held-out rows whose source is also in train", f"{report['leaked']:,}"),
        (
            "held-out rows equal to a training row up to case, spaces and punctuation",
            f"{report['near_leaks']:,}",
        ),
        ("targets contained in their source", f"{report['target_in_source']:.1%}"),
        ("targets equal to their source", f"{report['identical']:,}"),
        ("truncated", _by_side(lambda side: counted(report["truncated"][side], side))),
        (
            "runs of spaces collapsed to one",
            _by_side(lambda side: f"{report['lost_runs_of_spaces'][side]:,} in {side}s"),
        ),
        (
            "unknown tokens",
            _by_side(lambda side: f"{report['unknown_tokens'][side]:.3%} of {side}s"),
        ),
        ("added tokens for lost characters", " ".join(added) or "none"),
    ]


def _by_side(text: Callable[[str], str]) -> str:
    return ", ".join(text(side) for side in _SIDES)
