"""What a sweep is asked to do. Light to import: what is wrong with it is reported before torch
loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_s2s.errors import UsageError
from lora_s2s.recipe.schema import Recipe
from lora_s2s.recipe.space import Varied, read_space


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep varies, and when it ends.

    Attributes:
        vary: ``KEY=A:B``, ``KEY=A:B:log`` or ``KEY=a,b,c`` words, or a mapping.
        trials: how many there are, that of the recipe itself included.
        budget: seconds of training in all, over every time that the sweep was started.
        workers: how many trials train at a time.
        out: the sweep's folder; ``sweeps/NAME`` by default.
    """

    vary: Sequence[str] | Mapping[str, object]
    trials: int | None = None
    budget: float | None = None
    workers: int = 1
    out: Path | None = None

    def space(self, recipe: Recipe) -> tuple[Varied, ...]:
        """What is varied.

        Raises:
            UsageError: a key, a range or another option is wrong.
        """
        if self.trials is None and self.budget is None:
            raise UsageError(
                "a sweep needs an end",
                hint="give --budget 30m, --trials 12, or both: the first ends it",
            )
        for name, value in (("trials", self.trials), ("workers", self.workers)):
            if value is not None and value < 1:
                raise UsageError(f"expected at least 1 of --{name}, got {value}")
        return read_space(recipe, self.vary)
