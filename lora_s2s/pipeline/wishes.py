"""What is asked of a starter recipe, and the files that it is for. Light to import: what is wrong
with a name or a file is reported before torch loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.data.columns import role_warnings
from lora_s2s.errors import DataError, UsageError, quoted
from lora_s2s.examples.columns import GUESSED
from lora_s2s.examples.read import Examples
from lora_s2s.examples.suggested import settings_named
from lora_s2s.outputs import check_writable
from lora_s2s.pipeline.file_facts import FileFacts, look_at
from lora_s2s.pipeline.recipes import starter_name
from lora_s2s.recipe.layers import Overrides, overridden_keys
from lora_s2s.recipe.load import recipe_from_settings
from lora_s2s.recipe.schema import DataSection, Recipe
from lora_s2s.recipe.written import Ask, untouched_writer

_MOST_EMPTY = 0.05  # of the rows


@dataclass(frozen=True)
class Wishes:
    """What the user said of a recipe that is to be written.

    Attributes:
        sets: ``section.key=value`` words, or a mapping of keys to values.
        out: the recipe's file; ``NAME.yaml`` by default.
        gpu_memory: of the GPU that will train, such as ``8GB``; by default this machine trains.
        overwrite: replace a file even if it was edited.
        ask: asks at most four questions; None: nobody is there to answer.
        kept: keys and values that the user gave for an earlier recipe of the same data.
    """

    data: Sequence[str]
    sets: Overrides = ()
    out: Path | None = None
    gpu_memory: str | None = None
    overwrite: bool = False
    ask: Ask | None = None
    kept: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Looked:
    """Wishes, and what reading the files showed.

    Attributes:
        name: of the adapter.
        path: the recipe's file.
        words: the user's settings, those answered last.
        facts: of the files.
    """

    wishes: Wishes
    name: str
    path: Path
    words: Sequence[Overrides]
    facts: FileFacts

    @property
    def given(self) -> Recipe:
        """The recipe of what the user said alone."""
        return _given(self.name, self.wishes.data, *self.words)


def look(wishes: Wishes) -> Looked:
    """Reads the files; asks for the columns where nobody can guess them.

    Raises:
        DataError: the files cannot be used.
        UsageError: the recipe's file exists and was edited, or a setting is wrong.
    """
    if not wishes.data:
        raise UsageError("expected a file of training data", hint="lora-s2s init --data my.csv")
    name = wishes.out.stem if wishes.out else starter_name(wishes.data[0])
    path = wishes.out or Path(f"{name}.yaml")
    _check_free(path, wishes.overwrite)
    words, facts = _looked_at(name, wishes)
    return Looked(wishes, name, path, words, facts)


def _check_free(path: Path, overwrite: bool) -> None:
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"a recipe ends in .yaml: {path}", hint=f"--out {path}.yaml")
    if path.exists() and not (overwrite or untouched_writer(path)):
        raise UsageError(
            f"{path} exists and is not as init wrote it",
            hint=f"train by it: lora-s2s train {quoted(path)}; or write another: --out FILE.yaml",
        )
    check_writable(path.absolute().parent)


def _given(name: str, data: Sequence[str], *words: Overrides) -> Recipe:
    """The recipe of what the user said alone; the base is one that is always here."""
    train = data[0] if len(data) == 1 else list(data)
    return recipe_from_settings(name, {"data.train": train, "model.name": "demo"}, *words)


def _looked_at(name: str, wishes: Wishes) -> tuple[Sequence[Overrides], FileFacts]:
    """Reads the files; asks for the columns where nobody can guess them, or several have a usual
    name. Rows that cannot be read are reported before.
    """
    words: list[Overrides] = [wishes.kept, wishes.sets]
    data, columns = _given(name, wishes.data, *words).data, None
    try:
        facts = look_at(data)
    except DataError as error:
        if "column" not in error.message:
            raise
        Examples(data).check_readable()
        columns = _asked_columns(wishes.ask, [error.message])
        if columns is None:
            raise
    else:
        _refuse_unusable(facts, data, words)
        names = facts.reading.source_column, facts.reading.target_column
        guessed = f"{names[0]} > {names[1]}"
        if settings_named(guessed) == dict(zip(GUESSED, names, strict=True)):
            columns = _asked_columns(wishes.ask, role_warnings(facts.reading), guessed)
        if columns is None:
            return words, facts
    words.append(columns)
    data = _given(name, wishes.data, *words).data
    facts = look_at(data)
    _refuse_unusable(facts, data, words)
    return words, facts


def _refuse_unusable(facts: FileFacts, data: DataSection, words: Sequence[Overrides]) -> None:
    """Raises DataError where so many rows are unusable that preparing would stop; a few with empty
    cells are allowed for, unless the user set how many.
    """
    rejected = facts.rejected
    most = _MOST_EMPTY * (rejected.faults + facts.rows)
    few = rejected.only_empty and rejected.faults <= most
    if few and not any("data.max_rejected" in overridden_keys(one) for one in words):
        return
    if error := rejected.too_many(facts.rows, data.max_rejected):
        raise error


def _asked_columns(
    ask: Ask | None, doubts: Sequence[str], guessed: str = ""
) -> dict[str, str] | None:
    """The settings of the columns that the user names; None where nothing is in doubt, nobody
    answers, or the form is wrong.
    """
    if ask is None or not doubts:
        return None
    form = "SOURCE > TARGET (several sources: A, B > TARGET)"
    for line in doubts:
        say(line)
    for _ in range(2):
        if columns := settings_named(ask(f"Source and target column, as {form}", guessed)):
            return columns
        say(f"expected columns with > between sources and target: {form}")
    return None
