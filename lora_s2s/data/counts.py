"""What preparing counted: the numbers of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_s2s.data.example import Rejected
from lora_s2s.data.tokenise import Features


@dataclass
class SideCounts:
    """One side's texts: full lengths with ``</s>`` before any cut, cuts, and tokens the vocabulary lacks."""

    unknown_id: int | None
    lengths: list[int] = field(default_factory=list)
    truncated: int = 0
    tokens: int = 0
    unknown: int = 0

    def kept(self, ids: list[int], *, truncated: bool) -> None:
        """Counts a kept text (its ids, nothing cut yet)."""
        self.truncated += truncated
        self.tokens += len(ids)
        self.unknown += ids.count(self.unknown_id) if self.unknown_id is not None else 0

    def quantiles(self) -> dict[str, int]:
        """Returns the median, the 95th percentile and the longest."""
        if not self.lengths:
            return {"p50": 0, "p95": 0, "max": 0}
        values = np.asarray(self.lengths)
        p50, p95 = np.percentile(values, [50, 95], method="higher")
        return {"p50": int(p50), "p95": int(p95), "max": int(values.max())}

    def unknown_share(self) -> float:
        """Returns the share of unknown tokens, 0–1."""
        return round(self.unknown / self.tokens, 6) if self.tokens else 0.0


class Counts:
    """Both sides of all splits. Lengths cover pairs left out for their length too: they are what a limit is set by."""

    def __init__(self, unknown_id: int | None) -> None:
        self.source = SideCounts(unknown_id)
        self.target = SideCounts(unknown_id)

    def add(self, source: list[int], target: list[int], features: Features | str) -> None:
        """Counts one tokenised pair, kept (features) or not (a reason)."""
        self.source.lengths.append(len(source) + 1)
        self.target.lengths.append(len(target) + 1)
        if not isinstance(features, str):
            self.source.kept(source, truncated=features.source_truncated)
            self.target.kept(target, truncated=features.target_truncated)

    def report(self, splits: Mapping[str, int], rejected: Iterable[Rejected], leaked: int) -> dict[str, Any]:
        """Returns the report of ``prepare``, but for ``out``."""
        reasons = Counter(item.kind for item in rejected)
        kept, left_out = sum(splits.values()), reasons.total()
        return {
            "rows": {
                "read": kept + left_out, "kept": kept, "rejected": left_out, "by_reason": dict(reasons.most_common()),
            },
            "splits": dict(splits),
            "source_tokens": self.source.quantiles(),
            "target_tokens": self.target.quantiles(),
            "truncated": {"source": self.source.truncated, "target": self.target.truncated},
            "unknown_tokens": {"source": self.source.unknown_share(), "target": self.target.unknown_share()},
            "duplicates": reasons["duplicate"],
            "leaked": leaked,
        }  # fmt: skip
