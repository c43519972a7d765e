"""Adapter folders: list and compare them, and read their recipes. Light to import."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_s2s.console import warn
from lora_s2s.errors import DataError, Error, UsageError, nearest
from lora_s2s.files import read_object
from lora_s2s.hub import ADAPTER_CONFIG, RECIPE, check_folder, is_trained, no_adapter
from lora_s2s.pipeline.names import check_model_path, resume_command
from lora_s2s.recipe.evaluation import EvaluationSection
from lora_s2s.recipe.fields import AUTO
from lora_s2s.recipe.layers import Overrides, overridden_keys
from lora_s2s.recipe.load import recipe_from_settings, recorded_recipe
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import (
    AdapterManifest,
    Decoding,
    ExportManifest,
    ModelManifest,
    has_manifest,
    is_export,
    manifest_content,
)
from lora_s2s.reports.summary import (
    NOTHING,
    facts,
    flat,
    number,
    recorded,
    score_lines,
    shown,
    without_interval,
)
from lora_s2s.systems import file_name
from lora_s2s.training.run_lock import running_process

NO_DATA = "none"
_SKIPPED = (
    "metric {metric} is skipped: a function named by a folder's recipe runs only where you name it "
    "too: --set evaluation.{key}={metric}"
)


def names_code(format: str, overrides: Overrides) -> bool:
    """Whether an untrusted folder's recipe, rather than an override, names a Python function."""
    return ":" in format and "data.format" not in overridden_keys(overrides)


def trusted_metrics(recipe: Recipe, overrides: Overrides) -> list[str]:
    """The recipe's metrics without functions that an untrusted folder's recipe names, rather than
    an override; each is reported. ``auto`` if none is left.
    """
    metrics = recipe.evaluation.metrics
    if "evaluation.metrics" in overridden_keys(overrides):
        return metrics
    functions = [name for name in metrics if ":" in name]
    for name in functions:
        warn(_SKIPPED.format(metric=name, key="metrics"))
    return [name for name in metrics if name not in functions] or [AUTO]


def refuse_code(format: str, overrides: Overrides) -> None:
    """Refuses to read rows with a function that an untrusted folder names.

    Raises:
        UsageError: it names one.
    """
    if names_code(format, overrides):
        raise UsageError(
            f"the model's folder names a function to read rows with, '{format}': it runs only "
            "where you name it",
            hint=f"--set data.format={format}",
        )


def recipe_of(model: str, overrides: Overrides = (), *, data: str | None = None) -> Recipe:
    """The recipe an adapter was trained with, or the defaults for a model, with overrides.

    A function of its own that an untrusted folder names for ``evaluation.mbr`` is left out, with a
    warning.

    Args:
        data: the data file, for a model without a recipe.
    """
    recipe = _recipe_of(model, overrides, data)
    metric = recipe.evaluation.mbr
    if metric is None or ":" not in metric or "evaluation.mbr" in overridden_keys(overrides):
        return recipe
    warn(_SKIPPED.format(metric=metric, key="mbr"))
    evaluation = recipe.evaluation.model_copy(update={"mbr": None})
    return recipe.model_copy(update={"evaluation": evaluation})


def _recipe_of(model: str, overrides: Overrides, data: str | None) -> Recipe:
    folder = Path(model).expanduser()
    if (folder / "recipe.yaml").is_file():
        check_folder(folder)
        # Data prepared for scoring goes into a folder of this name, not into another run's.
        name = file_name(folder.absolute().name) or "adapter"
        output = {"output.dir": folder.parent, "output.name": name}
        recipe = recorded_recipe(folder, overrides, output)
        if names_code(recipe.data.format, overrides):
            hint = f"if you trust this function: --set data.format={recipe.data.format}"
            problem = f"the adapter's recipe reads rows with its own code, '{recipe.data.format}'"
            raise DataError(problem, hint=hint, where=str(folder / "recipe.yaml"))
        return recipe
    check_model_path(model)
    # data.train is required, but a model has none; it is never read. A merged model's manifest has
    # decoding settings.
    settings = {"model.name": model, "data.train": data or NO_DATA, "evaluation": _decoding(folder)}
    return recipe_from_settings("model", settings, overrides)


def decoding_of(folder: Path) -> dict[str, Any]:
    """The decoding settings of an adapter's last evaluation, else of its recipe: the length limit,
    the beams, and what else is not at its default.
    """
    if scored := _decoding(folder):
        return scored
    try:
        section = recipe_of(str(folder)).evaluation
    except Error:  # merging needs no recipe
        section = EvaluationSection()
    limit = section.answer_tokens(AdapterManifest.read(folder).input.answer_limit)
    said = section.model_dump(include={*Decoding.model_fields})
    return _not_default(Decoding(**{**said, "max_new_tokens": limit}))


