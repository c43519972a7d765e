"""The loss curve of a run as a PNG."""

from __future__ import annotations

import io
from array import array
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lora_s2s.files import read_jsonl, write_bytes

_INK, _QUIET, _GRID = "#1f2933", "#66727f", "#e4e9ee"
_THIN, _TRAINING, _VALIDATION = "#a9c7d6", "#12698a", "#d1495b"
# Bounds on long logs; the cost of smoothing grows quadratically with the points.
_MOST_ROWS, _MOST_POINTS = 1_000_000, 20_000
# With fewer steps, smoothing has no meaning.
_FEW = 12

Points = tuple[NDArray[np.float64], NDArray[np.float64]]


def loss_curve(metrics_jsonl: Path, out_png: Path) -> Path:
    """Draws training loss per optimizer step (thin and smoothed) and validation loss (points).

    Args:
        metrics_jsonl: rows with ``step`` and ``loss`` or ``validation_loss``; others are ignored.
        out_png: the output file, written atomically.

    Raises:
        DataError: the log is missing or not JSON lines.
    """
    training, validation = losses(metrics_jsonl)
    figure = _figure(training, validation)
    picture = io.BytesIO()
    # Without a software version, equal logs give equal bytes.
    figure.savefig(picture, format="png", dpi=160, metadata={"Software": None})
    write_bytes(out_png, picture.getvalue())
    return out_png


def losses(metrics_jsonl: Path) -> list[Points]:
    """Steps and values of the training and the validation loss, thinned if there are very many.

    Raises:
        DataError: the log is missing or not JSON lines.
    """
    columns = {key: array("d") for key in ("loss", "validation_loss")}
    for row in islice(read_jsonl(metrics_jsonl), _MOST_ROWS):
        for key, numbers in columns.items():
            if _is_number(row.get("step")) and _is_number(row.get(key)):
                numbers.extend((row["step"], row[key]))
    return [_thinned(np.array(numbers).reshape(-1, 2)) for numbers in columns.values()]


def _thinned(table: NDArray[np.float64]) -> Points:
    """The columns of a table; of a long one, the means of neighbouring rows."""
    together = -(-len(table) // _MOST_POINTS)
    if together > 1:
        whole = len(table) - len(table) % together
        table = table[:whole].reshape(-1, together, 2).mean(axis=1)
    return table[:, 0], table[:, 1]


def _is_number(value: object) -> bool:
    # Implausible values would distort the axes.
    return isinstance(value, int | float) and abs(value) < 1e12


def _figure(training: Points, validation: Points) -> Figure:
    figure = Figure(figsize=(8.4, 4.3), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_training(axes, *training)
    _draw_validation(axes, *validation)
    if not len(training[0]) and not len(validation[0]):
        axes.text(0.5, 0.5, "no losses logged", transform=axes.transAxes, ha="center", color=_QUIET)
    else:
        axes.legend(
            loc="upper right", labelcolor=_INK, fontsize=10, edgecolor="none", framealpha=0.85
        )
    _style(axes)
    return figure


def _draw_training(axes: Axes, steps: NDArray[np.float64], losses: NDArray[np.float64]) -> None:
    if len(steps) < _FEW:
        if len(steps):
            axes.plot(steps, losses, color=_TRAINING, lw=2, marker="o", ms=4, label="training")
        return
    axes.plot(steps, losses, color=_THIN, lw=0.8, alpha=0.9, label="training, each step")
    axes.plot(steps, smoothed(losses), color=_TRAINING, lw=2.2, label="training, smoothed")


def _draw_validation(axes: Axes, steps: NDArray[np.float64], losses: NDArray[np.float64]) -> None:
    if not len(steps):
        return
    axes.plot(
        steps,
        losses,
        label="validation",
        color=_VALIDATION,
        lw=1.2,
        marker="o",
        ms=6.5,
        mec="white",
        mew=1.2,
        zorder=4,
    )
    best = int(losses.argmin())
    # The label points towards the middle, so that it is not cut off.
    left = steps[best] > sum(axes.get_xlim()) / 2
    axes.annotate(
        f"best {losses[best]:.3f}",
        (steps[best], losses[best]),
        xytext=(0, 12),
        textcoords="offset points",
        ha="right" if left else "left",
        color=_VALIDATION,
        fontsize=10,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.5},
        zorder=5,
    )


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A moving average, heavier in the middle of its window."""
    # A centred, bell-shaped window: no lag, and correct weights at both ends.
    width = max(3, len(values) // 20) | 1
    window = np.hanning(width + 2)[1:-1]
    weights = np.convolve(np.ones_like(values), window, mode="same")
    return np.asarray(np.convolve(values, window, mode="same") / weights)


def _style(axes: Axes) -> None:
    axes.set_title("Loss", loc="left", color=_INK, fontsize=13, fontweight="bold", pad=10)
    axes.set_xlabel("optimizer step", color=_QUIET, fontsize=10)
    axes.set_ylabel("nats per target token", color=_QUIET, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(axis="y", color=_GRID, lw=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, labelsize=9.5, length=0)
    hidden: Sequence[str] = ("top", "right", "left")
    for side in hidden:
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.margins(x=0.02)
