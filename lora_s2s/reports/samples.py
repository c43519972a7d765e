"""A sample of an adapter's last predictions, for report, card and checks."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from lora_s2s.files import read_jsonl
from lora_s2s.hub import EVALUATIONS
from lora_s2s.outputs import PREDICTIONS

_SEED = 12345
# Of a longer file, only the first rows are sampled.
_MOST_ROWS = 100_000


def sample_rows(adapter_dir: Path, count: int) -> list[Mapping[str, object]]:
    """A fixed random sample of an adapter's last evaluation, in file order; empty if there is none.

    Raises:
        DataError: the predictions cannot be read.
    """
    files = (adapter_dir / EVALUATIONS).glob(f"*/{PREDICTIONS}")
    newest = max(files, key=lambda path: (path.stat().st_mtime_ns, path), default=None)
    if newest is None:
        return []
    chance, kept = random.Random(_SEED), list[tuple[int, Mapping[str, object]]]()
    for place, row in enumerate(islice(read_jsonl(newest), _MOST_ROWS)):
        # Reservoir sampling: all rows are equally likely.
        if len(kept) < count:
            kept.append((place, row))
        elif (drawn := chance.randrange(place + 1)) < count:
            kept[drawn] = (place, row)
    return [row for _, row in sorted(kept, key=lambda item: item[0])]
