"""A sample of an adapter's last predictions, for report, card and checks."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lora_s2s.files import read_jsonl
from lora_s2s.hub import EVALUATIONS
from lora_s2s.outputs import PREDICTIONS

_SEED = 12345
# Of a longer file, only the first rows are sampled.
_MOST_ROWS = 100_000

Row = Mapping[str, object]


@dataclass(frozen=True)
class Sampled:
    """Rows of a ``predictions.jsonl`` by their place in it, from 1.

    Attributes:
        evaluation: the name of the evaluation.
        total: the rows of the file, as far as it was read.
    """

    evaluation: str
    total: int
    rows: Mapping[int, Row]


def newest_predictions(adapter_dir: Path) -> Path | None:
    """The predictions of an adapter's last evaluation."""
    files = (adapter_dir / EVALUATIONS).glob(f"*/{PREDICTIONS}")
    return max(files, key=lambda path: (path.stat().st_mtime_ns, path), default=None)


def sample_of(predictions: Path, count: int) -> Sampled:
    """A fixed random sample of a file's rows, in file order.

    Raises:
        DataError: the predictions cannot be read.
    """
    chance, kept, total = random.Random(_SEED), list[tuple[int, Row]](), 0
    for total, row in enumerate(islice(read_jsonl(predictions), _MOST_ROWS), start=1):
        # Reservoir sampling: all rows are equally likely.
        if len(kept) < count:
            kept.append((total, row))
        elif (drawn := chance.randrange(total)) < count:
            kept[drawn] = (total, row)
    rows = dict(sorted(kept, key=lambda item: item[0]))
    return Sampled(predictions.parent.name, total, rows)


def sample_rows(adapter_dir: Path, count: int) -> list[Row]:
    """A fixed random sample of an adapter's last evaluation, in file order; empty if there is none.

    Raises:
        DataError: the predictions cannot be read.
    """
    newest = newest_predictions(adapter_dir)
    return [] if newest is None else list(sample_of(newest, count).rows.values())
