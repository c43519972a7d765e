"""``rejected.jsonl``: every dropped row with its reason; an error if there are too many."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from typing_extensions import Self

from lora_s2s.console import warn
from lora_s2s.data.limits import Chosen
from lora_s2s.data.survey import Tally, suggested_limit
from lora_s2s.errors import DataError
from lora_s2s.examples.causes import MOST_SUGGESTED, Causes, enough
from lora_s2s.files import jsonl_line
from lora_s2s.readers.rows import Rejected

_REASONS_FOR_LIMIT = {
    "recipe": "",
    "cap": ", the maximum of auto",
    "positions": ", the base's number of positions",
    "memory": ", the most that fits into this machine's memory",
}


class Rejections:
    """Writes ``rejected.jsonl`` and counts by reason."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._files = 0
        self._causes = Causes()
        self.reasons = Counter[str]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.close()

    def add(self, item: Rejected) -> None:
        """Writes a rejection."""
        self._file.write(jsonl_line(self._line(item)))
        self.reasons[item.kind] += 1
        if item.line:
            self._causes.add(item)
        else:  # a whole file of a folder
            self._files += 1
            warn(f"{item.file} is omitted: {item.reason}")

    def _line(self, item: Rejected) -> dict[str, Any]:
        return asdict(item)

    def check(self, good: int, most: float) -> None:
        """Raises DataError if too many rows are unusable.

        Args:
            good: the number of examples; omitted files and skipped rows do not count.
            most: the largest fraction of rejections.
        """
        if error := self._causes.too_many(good, most):
            raise error

    def check_targets(self, limit: Chosen, most: float, tally: Tally) -> None:
        """Raises DataError if too many rows are dropped for long targets.

        Args:
            limit: their length limit; not checked if chosen from the data.
            most: the largest fraction.
        """
        count = self.reasons[f"target longer than {limit.tokens} tokens"]
        total = tally.kept + self.reasons.total() - self._files
        if limit.by == "data" or count / max(1, total) <= most:
            return
        suggested = suggested_limit(tally, "target")
        allowed = enough(count, total)
        drops = f", data.max_rejected={allowed:g} drops them" if allowed <= MOST_SUGGESTED else ""
        raise DataError(
            f"{count:,} of {total:,} rows ({count / total:.0%}) would be dropped, more than "
            f"data.max_rejected={most:g}: their targets are longer than "
            f"data.max_target_tokens={limit.tokens}{_REASONS_FOR_LIMIT[limit.by]}",
            hint=f"--set data.max_target_tokens={suggested} keeps 99 % of the rows, "
            f"data.long_targets=cut cuts them{drops}",
        )

    def rows(self, kept: int) -> dict[str, Any]:
        """The report's row counts."""
        omitted = self.reasons.total()
        by_reason = dict(self.reasons.most_common())
        return {"read": kept + omitted, "kept": kept, "rejected": omitted, "by_reason": by_reason}
