"""A model on the engine that a user names."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.errors import UsageError, nearest
from lora_s2s.exporters.formats import EXPORTERS
from lora_s2s.inference.engine import refuse_settings
from lora_s2s.inference.loading import ENGINES, load_predictor
from lora_s2s.inference.predictor import Predictor
from lora_s2s.models.own_decoding import CHECKPOINT
from lora_s2s.pipeline.decoding import decoding_settings
from lora_s2s.pipeline.export import export_model
from lora_s2s.pipeline.model import predictor_of
from lora_s2s.pipeline.ranks import ALONE, Ranks
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import ExportManifest, InputSettings, is_export

TORCH = "torch"


def predictor_on(
    engine: str | None,
    model: str,
    recipe: Recipe,
    *,
    base: str | None,
    data: str | Sequence[str] | None,
    ranks: Ranks = ALONE,
    baseline: bool = False,
) -> Predictor:
    """Loads a model on an engine; for another runtime it is exported first, in float32, into a
    temporary folder.

    Args:
        engine: ``torch`` or a key of :data:`lora_s2s.inference.loading.ENGINES`; None for what the
            folder is made for.
        data: what the export is compared on; what the adapter was scored or trained on if None.
        baseline: the base is asked for too.
        ranks: the processes that load it; one of each machine exports.

    Raises:
        UsageError: an unknown engine, another than the folder was exported for, or one that lacks
            a decoding setting of the recipe.
        RunError: the export answers differently from the model.
    """
    if engine is None:
        return predictor_of(model, recipe, base)
    known = [TORCH, *ENGINES]
    if engine not in known:
        raise UsageError(
            f"unknown engine '{engine}'{nearest(engine, known)}",
            hint=f"--engine {' or '.join(known)}",
        )
    folder = Path(model).expanduser()
    if is_export(folder):
        made_for = ExportManifest.read(folder).export.format
        if engine != made_for:
            raise UsageError(
                f"{model} was exported for {made_for}, so {engine} cannot run it",
                hint="leave --engine away, or name the adapter or model that it was made from",
            )
    if engine == TORCH or is_export(folder):
        return predictor_of(model, recipe, base)
    if baseline or recipe.evaluation.decoding == CHECKPOINT:
        what = "--baseline" if baseline else f"evaluation.decoding={CHECKPOINT}"
        raise UsageError(f"{what} is not for an export to {engine}", hint="omit --engine")
    exporter = EXPORTERS[engine]
    settings = decoding_settings(recipe.evaluation, InputSettings())
    refuse_settings(settings, exporter.lacks(settings), runtime=exporter.title)
    compared = data if data is None or isinstance(data, str) else data[0]
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / engine
        if ranks.leads:
            export_model(model, out, format=engine, data=compared, base=base, kept=False)
            say(f"answering with {engine} in float32: it answers as the model does")
        exports = ranks.everywhere(str(out) if ranks.leads else "")
        # The processes of a machine follow its first.
        *_, here = filter(None, exports[: ranks.rank + 1])
        predictor = load_predictor(here)
        ranks.everywhere("loaded")  # no folder is removed before
    return predictor
