"""The Python API: what ``import lora_s2s`` offers. Each function does what the command of its name
does.

Heavy parts are imported inside :func:`called`, where libraries are quiet, and where the hint of an
:class:`lora_s2s.Error` gets the names of the arguments here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from lora_s2s.display import Display
from lora_s2s.pipeline.names import (
    given_overrides,
    given_path,
    located_adapter,
    located_model,
    optional_path,
)
from lora_s2s.pipeline.recipes import AnyRecipe, Files, Name
from lora_s2s.pipeline.surroundings import called

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from lora_s2s.pipeline.export import ExportReport
    from lora_s2s.pipeline.init import StarterRecipe
    from lora_s2s.pipeline.merge import MergedModel
    from lora_s2s.pipeline.model import Model
    from lora_s2s.pipeline.scores import EvaluationOptions, Scores
    from lora_s2s.pipeline.several import Several
    from lora_s2s.pipeline.trained import TrainedAdapter


def init(
    data: Files,
    overrides: Mapping[str, object] | None = None,
    *,
    out: Name | None = None,
    gpu_memory: str | None = None,
    overwrite: bool = False,
    progress: bool | Display = True,
) -> StarterRecipe:
    """Writes a recipe for a file and this machine, with the reason of each value.

    >>> import csv, lora_s2s
    >>> with open("numbers.csv", "w", newline="") as file:
    ...     rows = [(f"what comes after {n}?", n + 1) for n in range(40)]
    ...     csv.writer(file).writerows([("question", "answer"), *rows])
    >>> recipe = lora_s2s.init("numbers.csv", {"model.name": "demo"}, progress=False)
    >>> recipe.path.name, [one.value for one in recipe.decisions if one.key == "evaluation.metrics"]
    ('numbers.yaml', [['exact_match', 'token_f1', 'chrf']])

    Args:
        data: a file, or several.
        overrides: keys such as ``model.name`` and their values, in place of what would be chosen.
        out: the recipe's file; ``NAME.yaml`` by default.
        gpu_memory: of the GPU that will train, such as ``8GB``; by default this machine trains.
        overwrite: replace any recipe of this name; else an edited one is an error, and of another
            what was given before is kept.
        progress: see :func:`lora_s2s.prepare`.

    Raises:
        Error: as the command ends.
    """
    with called(progress):
        from lora_s2s.pipeline.wishes import Wishes, look

        files = _names(data)
        wishes = Wishes(
            data=[files] if isinstance(files, str) else files or [],
            sets=given_overrides(overrides),
            out=None if out is None else Path(out),
            gpu_memory=gpu_memory,
            overwrite=overwrite,
        )
        looked = look(wishes)
        from lora_s2s.pipeline.init import write_recipe

        return write_recipe(looked)


def train(
    recipe: AnyRecipe,
    overrides: Mapping[str, object] | None = None,
    *,
    resume: bool = False,
    resume_anyway: bool = False,
    overwrite: bool = False,
    stop_after: float | None = None,
    progress: bool | Display = True,
) -> TrainedAdapter:
    """Trains an adapter; prepares the data first where that has not been done.

    >>> import lora_s2s
    >>> rows = {"data.train": "demo:validation", "data.validation": "demo:test"}
    >>> few = {"training.max_steps": 2, "evaluation.limit": 4, "output.name": "short"}
    >>> run = lora_s2s.train(lora_s2s.load_recipe("demo", {**rows, **few}), progress=False)
    >>> run.adapter.name, run.steps
    ('short', 2)
    >>> 0 < run.train_loss < 10
    True

    Args:
        recipe: what :func:`load_recipe` takes or returns, data that :func:`lora_s2s.prepare`
            returned (or its folder), what :func:`init` returned, or a data file, whose recipe is
            written first.
        overrides: keys such as ``model.name`` and their values.
        resume: continue an unfinished run of this name.
        resume_anyway: resume although code, data (same row count), learning rate or schedule
            changed. The result is not bit-identical.
        overwrite: replace an adapter or run of this name.
        stop_after: seconds after which the run ends with a checkpoint and without an adapter.
        progress: see :func:`lora_s2s.prepare`.

    Raises:
        Error: as the command ends; ``Stopped`` after Ctrl-C, with a checkpoint saved.
    """
    begun = time.monotonic()
    deadline = None if stop_after is None else begun + stop_after
    with called(progress):
        from lora_s2s.pipeline.run_input import recipe_and_data
        from lora_s2s.pipeline.trained import RunOptions

        options = RunOptions(
            resume or resume_anyway, resume_anyway, deadline, begun, overwrite=overwrite
        )
        loaded, prepared = recipe_and_data(recipe, given_overrides(overrides), options)
        from lora_s2s.pipeline.train import train_adapter

        return train_adapter(loaded, prepared=prepared, options=options)


@overload
def evaluate(
    model: Name | None = None,
    data: Files | None = None,
    **options: Unpack[EvaluationOptions],
) -> Scores:
    """One model, or given predictions."""


@overload
def evaluate(
    model: list[str] | list[Path] | tuple[Name, ...],
    data: Files | None = None,
    **options: Unpack[EvaluationOptions],
) -> Several:
    """Several models on the same rows."""


def evaluate(
    model: Name | list[str] | list[Path] | tuple[Name, ...] | None = None,
    data: Files | None = None,
    *,
    baseline: bool = False,
    against: Name | None = None,
    predictions: Name | None = None,
    limit: int | None = None,
    out: Name | None = None,
    base: Name | None = None,
    engine: str | None = None,
    resume: bool = False,
    overrides: Mapping[str, object] | None = None,
    progress: bool | Display = True,
) -> Scores | Several:
    """Scores a model or adapter against all references of each source, with 95 % intervals.

    >>> import lora_s2s
    >>> scores = lora_s2s.evaluate("adapters/short", limit=4, baseline=True, progress=False)
    >>> scores.n, sorted(scores.metrics)
    (4, ['exact_match', 'rougeL', 'token_f1'])
    >>> low, high = scores.metrics["rougeL"].interval
    >>> low <= scores.metrics["rougeL"].value <= high
    True

    Args:
        model: an adapter, its name in ``adapters/``, a model or exported folder, a hub id, or
            ``demo``. Several are scored on the same rows, and each is compared with the first. May
            be omitted if ``predictions`` are given.
        data: what to score on, files or a folder of prepared data; the recipe's test data by
            default.
        baseline: score the base too, and the difference.
        against: another model, or a file of predictions: scored too, with the difference.
        predictions: a file of predictions made elsewhere, which is scored in place of answers.
        limit: score a random sample of so many sources.
        out: where predictions go; in the adapter's folder by default.
        base: a base in place of the one that the adapter names.
        engine: ``torch``, or a runtime that the model is exported to first (``ct2``); by default
            what the folder is made for.
        resume: continue an evaluation that was stopped.
        overrides: such as ``{"evaluation.num_beams": 4}``.
        progress: see :func:`lora_s2s.prepare`.

    Raises:
        Error: as the command ends.
    """
    with called(progress):
        several = isinstance(model, list | tuple)
        given = model if isinstance(model, list | tuple) else [] if model is None else [model]
        names = [located_model(given_path("model", name)) for name in given]
        from lora_s2s.pipeline.scores import Asked

        asked = Asked(
            data=_names(data),
            baseline=baseline,
            against=optional_path("against", against),
            predictions=optional_path("predictions", predictions),
            limit=limit,
            out=None if out is None else Path(out),
            base=optional_path("base", base),
            engine=optional_path("engine", engine),
            resume=resume,
        )
        if several:
            from lora_s2s.pipeline.several import score_several

            return score_several(names, asked, given_overrides(overrides))
        from lora_s2s.pipeline.evaluate import score_model

        return score_model(names[0] if names else None, asked, given_overrides(overrides))


def load(
    model: Name,
    overrides: Mapping[str, object] | None = None,
    *,
    base: Name | None = None,
    progress: bool | Display = True,
) -> Model:
    """Loads a model that answers texts and rows: an adapter, a base, a merged or an exported model.

    >>> import lora_s2s
    >>> model = lora_s2s.load("adapters/short", progress=False)
    >>> type(model("table for two on friday"))
    <class 'str'>
    >>> len(model(["table for two", "a table for 4"], num_beams=2, max_new_tokens=8))
    2

    Args:
        model, overrides, base: see :func:`evaluate`.
        progress: see :func:`lora_s2s.prepare`; of loading, and of lists that are answered.

    Raises:
        Error: as ``predict`` ends.
    """
    with called(progress):
        named, given = optional_path("base", base), given_overrides(overrides)
        name = located_model(given_path("model", model))
        from lora_s2s.pipeline.model import open_model

        return open_model(name, base=named, overrides=given, progress=progress)


def merge(
    adapter: Name,
    out: Name,
    *,
    onto: str = "original",
    dtype: str | None = None,
    data: Name | None = None,
    base: Name | None = None,
    progress: bool | Display = True,
) -> MergedModel:
    """Folds an adapter into its base, and measures what changed.

    >>> import lora_s2s
    >>> report = lora_s2s.merge("adapters/short", "merged", progress=False)
    >>> report.dtype, report.top1_changed
    ('float32', 0.0)
    >>> type(lora_s2s.load("merged", progress=False)("table for two"))
    <class 'str'>

    Args:
        adapter: its folder, or its name in ``adapters/``.
        out: the folder of the merged model, which must not exist.
        onto: ``original``, or ``dequantized``: the base as it was in 4 or 8 bits.
        dtype: float32, bfloat16 or float16; by default what the adapter was trained in.
        data: what to compare on; what the adapter was scored or trained on by default.
        base: a base in place of the one that the adapter names.
        progress: see :func:`lora_s2s.prepare`.

    Raises:
        Error: as the command ends.
    """
    with called(progress):
        folder = located_adapter(given_path("adapter", adapter))
        from lora_s2s.pipeline.merge import merge_model

        return merge_model(
            folder,
            Path(given_path("out", out)),
            onto=onto,
            dtype=dtype,
            data=optional_path("data", data),
            base=optional_path("base", base),
        )


def export(
    model: Name,
    format: str,
    out: Name,
    *,
    precision: str = "float32",
    max_shard_size: str | int | None = None,
    data: Name | None = None,
    base: Name | None = None,
    progress: bool | Display = True,
) -> ExportReport:
    """Writes a model or adapter in another runtime's format, and keeps it only if it answers the
    same.

    >>> import lora_s2s
    >>> report = lora_s2s.export("adapters/short", "ct2", "short-ct2", progress=False)
    >>> report.parity.greedy_equal
    1.0

    Args:
        model: see :func:`evaluate`; an adapter is merged first.
        format: ``ct2`` (CTranslate2; needs ``pip install 'lora-s2s[ct2]'``), ``onnx`` (onnxruntime;
            ``pip install 'lora-s2s[onnx]'``) or ``safetensors``.
        out: the new folder.
        precision: float32; also float16 and bfloat16 (ct2, safetensors), int8 (ct2, onnx),
            int8_float32 and int8_float16 (ct2).
        max_shard_size: the largest file of safetensors, as bytes or such as ``2GB``.
        data: what to compare on; by default what the adapter was scored or trained on.
        base: a base in place of the one that the adapter names.
        progress: see :func:`lora_s2s.prepare`.

    Raises:
        Error: as the command ends; ``RunError`` if the export answers differently.
    """
    with called(progress):
        place = located_model(given_path("model", model))
        from lora_s2s.pipeline.export import export_model

        return export_model(
            place,
            Path(given_path("out", out)),
            format=format,
            precision=precision,
            max_shard_size=max_shard_size,
            data=optional_path("data", data),
            base=optional_path("base", base),
        )


def _names(data: Files | None) -> str | list[str] | None:
    if data is None or isinstance(data, str | os.PathLike) or not isinstance(data, Sequence):
        return optional_path("data", data)
    names = [given_path("data", name) for name in data]
    return names[0] if len(names) == 1 else names or None
