"""Where rows come from: files, folders, globs, hub data sets (``hf:NAME[:SPLIT]``), the demo task
(``demo:SPLIT``).
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lora_s2s.console import say
from lora_s2s.demo import task
from lora_s2s.errors import DataError, SetupError, UsageError, like_missing
from lora_s2s.files import sha256_file, sha256_json
from lora_s2s.hub import only_cache
from lora_s2s.readers.choose import (
    READERS,
    SPREADSHEETS,
    ending,
    endings,
    reader_of,
    refuse_what_is_no_data,
)
from lora_s2s.readers.encodings import guess_of
from lora_s2s.readers.families import bare_name, line_families, side_names
from lora_s2s.readers.names import SPLIT_NAMES
from lora_s2s.readers.rows import Item, Items, Parsing, Rejected, Row
from lora_s2s.readers.streams import UTF8, head_of, reading
from lora_s2s.readers.translations import line_pairs
from lora_s2s.remote import fetched_file, is_url, listed

__all__ = ["READERS", "Origin", "find_origins", "named_splits", "reading"]

_HUB, _DEMO = "hf:", "demo:"
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_DECLARE_THEIRS = (".parquet", ".tmx")  # encodings
_MOST_WEIGHT = 1000.0


@dataclass(frozen=True)
class Origin:
    """One file (``path``), two of parallel lines, or a data set that has a name only.

    Attributes:
        targets: files whose lines are the targets of ``path``'s lines; several are references of
            one source.
        given: the user's name that this belongs to.
        parallel: a plain file holds a source and a target on each line, and no header.
        weight: how often its examples count, relative to those of others.
    """

    name: str
    path: Path | None = None
    targets: tuple[Path, ...] = ()
    given: str = field(default="", compare=False)
    parallel: bool = False
    weight: float = 1.0

    def rows(self, parsing: Parsing | None = None) -> Items:
        """Yields the records, each with its line.

        Args:
            parsing: names of columns that help, and what takes notes about the file's shape.

        Raises:
            DataError: what is there cannot be read at all.
            SetupError: a hub data set that cannot be loaded.
        """
        if self.path is not None:
            with reading(self.path):
                rows = self._file_rows(self.path, parsing or Parsing())
                yield from map(self._named, rows) if is_url(self.name) else rows
        elif self.name.startswith(_HUB):
            yield from itertools.starmap(Row, enumerate(_hub_dataset(self.name), start=1))
        else:
            for line, (source, target) in enumerate(
                task.examples(self.name.removeprefix(_DEMO)), start=1
            ):
                yield Row(line, {"source": source, "target": target})

    def _named(self, item: Item) -> Item:
        """Names the URL in place of its copy."""
        return replace(item, file=self.name) if isinstance(item, Rejected) else item

    def _file_rows(self, path: Path, parsing: Parsing) -> Items:
        if not self.targets:
            return reader_of(path, parallel=self.parallel)(path, parsing)
        for file in (path, *self.targets):
            refuse_what_is_no_data(file, head_of(file))
        names = ", ".join(file.name for file in self.targets)
        several = " (several references of each source)" if len(self.targets) > 1 else ""
        parsing.note(f"sources are the lines of {path.name}, targets those of {names}{several}")
        sides = side_names(path, self.targets, parsing.columns)
        return line_pairs(path, self.targets, sides, parsing.encoding)

    def content_hash(self, *, cached: bool = False) -> str:
        """Returns a hash that changes when the rows change.

        Args:
            cached: a hub's data is not fetched.

        Raises:
            SetupError: a hub data set that cannot be loaded.
        """
        if self.path is not None:
            hashes = [sha256_file(file) for file in (self.path, *self.targets)]
            return sha256_json(hashes) if self.targets else hashes[0]
        if self.name.startswith(_HUB):
            return str(_hub_dataset(self.name, cached=cached)._fingerprint)
        return sha256_json(task.examples(self.name.removeprefix(_DEMO)))


def local_path(name: str) -> Path:
    """The path of a name that a user gave; ``~`` is the home folder."""
    return Path(os.path.expanduser(name))


def find_origins(paths: str | Sequence[str], *, parallel: bool = False) -> list[Origin]:
    """Returns every file or data set that ``paths`` name; a folder or glob gives its readable
    files, sorted.

    ``NAME@2`` gives the weight 2 to all that NAME names. Line files whose names belong together
    make one origin (:mod:`lora_s2s.readers.families`), and any two files if ``parallel``; one file
    if ``parallel`` is two columns without a header.

    Raises:
        DataError: nothing is there, or nothing that a reader reads.
        UsageError: a weight that is no number above 0 and up to 1,000.
    """
    named = [split_weight(name) for name in ([paths] if isinstance(paths, str) else paths) if name]
    if not named:
        raise DataError("no data given", hint="name a file: --set data.train=FILE")
    if len(named) == 2 and (pair := _pair(named, parallel)):
        return [pair]
    families = _families_named(named)
    origins: list[Origin] = []
    for name, weight in named:
        if name in families:
            origins += (
                [replace(families[name], weight=weight)] if families[name].name == name else []
            )
        else:
            origins += [
                replace(origin, weight=weight, given=name) for origin in _origins(name, parallel)
            ]
    return origins


def say_encoding(file: str, encoding: str) -> None:
    """Says what a file that is not UTF-8 reads in the encoding that it is read in."""
    if encoding == UTF8 or ending(Path(file)) in _DECLARE_THEIRS:
        return
    if evidence := guess_of(file, encoding).evidence:
        say(f"{file} is not UTF-8: {evidence}")


def check_there(names: Sequence[str]) -> None:
    """Raises DataError for a local name of data where nothing is; nothing remote is fetched."""
    for name in names:
        if not is_url(name) and not os.path.exists(local_path(name)):
            find_origins(name)


def _families_named(named: Sequence[tuple[str, float]]) -> dict[str, Origin]:
    """Returns, for each line file that belongs to a family among those named, the family's
    origin.
    """
    lines = {local_path(name): (name, weight) for name, weight in named if _is_line_file(name)}
    families: dict[str, Origin] = {}
    for family in line_families(lines):
        if len(named) == 2 and family[0] != next(iter(lines)):
            continue  # a pair is read in the order given, or not at all
        weights = {lines[file][1] for file in family}
        _refuse_two_weights(family, weights)
        first = lines[family[0]][0]
        origin = Origin(first, family[0], targets=tuple(family[1:]), given=first)
        families |= {lines[file][0]: origin for file in family}
    return families


def _is_line_file(name: str) -> bool:
    path = local_path(name)
    return ending(path) not in READERS and os.path.isfile(path)


def _refuse_two_weights(files: Sequence[Path], weights: set[float]) -> None:
    if len(weights) > 1:
        names = " and ".join(file.name for file in files[:2])
        raise UsageError(f"{names} are one data set but have different weights")


def split_weight(text: str) -> tuple[str, float]:
    """Returns a name of data without its weight, and the weight; see :func:`find_origins`."""
    name, at, number = text.rpartition("@")
    exists, called_so = (os.path.exists(os.path.expanduser(path)) for path in (name, text))
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
        called_so = called_so or not exists
    if called_so or not (at and name):
        return text, 1.0
    if not 0 < weight <= _MOST_WEIGHT:
        raise UsageError(
            f"invalid weight '{number}' for {name}: expected a number above 0, at most "
            f"{_MOST_WEIGHT:,.0f}"
        )
    return name, weight


def _pair(named: Sequence[tuple[str, float]], parallel: bool) -> Origin | None:
    first, second = (local_path(name) for name, _ in named)
    if not (
        os.path.isfile(first)
        and os.path.isfile(second)
        and (parallel or _belong_together(first, second))
    ):
        return None
    weights = {weight for _, weight in named}
    _refuse_two_weights((first, second), weights)
    return Origin(named[0][0], first, targets=(second,), given=named[0][0], weight=weights.pop())


def _belong_together(first: Path, second: Path) -> bool:
    """True for ``train.en`` and ``train.de``, ``src-train.txt`` and ``tgt-train.txt``."""
    if ending(first) in READERS or ending(second) in READERS:
        return False
    one, other = named = [Path(bare_name(path)) for path in (first, second)]
    sides = line_families(named) == [named]
    return sides or (
        one.stem == other.stem and one.suffix != other.suffix and bool(one.suffix and other.suffix)
    )


def _origins(name: str, parallel: bool) -> list[Origin]:
    if name.startswith(_DEMO) and name.removeprefix(_DEMO) not in task.SIZES:
        raise DataError(
            f"no such data: {name}; the demo task has "
            f"{', '.join(_DEMO + split for split in task.SIZES)}"
        )
    if name.startswith((_HUB, _DEMO)):
        return [Origin(name)]
    if is_url(name):
        return [Origin(url, fetched_file(url), parallel=parallel) for url in _data_urls(name)]
    path = local_path(name)
    with reading(path):
        if os.path.isfile(path):
            if ending(path) not in READERS:
                _refuse_part(path, parallel)
                reader_of(path, parallel=parallel)  # raises at once where there is none
            return [Origin(name, path, parallel=parallel)]
        if os.path.isdir(path) or glob.has_magic(name):
            files = [Origin(str(file), file, parallel=parallel) for file in _readable(path)]
            files += [
                Origin(str(first), first, targets=tuple(rest))
                for first, *rest in _families_in(path)
            ]
            if not files:
                hint = "name both files of parallel lines: --set 'data.train=[train.en, train.de]'"
                raise DataError(
                    f"{name} contains no readable file; files end in {endings()}", hint=hint
                )
            return files
        if os.path.lexists(path):
            what = "a device or a pipe" if os.path.exists(path) else "a link to nothing"
            raise DataError(
                f"{name} is {what}, not a file",
                hint="data is read more than once: use a file on disk",
            )
        beside = path.parent.glob("*")
        here = [file.name for file in beside if file.suffix not in (".yaml", ".yml")]
    meant, hint = like_missing(path.name, here)
    raise DataError(f"no such file: {name}{meant}", hint=hint)


def _data_urls(name: str) -> list[str]:
    """The data files that a URL names; one that is named itself is read whatever its ending."""
    urls = listed(name)
    files = [url for url in urls if url == name or ending(Path(url)) in READERS]
    if not files:
        raise DataError(f"{name} contains no readable file; files end in {endings()}")
    return files


def _refuse_part(path: Path, parallel: bool) -> None:
    """Raises DataError for one file of a family of line files: the others belong to it."""
    family = (
        []
        if parallel
        else next((files for files in _families_in(path.parent) if path in files), [])
    )
    if family:
        listed = ", ".join(map(str, family))
        names = ", ".join(file.name for file in family)
        message = f"no reader for {path.name} alone: it holds one side of parallel lines ({names})"
        raise DataError(
            message, hint=f"name them all: --set 'data.train=[{listed}]'", where=str(path)
        )


def _matching(path: Path) -> list[Path]:
    """Returns the files of a folder or glob, sorted; hidden ones are not matched."""
    pattern = f"{glob.escape(str(path))}/*" if os.path.isdir(path) else str(path)
    return sorted(file for file in map(Path, glob.iglob(pattern, recursive=True)) if file.is_file())


def _readable(path: Path) -> list[Path]:
    return [file for file in _matching(path) if ending(file) in READERS]


def _families_in(path: Path) -> list[list[Path]]:
    return line_families(file for file in _matching(path) if ending(file) not in READERS)


def named_splits(path: str) -> dict[str, list[str]]:
    """Returns the files of a folder by the split that their names mark: ``train.jsonl``,
    ``sgd_dev.csv.gz``.

    Files that mark none are the training data, or ``other`` beside files marked as train. Where the
    names mark no second split, or one marks two, all of ``path`` is ``train``.
    """
    name, _ = split_weight(path)
    folder = local_path(name)
    splits: dict[str, list[str]] = {}
    is_folder = os.path.isdir(folder)
    for file in itertools.chain(_readable(folder), *_families_in(folder)) if is_folder else ():
        words = set(re.split(r"[^a-z]+", file.name.lower()))
        marks = [split for split, names in SPLIT_NAMES.items() if words.intersection(names)]
        if len(marks) > 1:
            return {"train": [path]}
        splits.setdefault(marks[0] if marks else "other", []).append(f"{file}{path[len(name) :]}")
    if "train" not in splits and "other" in splits:
        splits["train"] = splits.pop("other")
    if "train" not in splits or not splits.keys() & {"validation", "test"}:
        return {"train": [path]}
    return {split: splits[split] for split in (*SPLIT_NAMES, "other") if split in splits}


def is_data_name(name: str) -> bool:
    """Whether a word names data: a file that a reader reads, a folder whose files' names mark
    splits, or a data set.
    """
    path = local_path(name)
    if name.startswith((_HUB, _DEMO)) or (
        os.path.isfile(path) and ending(path) in {*READERS, *SPREADSHEETS}  # which a reader refuses
    ):
        return True
    return os.path.isdir(path) and len(named_splits(name)) > 1


def is_hub_name(name: str) -> bool:
    """Whether a name of data is that of a hub's data set."""
    return name.startswith(_HUB)


def hub_name_problem(name: str) -> str | None:
    """Says why ``hf:NAME`` would open files of this machine; None where NAME is one of the hub.

    The ``datasets`` library takes a folder's path for a name too, and the name of a file format
    for all files of that format below the current folder, which some versions unpickle.
    """
    dataset = name.removeprefix(_HUB).partition(":")[0]
    if os.path.lexists(dataset):
        return "it is a file or folder of this machine"
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if not _HUB_ID.fullmatch(dataset) or dataset in _PACKAGED_DATASETS_MODULES:
        return "it is not the name of a data set on the hub"
    return None


def _hub_dataset(name: str, *, cached: bool = False) -> Any:
    # A second to import, and only hub data needs it.
    import datasets

    if problem := hub_name_problem(name):
        raise DataError(
            f"'{name}' is not read: {problem}", hint="expected hf:OWNER/NAME, or a file's own name"
        )
    dataset, _, split = name.removeprefix(_HUB).partition(":")
    try:
        with only_cache() if cached else nullcontext():
            return datasets.load_dataset(dataset, split=split or "train")
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise SetupError(
            f"could not load the data set '{dataset}': {reason}",
            hint="check the name, the split (hf:NAME:SPLIT) and the network, or give a local file",
        ) from error
