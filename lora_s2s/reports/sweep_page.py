"""The page of a sweep: what was best, every trial, what mattered. Values are those of
``sweep --json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from lora_s2s.console import counted
from lora_s2s.reports.render import render
from lora_s2s.reports.summary import NOTHING, number, p_text, shown, with_interval


class TrialEntry(TypedDict):
    """An entry of ``trials``."""

    trial: int
    settings: Mapping[str, object]
    state: str
    share: float
    value: float | None
    seconds: float
    problem: str | None
    score: Mapping[str, object] | None
    difference: Mapping[str, object] | None
    adapter: str | None


class SweepEntry(TypedDict):
    """The object of ``sweep --json``."""

    best: TrialEntry
    recipe: str
    trials: Sequence[TrialEntry]
    metric: str
    importance: Mapping[str, float]
    report: str


_HEADS = ("state", "steps", "score [95 %]", "− trial 0", "p")


def render_sweep(name: str, sweep: SweepEntry, varied: Mapping[str, str]) -> str:
    """The page's HTML.

    Args:
        name: the recipe's.
        varied: each key with its values or range.
    """
    trials = sweep["trials"]
    return render(
        "sweep.html",
        title=f"Sweep: {name}",
        verdict=best_line(sweep),
        metric=sweep["metric"],
        heads=sweep_heads(trials),
        trials=sweep_cells(trials),
        problems=[(one["trial"], one["problem"]) for one in trials if one["problem"]],
        varied=[
            (key, values, number(sweep["importance"].get(key))) for key, values in varied.items()
        ],
    )


def best_line(sweep: SweepEntry) -> str:
    """What was best, and whether it is better than the recipe itself."""
    best, metric = sweep["best"], sweep["metric"]
    among = f"of {counted(len(sweep['trials']), 'trial')}"
    if not best["trial"]:
        return f"No trial {among} is better than the recipe itself ({metric} {_score(best)})"
    settings = ", ".join(f"{key}={shown(value)}" for key, value in best["settings"].items())
    line = f"Trial {best['trial']} is the best {among}: {settings}; {metric}"
    line = f"{line} {_score(best)}"
    if best["difference"] is None:
        return line
    return f"{line}, {_difference(best)} against the recipe itself"


def sweep_heads(trials: Sequence[TrialEntry]) -> list[str]:
    """The heads of :func:`sweep_cells`: varied keys without their sections."""
    keys = (key.partition(".")[2] for key in trials[0]["settings"])
    return ["trial", *keys, *_HEADS]


def sweep_cells(trials: Sequence[TrialEntry]) -> list[list[str]]:
    """A table's rows, one for each trial."""
    return [
        [
            str(one["trial"]),
            *map(shown, one["settings"].values()),
            one["state"],
            f"{one['share']:.0%}" if one["share"] else NOTHING,
            _score(one),
            _difference(one),
            p_text((one["difference"] or {}).get("bootstrap_p_value")),
        ]
        for one in trials
    ]


def _score(trial: TrialEntry) -> str:
    if trial["score"] is not None:
        return with_interval(trial["score"], digits=_digits(trial["score"]))
    return NOTHING if trial["value"] is None else f"{trial['value']:.4f}"


def _difference(trial: TrialEntry) -> str:
    entry = trial["difference"] or {}
    return with_interval(entry, signed=True, digits=_digits(entry))


def _digits(entry: Mapping[str, object]) -> int:
    """More of a loss, which is small, than of points."""
    return 4 if entry.get("lower_is_better") else 2
