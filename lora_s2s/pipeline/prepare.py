"""A recipe's data as a prepared folder. Heavy to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_s2s.console import counted, warn
from lora_s2s.data.manifest import made_from_same
from lora_s2s.data.prepare import prepare
from lora_s2s.data.prepared import REJECTED, PreparedDataset
from lora_s2s.data_report import DataReport, PairSide, Sides, listed
from lora_s2s.errors import quoted
from lora_s2s.files import write_text
from lora_s2s.hub import RECIPE, only_cache
from lora_s2s.pipeline import html
from lora_s2s.pipeline.followed import has_pattern, recorded_sources
from lora_s2s.pipeline.label_set import labels_among
from lora_s2s.pipeline.lengths import bounds_of
from lora_s2s.pipeline.recipes import prepared_folder
from lora_s2s.recipe.load import recipe_to_yaml
from lora_s2s.recipe.schema import Recipe

_HEAD = "# The recipe that this data was prepared with. lora-s2s train FOLDER uses both.\n"


@dataclass(frozen=True)
class PreparedData:
    """Prepared data.

    Attributes:
        path: the folder, which ``train`` takes too.
        report: what was read, kept, cut and dropped: the object of ``prepare --json``.
        preview: a few training pairs as the model sees them.
    """

    path: Path
    report: Mapping[str, Any] = field(repr=False)
    preview: Sequence[Sides[PairSide]] = field(repr=False)

    @property
    def splits(self) -> Mapping[str, int]:
        """The rows of each split."""
        splits: Mapping[str, int] = self.report["splits"]
        return splits

    def to_dict(self) -> dict[str, Any]:
        """The object of ``prepare --json``."""
        return dict(self.report)

    def _repr_html_(self) -> str:
        return html.prepared(self.report, self.preview)

    def __fspath__(self) -> str:
        return str(self.path.resolve())


def prepare_data(
    recipe: Recipe,
    out: Path | None = None,
    *,
    previews: int = 3,
    strict: bool = False,
    shards: Sequence[Path] | None = None,
) -> PreparedDataset:
    """Prepares a recipe's data, or opens what an earlier run prepared from the same data and
    settings.

    Args:
        out: the folder; ``prepared/NAME`` beside the folder of adapters by default.
        previews, strict, shards: see :func:`lora_s2s.data.prepare.prepare`.
    """
    prepared = prepare(
        recipe.data,
        recipe.model,
        out=out or prepared_folder(recipe),
        seed=recipe.training.seed,
        previews=previews,
        strict=strict,
        bounds=bounds_of(recipe),
        shards=shards,
    )
    _keep_recipe(prepared.path / RECIPE, recipe)
    return prepared


def _keep_recipe(path: Path, recipe: Recipe) -> None:
    """Writes the recipe into a prepared folder, for ``train FOLDER``; keys that are ``auto`` stay
    so.
    """
    text = _HEAD + recipe_to_yaml(recipe)
    if not path.is_file() or path.read_bytes() != text.encode("utf-8", "surrogatepass"):
        write_text(path, text)


def label_record(prepared: PreparedDataset) -> dict[str, object]:
    """What a manifest records of the labels that the training targets are; empty if they
    are none.
    """
    labels = labels_among(prepared.train.each_target())
    return {"labels": {"labels": list(labels)}} if labels else {}


def sources_of(recipe: Recipe, prepared: PreparedDataset, *, just_made: bool) -> dict[str, object]:
    """Returns what an adapter's manifest holds of its data; nothing where the files are no longer
    those prepared.

    Args:
        just_made: the data was prepared, or compared with its files, in this run.
    """
    data = recipe.data
    named = {"train": data.train, "validation": data.validation, "test": data.test}
    # The folder may be a stranger's: no pattern of its recipe is searched for, and nothing fetched.
    with only_cache():
        if just_made or (not has_pattern(named.values()) and made_from_same(prepared, data)):
            return recorded_sources(recipe)
    warn(
        f"the files that {prepared.path} was prepared from are missing or have changed: eval will "
        "need --data"
    )
    return {}


def data_line(prepared: PreparedDataset) -> str:
    """Returns one line on what is in a prepared folder, and what was dropped."""
    report, path = prepared.manifest.report, prepared.path
    before = ", as before" if prepared.reused else ""
    see = f"; what was dropped: {quoted(path / REJECTED)}" if report["rows"]["rejected"] else ""
    return f"data: {counts(report)} ({path}{before}{see})"


def counts(report: DataReport) -> str:
    """Returns how many examples were read, dropped (and why) and kept, and those of each split."""
    rows, splits = report["rows"], report["splits"]
    line = f"{counted(rows['read'], 'example')} read"
    if reasons := listed(rows["by_reason"].items()):
        line += f", {rows['rejected']:,} dropped: {reasons}; {rows['kept']:,} kept"
    line += ", by the files' weights" * (rows["kept"] != sum(splits.values()))
    return f"{line}: {', '.join(f'{count:,} {name}' for name, count in splits.items())}"
