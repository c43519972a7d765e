"""Where the shipped recipes and their JSON Schema are. Light to import."""

from __future__ import annotations

from pathlib import Path

SCHEMA = "recipe.schema.json"
YAML = (".yaml", ".yml")
# Not .json and .txt, which may hold YAML.
DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_PACKAGE = Path(__file__).resolve().parents[1]


def shipped() -> dict[str, Path]:
    """Returns the shipped recipes by name: inside the wheel, or beside the package in a
    checkout.
    """
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


def folder() -> Path:
    """Returns the folder of the shipped recipes."""
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"
