"""Where the shipped recipes and their JSON Schema are, and what a file that is not there may be
called. Light to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_s2s.errors import closest, nearest

SCHEMA = "recipe.schema.json"
YAML = (".yaml", ".yml")
# Not .json and .txt, which may hold YAML.
DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
FILE_SUFFIXES = (*DATA_SUFFIXES, ".json", ".ndjson", ".tmx", ".txt", ".gz", ".zst", ".zip")
SPREADSHEETS = (".xlsx", ".xls", ".ods")  # which are not read
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


def like_missing(name: str, beside: Sequence[str], also: tuple[str, ...] = ()) -> tuple[str, str]:
    """What a missing file may have been meant for, as :func:`nearest` gives it, and a hint.

    Args:
        name: the file that is not there.
        beside: the names in its folder; those of data, or of the same ending, are suggested.
        also: other endings that are.
    """
    kinds = {Path(name).suffix, *FILE_SUFFIXES, *also}.difference(SPREADSHEETS)
    likely = [other for other in beside if Path(other).suffix.lower() in kinds]
    sheets = [other for other in beside if other.lower().endswith(SPREADSHEETS)]
    as_csv = {str(Path(sheet).with_suffix(".csv")): sheet for sheet in sheets}
    meant = closest(name, [*likely, *as_csv])
    if meant in as_csv and meant not in likely:
        sheet = f"{as_csv[meant]} is a spreadsheet, which is not read"
        return "", f"{sheet}: save it as CSV (UTF-8): {meant}"
    return nearest(name, likely), "check the path; it is relative to the current folder"
