"""``lora_s2s.sweep``; see :mod:`lora_s2s.pipeline.api`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lora_s2s.display import Display
from lora_s2s.pipeline.recipes import AnyRecipe, Name, load_recipe
from lora_s2s.pipeline.surroundings import called

if TYPE_CHECKING:
    from lora_s2s.pipeline.swept import Sweep


def sweep(
    recipe: AnyRecipe,
    vary: Mapping[str, object],
    *,
    trials: int | None = None,
    budget: float | None = None,
    out: Name | None = None,
    overrides: Mapping[str, object] | None = None,
    progress: bool | Display = True,
) -> Sweep:
    """Tries settings of a recipe on its validation data; the same call continues a sweep that was
    stopped or killed. The command trains several trials at a time (``--workers``).

    Args:
        recipe: what :func:`load_recipe` takes or returns.
        vary: keys and what they are varied over: ``{"training.learning_rate": "1e-4:3e-3:log",
            "lora.r": [8, 16, 32]}``.
        trials: how many there are, that of the recipe itself included.
        budget: seconds of training in all.
        out: the sweep's folder; ``sweeps/NAME`` by default.
        overrides: keys such as ``model.name`` and their values.
        progress: see :func:`prepare`.

    Raises:
        Error: as the command ends.
    """
    with called(progress):
        from lora_s2s.pipeline.sweep import run_sweep
        from lora_s2s.pipeline.sweep_options import SweepOptions

        folder = None if out is None else Path(out)
        options = SweepOptions(vary, trials, budget, out=folder)
        return run_sweep(load_recipe(recipe, overrides), None, options)
