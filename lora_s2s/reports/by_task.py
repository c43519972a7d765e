"""Scores of each task of an evaluation, as texts for tables."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lora_s2s.console import counted
from lora_s2s.files import mapping
from lora_s2s.reports.summary import (
    Table,
    is_number,
    metric_label,
    number,
    shown,
    with_interval,
)

# Of more tasks, the worst are shown.
MOST_TASKS = 500
_LONGEST_NAME = 100


def task_tables(scores: Mapping[str, object], first: str) -> list[Table]:
    """A table for each evaluation in a manifest's ``scores`` that has tasks, ``first`` first."""
    order = sorted(scores, key=lambda name: name != first)
    tables = ((name, task_table(mapping(scores[name]), MOST_TASKS)) for name in order)
    return [
        (f"{shown(name)}: {caption}", heads, rows)
        for name, (caption, heads, rows) in tables
        if rows
    ]


def task_table(entry: Mapping[str, object], most: int, *, intervals: bool = True) -> Table:
    """The ``most`` worst tasks of one evaluation (an object of ``eval --json``), worst first."""
    tasks, metrics = mapping(entry.get("tasks")), mapping(entry.get("metrics"))
    labels = {name: metric_label(shown(name), mapping(score)) for name, score in metrics.items()}
    ends = mapping(entry.get("task_intervals")) if intervals else {}
    by, worst = _judged_by(metrics), list(tasks)
    caption = f"{most:,} of " if len(tasks) > most else ""
    caption += counted(len(tasks), "task")
    if by is not None:
        lower = mapping(metrics[by]).get("lower_is_better") is True
        worst.sort(key=lambda task: _badness(mapping(tasks[task]).get(by), lower=lower))
        caption += f", worst {shown(by)} first"
    rows = []
    for task in worst[:most]:
        values, held = mapping(tasks[task]), mapping(ends.get(task))
        cells = [_cell(values.get(name), held.get(name)) for name in metrics]
        rows.append([_name(task), _count(values.get("n")), *cells])
    return caption, ["Task", "Sources", *labels.values()], rows


def _judged_by(metrics: Mapping[str, object]) -> str | None:
    """The first metric of which some values are better."""
    judging = (name for name, score in metrics.items() if not mapping(score).get("descriptive"))
    return next(judging, None)


def _badness(value: object, *, lower: bool) -> float:
    """Sorts the worst score first, and tasks without one last."""
    if not is_number(value):
        return math.inf
    return -value if lower else value


def _cell(value: object, interval: object) -> str:
    # Narrow columns break between score and interval alone.
    return with_interval({"value": value, "interval": interval}).replace(", ", ",\u00a0")


def _name(task: str) -> str:
    return shown(task if len(task) <= _LONGEST_NAME else f"{task[:_LONGEST_NAME]}…")


def _count(value: object) -> str:
    return number(int(value) if isinstance(value, float) and is_number(value) else value)
