"""A recipe's data as a prepared folder. Heavy to import."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_s2s.console import counted, warn
from lora_s2s.data.manifest import made_from_same
from lora_s2s.data.prepare import prepare
from lora_s2s.data.prepared import PreparedDataset, is_prepared, open_prepared
from lora_s2s.data_report import DataReport, PairSide, Sides
from lora_s2s.errors import DataError, UsageError, quoted
from lora_s2s.files import write_text
from lora_s2s.hub import is_local, only_cache
from lora_s2s.pipeline import html
from lora_s2s.pipeline.followed import has_pattern, recorded_sources
from lora_s2s.pipeline.label_set import labels_among
from lora_s2s.pipeline.lengths import bounds_of
from lora_s2s.recipe.catalogue import shipped
from lora_s2s.recipe.load import load_recipe, recipe_to_yaml
from lora_s2s.recipe.schema import Recipe
from lora_s2s.tokens.loading import tokenizer_hash

RECIPE = "recipe.yaml"
_HEAD = "# The recipe that this data was prepared with. lora-s2s train FOLDER uses both.\n"


@dataclass(frozen=True)
class PreparedData:
    """Prepared data.

    Attributes:
        path: the folder, which ``train`` takes too.
        report: what was read, kept, cut and left out: the object of ``prepare --json``.
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


def prepared_folder(recipe: Recipe) -> Path:
    """Where a recipe's data is prepared: ``prepared/NAME`` beside the folder of adapters."""
    return Path(recipe.output.dir).parent / "prepared" / str(recipe.output.name)


def _keep_recipe(path: Path, recipe: Recipe) -> None:
    """Writes the recipe into a prepared folder, for ``train FOLDER``; keys that are ``auto`` stay
    so.
    """
    text = _HEAD + recipe_to_yaml(recipe)
    if not path.is_file() or path.read_bytes() != text.encode("utf-8", "surrogatepass"):
        write_text(path, text)


def is_folder_of_data(name: str) -> bool:
    """Whether a word names a prepared folder, and no shipped recipe."""
    return bool(name) and name not in shipped() and is_prepared(Path(name).expanduser())


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


def open_with_recipe(folder: Path, sets: Sequence[str]) -> tuple[Recipe, PreparedDataset]:
    """Opens a prepared folder and the recipe it was prepared with, to train on it as it is.

    Raises:
        UsageError: an override of what went into the folder.
        DataError: the folder is damaged, or the base's tokenizer has changed.
    """
    for word in sets:
        if word.strip().startswith(("data.", "model.name", "model.revision")):
            hint = (
                f"prepare it anew: lora-s2s prepare {quoted(folder / RECIPE)} --out FOLDER --set "
                f"{quoted(word.strip())}"
            )
            raise UsageError(f"{word.strip()}: {folder} is prepared already", hint=hint)
    if not (folder / RECIPE).is_file():
        raise DataError(
            f"{folder} holds no {RECIPE}", hint="prepare the data again: lora-s2s prepare RECIPE"
        )
    folder = folder.expanduser()
    recipe = load_recipe(str(folder / RECIPE), sets, only_shipped=True)
    _check_output(folder, recipe.output.dir, sets)
    _check_trackers(folder, recipe.training.trackers, sets)
    if not is_local(recipe.model.name, recipe.model.revision):
        raise DataError(
            f"{folder} names the model '{recipe.model.name}', which is not on this machine; it is "
            "not fetched for that",
            hint=f"if that is the model you want: hf download {recipe.model.name}",
            where=str(folder / RECIPE),
        )
    prepared = open_prepared(folder, reused=True)
    tokenizer = tokenizer_hash(recipe.model.name, recipe.model.revision)
    if prepared.manifest.identity.tokenizer != tokenizer:
        hint = f"prepare it anew: lora-s2s prepare {quoted(folder / RECIPE)} --out FOLDER"
        raise DataError(
            f"{folder} was prepared with another tokenizer than that of {recipe.model.name}",
            hint=hint,
        )
    return recipe, prepared


def _check_output(folder: Path, place: str, sets: Sequence[str]) -> None:
    """Refuses to write outside the current folder because a prepared folder, which may be
    anybody's, says so.
    """
    named = any(word.strip().startswith("output.dir=") for word in sets)
    if not named and not Path(os.path.abspath(place)).is_relative_to(Path.cwd()):
        raise DataError(
            f"{folder} names the output folder '{place}', outside the current one",
            hint=f"if that is the folder you want: --set output.dir={quoted(place)}",
            where=str(folder / RECIPE),
        )


def _check_trackers(folder: Path, trackers: Sequence[str], sets: Sequence[str]) -> None:
    """Refuses to send a run's figures away because an untrusted prepared folder says so."""
    named = any(word.strip().startswith("training.trackers=") for word in sets)
    remote = [tracker for tracker in trackers if tracker != "tensorboard"]
    if remote and not named:
        chosen = f"training.trackers=[{', '.join(trackers)}]"
        raise DataError(
            f"{folder} names the tracker '{remote[0]}', which can send data to another machine",
            hint=f"if that is what you want: --set {quoted(chosen)}",
            where=str(folder / RECIPE),
        )


def data_line(prepared: PreparedDataset) -> str:
    """Returns one line on what is in a prepared folder."""
    report = prepared.manifest.report
    count = report["rows"]["rejected"]
    left_out = f"; {counted(count, 'row')} left out, see rejected.jsonl" if count else ""
    return (
        f"data: {sizes(report)} "
        f"({prepared.path}{', as before' if prepared.reused else ''}){left_out}"
    )


def sizes(report: DataReport) -> str:
    """Returns the rows of each split, in words."""
    return ", ".join(f"{count:,} {name}" for name, count in report["splits"].items())