def _not_default(decoding: Decoding) -> dict[str, Any]:
    return decoding.model_dump(exclude_defaults=True)


def _decoding(folder: Path) -> dict[str, Any]:
    """The decoding settings in a folder's manifest; empty if there are none."""
    kind = AdapterManifest if is_trained(folder) else ModelManifest
    exported = is_export(folder)
    decoding = (ExportManifest if exported else kind).read(folder).decoding
    settings = _not_default(decoding) if decoding else {}
    # An export has the numbers, and no generation settings of a checkpoint.
    return {key: settings[key] for key in settings if key != "decoding" or not exported}


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter's folder, its manifest (empty if made by other tools) and PEFT's config."""

    path: Path
    manifest: Mapping[str, object]
    config: Mapping[str, object]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def to_json(self) -> dict[str, object]:
        """Name, path, manifest and PEFT's config."""
        contents = {"manifest": dict(self.manifest), "config": dict(self.config)}
        return {"name": self.name, "path": str(self.path), **contents}

    def row(self) -> list[str]:
        """Name, base, steps, evaluation data and first score, for a table."""
        first = next(iter(score_lines(self.manifest.get("scores"))), None)
        scored = (
            (first.evaluation, f"{first.label} {without_interval(first.adapter)}")
            if first
            else (NOTHING, NOTHING)
        )
        base = shown(
            recorded(self.manifest, "base", "name") or self.config.get("base_model_name_or_path")
        )
        return [self.name, base, number(recorded(self.manifest, "training", "steps")), *scored]

    def lines(self) -> dict[str, str]:
        """Every score, fact and recipe key by name."""
        scores = {
            f"{line.evaluation} {line.label}": line.adapter
            for line in score_lines(self.manifest.get("scores"))
        }
        lines = {**scores, **dict(self.facts())}
        if (self.path / RECIPE).is_file():
            for name, section in recorded_recipe(self.path):
                lines |= section.by_key(name)
        return lines

    def facts(self) -> list[tuple[str, str]]:
        """The manifest's facts; PEFT's config for an adapter made by other tools."""
        return facts(self.manifest) if self.manifest else list(flat("", self.config))


def list_adapters(folder: Path) -> list[AdapterInfo]:
    """The adapters in a folder, by name; damaged ones are omitted with a warning."""
    adapters = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            if not path.name.startswith(".") and is_trained(path):
                adapters.append(_info(path))
        except (DataError, OSError) as error:
            reason = error.message if isinstance(error, DataError) else error.strerror
            warn(f"{path.name} is omitted: {reason}")
    return adapters


def unfinished_runs(folder: Path) -> list[dict[str, object]]:
    """The runs in a folder that have not finished: the last step that was saved, what was asked
    for, the process that trains (None: it was stopped), and the command that continues it.
    """
    runs: list[dict[str, object]] = []
    for path in sorted(folder.glob("[!.]*.running")):
        training = None
        with suppress(Error):  # no recipe yet, or one of another version
            training = recorded_recipe(path).training
        saved = [step.name[5:] for step in path.glob("checkpoints/step-*")]
        runs.append(
            {
                "name": path.stem,
                "path": str(path),
                "step": max((int(step) for step in saved if step.isdecimal()), default=0),
                "max_steps": training and training.max_steps,
                "epochs": training and training.epochs,
                "process": running_process(path),
                "command": resume_command(path),
            }
        )
    return runs


def find_adapter(name: str, folder: Path) -> AdapterInfo:
    """Finds an adapter by its path, or by its name in ``folder``.

    Raises:
        DataError: there is none, or its manifest is damaged.
    """
    for path in (Path(name).expanduser(), folder / name):
        if is_trained(path):
            return _info(path)
    names = [adapter.name for adapter in list_adapters(folder)]
    if Path(name).is_dir():
        raise no_adapter(Path(name))
    raise DataError(
        f"no adapter '{name}' here or in {folder}{nearest(name, names)}", hint="lora-s2s adapters"
    )


def _info(path: Path) -> AdapterInfo:
    check_folder(path)
    manifest = manifest_content(path) if has_manifest(path) else {}
    config = path / ADAPTER_CONFIG
    return AdapterInfo(path, manifest, read_object(config) if config.is_file() else {})


def differences(*adapters: AdapterInfo) -> list[list[str]]:
    """The differing entries of adapters, as rows of a table."""
    lines = [adapter.lines() for adapter in adapters]
    names = dict.fromkeys(name for held in lines for name in held)
    rows = [[name, *(held.get(name, NOTHING) for held in lines)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]
