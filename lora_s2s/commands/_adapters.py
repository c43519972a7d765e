"""Reading the manifests of adapters for people: a list, one, two side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_s2s.errors import DataError, nearest

NOTHING = "–"


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter's folder and what its manifest says (empty where it was made by other tools)."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def to_json(self) -> dict[str, Any]:
        """Returns name, path and manifest."""
        return {"name": self.name, "path": str(self.path), "manifest": dict(self.manifest)}

    def row(self) -> list[str]:
        """Returns name, base, steps, what it was scored on, and its first score there."""
        from lora_s2s.evaluation.summary import number, score_lines, shown

        first = next(iter(score_lines(self.manifest.get("scores"))), None)
        base, training = (self._section(name) for name in ("base", "training"))
        scored = (first.evaluation, f"{first.metric} {_value(first.adapter)}") if first else (NOTHING, NOTHING)
        return [self.name, shown(base.get("name")), number(training.get("steps")), *scored]

    def _section(self, name: str) -> Mapping[str, Any]:
        section = self.manifest.get(name)
        return section if isinstance(section, Mapping) else {}

    def lines(self) -> dict[str, str]:
        """Returns every score and fact, by what it is."""
        from lora_s2s.evaluation.summary import facts, score_lines

        scores = {f"{line.evaluation} {line.metric}": line.adapter for line in score_lines(self.manifest.get("scores"))}
        return {**scores, **dict(facts(self.manifest)), **self._recipe()}

    def _recipe(self) -> dict[str, str]:
        """Returns the recipe's lines; ``section.key`` to its text."""
        from lora_s2s.commands._scoring import recipe_of

        if not (self.path / "recipe.yaml").is_file():
            return {}
        sections = recipe_of(str(self.path)).model_dump(mode="json")
        return {f"{section}.{key}": str(value) for section, keys in sections.items() for key, value in keys.items()}


def list_adapters(folder: Path) -> list[AdapterInfo]:
    """Returns the adapters in a folder, by name; a damaged one is left out with a warning."""
    from lora_s2s.console import warn

    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if (path / "adapter_config.json").is_file() and not path.name.startswith("."):
            try:
                found.append(_info(path))
            except DataError as error:
                warn(f"{path.name} is left out: {error.message}")
    return found


def find_adapter(name: str, folder: Path) -> AdapterInfo:
    """Returns an adapter by its path, or by its name in ``folder``.

    Raises:
        DataError: there is none, or its manifest is damaged.
    """
    for path in (Path(name).expanduser(), folder / name):
        if (path / "adapter_config.json").is_file():
            return _info(path)
    known = [adapter.name for adapter in list_adapters(folder)]
    if Path(name).is_dir():
        raise DataError(f"{name} is not an adapter: it has no adapter_config.json", hint="lora-s2s adapters")
    raise DataError(f"no adapter '{name}' here or in {folder}{nearest(name, known)}", hint="lora-s2s adapters")


def _info(path: Path) -> AdapterInfo:
    from lora_s2s.files import read_json

    manifest = read_json(path / "manifest.json") if (path / "manifest.json").is_file() else {}
    if not isinstance(manifest, dict):
        raise DataError("the manifest is not an object", where=str(path / "manifest.json"))
    return AdapterInfo(path, manifest)


def show_adapter(adapter: AdapterInfo) -> None:
    """Shows scores and facts as two tables."""
    from lora_s2s.console import table
    from lora_s2s.evaluation.summary import facts, score_lines

    lines = score_lines(adapter.manifest.get("scores"))
    if lines:
        rows = [
            [line.evaluation, line.n, line.metric, _value(line.baseline), _value(line.adapter), line.difference]
            for line in lines
        ]
        table("Scores", ["data", "sources", "metric", "base", "adapter", "difference"], rows)
    table(str(adapter.path), ["what", "value"], [list(fact) for fact in facts(adapter.manifest)])


def _value(score: str) -> str:
    """Returns a score without its interval."""
    return score.split(" [")[0]


def differences(one: AdapterInfo, other: AdapterInfo) -> list[list[str]]:
    """Returns what differs, and every score, as rows of a table."""
    left, right = one.lines(), other.lines()
    names = list(dict.fromkeys([*left, *right]))
    rows = [[name, left.get(name, NOTHING), right.get(name, NOTHING)] for name in names]
    return [row for row in rows if row[1] != row[2]]
