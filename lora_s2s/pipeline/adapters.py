"""Adapters and what their folders say: a list, one, two side by side, the recipe one was made with.
Light to import.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_s2s.console import warn
from lora_s2s.errors import DataError, Error, UsageError, nearest
from lora_s2s.files import read_object
from lora_s2s.hub import ADAPTER_CONFIG, check_folder, no_adapter
from lora_s2s.recipe.layers import Overrides, overridden_keys
from lora_s2s.recipe.load import load_recipe, recipe_from_settings
from lora_s2s.recipe.schema import EvaluationSection, Recipe
from lora_s2s.records import (
    AdapterManifest,
    ExportManifest,
    ModelManifest,
    has_manifest,
    is_export,
    manifest_content,
)
from lora_s2s.reports.summary import NOTHING, facts, flat, number, score_lines, shown

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
NO_DATA = "none"


def names_code(format: str, overrides: Overrides) -> bool:
    """Says whether a model's folder, which may be anybody's, and not the command line names a
    function of its own.
    """
    return ":" in format and "data.format" not in overridden_keys(overrides)


def recipe_of(model: str, overrides: Overrides = (), *, data: str | None = None) -> Recipe:
    """Returns the recipe an adapter was made with, or the defaults for a plain model, with
    overrides.

    Args:
        data: the data file, for a model that comes without a recipe.
    """
    folder = Path(model).expanduser()
    if (folder / "recipe.yaml").is_file():
        check_folder(folder)
        # Its data may be prepared for a score, in a folder of this name: not in another run's.
        name = _NOT_IN_NAMES.sub("-", folder.absolute().name).lstrip("-._")[:100] or "adapter"
        own = {"output.dir": folder.parent, "output.name": name}
        recipe = load_recipe(str(folder / "recipe.yaml"), overrides, own, only_shipped=True)
        if names_code(recipe.data.format, overrides):
            hint = f"if you know that function: --set data.format={recipe.data.format}"
            problem = (
                f"the adapter's recipe reads rows with code of its own, '{recipe.data.format}'"
            )
            raise DataError(problem, hint=hint, where=str(folder / "recipe.yaml"))
        return recipe
    if not folder.exists() and folder.parent.is_dir() and "/" in model:
        # Also of the form of a hub id, but it stands in a folder of this machine.
        siblings = [path.name for path in folder.parent.iterdir()]
        raise UsageError(
            f"no such folder: {model}{nearest(folder.name, siblings)}", hint="lora-s2s adapters"
        )
    # A model has no training data; the key is required, so it is given and never read. A merged one
    # says how to decode.
    given = {"model.name": model, "data.train": data or NO_DATA, "evaluation": _decoding(folder)}
    return recipe_from_settings("model", given, overrides)


def decoding_of(folder: Path) -> dict[str, int]:
    """Returns ``max_new_tokens`` and ``num_beams``: of an adapter's newest scores, else of its
    recipe.
    """
    if scored := _decoding(folder):
        return {name: scored[name] for name in ("max_new_tokens", "num_beams")}
    try:
        section = recipe_of(str(folder)).evaluation
    except Error:  # merging needs no recipe
        section = EvaluationSection()
    limit = section.answer_tokens(AdapterManifest.read(folder).input.max_target_tokens)
    return {"max_new_tokens": limit, "num_beams": section.num_beams}


def _decoding(folder: Path) -> dict[str, int]:
    """Returns how a folder's manifest says that its model decodes; empty where it does not."""
    kind = AdapterManifest if (folder / ADAPTER_CONFIG).is_file() else ModelManifest
    decoding = (ExportManifest if is_export(folder) else kind).read(folder).decoding
    return decoding.model_dump(exclude_none=True) if decoding else {}


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter's folder, what its manifest says (empty where it was made by other tools), and
    PEFT's config.
    """

    path: Path
    manifest: Mapping[str, object]
    config: Mapping[str, object]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def to_json(self) -> dict[str, object]:
        """Returns name, path, manifest and PEFT's config."""
        contents = {"manifest": dict(self.manifest), "config": dict(self.config)}
        return {"name": self.name, "path": str(self.path), **contents}

    def row(self) -> list[str]:
        """Returns name, base, steps, what it was scored on, and its first score there."""
        first = next(iter(score_lines(self.manifest.get("scores"))), None)
        scored = (
            (first.evaluation, f"{first.metric} {without_interval(first.adapter)}")
            if first
            else (NOTHING, NOTHING)
        )
        base = shown(self._said("base", "name") or self.config.get("base_model_name_or_path"))
        return [self.name, base, number(self._said("training", "steps")), *scored]

    def _said(self, section: str, key: str) -> object:
        found = self.manifest.get(section)
        return found.get(key) if isinstance(found, Mapping) else None

    def lines(self) -> dict[str, str]:
        """Returns every score and fact, by what it is."""
        scores = {
            f"{line.evaluation} {line.metric}": line.adapter
            for line in score_lines(self.manifest.get("scores"))
        }
        recipe = self.path / "recipe.yaml"
        sections = (
            load_recipe(str(recipe), only_shipped=True).model_dump(mode="json")
            if recipe.is_file()
            else {}
        )
        keys = {
            f"{section}.{key}": str(value)
            for section, said in sections.items()
            for key, value in said.items()
        }
        return {**scores, **dict(self.facts()), **keys}

    def facts(self) -> list[tuple[str, str]]:
        """Returns what the manifest says; of an adapter made by other tools, all that PEFT's config
        says.
        """
        return facts(self.manifest) if self.manifest else list(flat("", self.config))


def list_adapters(folder: Path) -> list[AdapterInfo]:
    """Returns the adapters in a folder, by name; a damaged one is left out with a warning."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            if not path.name.startswith(".") and (path / ADAPTER_CONFIG).is_file():
                found.append(_info(path))
        except (DataError, OSError) as error:
            reason = error.message if isinstance(error, DataError) else error.strerror
            warn(f"{path.name} is left out: {reason}")
    return found


def find_adapter(name: str, folder: Path) -> AdapterInfo:
    """Returns an adapter by its path, or by its name in ``folder``.

    Raises:
        DataError: there is none, or its manifest is damaged.
    """
    for path in (Path(name).expanduser(), folder / name):
        if (path / ADAPTER_CONFIG).is_file():
            return _info(path)
    known = [adapter.name for adapter in list_adapters(folder)]
    if Path(name).is_dir():
        raise no_adapter(Path(name))
    raise DataError(
        f"no adapter '{name}' here or in {folder}{nearest(name, known)}", hint="lora-s2s adapters"
    )


def _info(path: Path) -> AdapterInfo:
    check_folder(path)
    manifest = manifest_content(path) if has_manifest(path) else {}
    return AdapterInfo(path, manifest, read_object(path / ADAPTER_CONFIG))


def without_interval(score: str) -> str:
    """Returns a score without its interval."""
    return score.split(" [")[0]


def differences(one: AdapterInfo, other: AdapterInfo) -> list[list[str]]:
    """Returns what differs, and every score, as rows of a table."""
    left, right = one.lines(), other.lines()
    names = list(dict.fromkeys([*left, *right]))
    rows = [[name, left.get(name, NOTHING), right.get(name, NOTHING)] for name in names]
    return [row for row in rows if row[1] != row[2]]
