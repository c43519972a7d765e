"""A sample of an adapter's newest predictions, for its page, its card and checks."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from lora_s2s.files import read_jsonl
from lora_s2s.hub import EVALUATIONS
from lora_s2s.outputs import PREDICTIONS

_SEED = 12345
# The sample of a longer file is drawn from its first rows.
_MOST_ROWS = 100_000


def sample_rows(adapter_dir: Path, count: int) -> list[Mapping[str, object]]:
    """Draws rows from an adapter's newest evaluation: random, the same every time, in file order;
    none without an evaluation.

    Raises:
        DataError: the predictions cannot be read.
    """
    files = (adapter_dir / EVALUATIONS).glob(f"*/{PREDICTIONS}")
    newest = max(files, key=lambda path: (path.stat().st_mtime_ns, path), default=None)
    if newest is None:
        return []
    chance, kept = random.Random(_SEED), list[tuple[int, Mapping[str, object]]]()
    for place, row in enumerate(islice(read_jsonl(newest), _MOST_ROWS)):
        # Reservoir sampling: every row so far is kept with the same probability.
        if len(kept) < count:
            kept.append((place, row))
        elif (drawn := chance.randrange(place + 1)) < count:
            kept[drawn] = (place, row)
    return [row for _, row in sorted(kept, key=lambda item: item[0])]
