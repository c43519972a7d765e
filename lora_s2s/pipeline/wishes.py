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
from lora_s2s.examples.suggested import settings_named
from lora_s2s.outputs import check_writable
from lora_s2s.pipeline.file_facts import FileFacts, look_at
from lora_s2s.pipeline.recipes import starter_name
from lora_s2s.recipe.layers import Overrides
from lora_s2s.recipe.load import recipe_from_settings
from lora_s2s.recipe.schema import Recipe
from lora_s2s.recipe.written import Ask, untouched_writer


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
        return given_recipe(self.name, self.wishes.data, *self.words)


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


def given_recipe(name: str, data: Sequence[str], *words: Overrides) -> Recipe:
    """The recipe of what the user said alone; the base is one that is always here."""
    train = data[0] if len(data) == 1 else list(data)
    return recipe_from_settings(name, {"data.train": train, "model.name": "demo"}, *words)


def _looked_at(name: str, wishes: Wishes) -> tuple[Sequence[Overrides], FileFacts]:
    """Reads the files; asks for the columns where nobody can guess them, or several have a usual
    name.
    """
    words: list[Overrides] = [wishes.kept, wishes.sets]
    try:
        facts = look_at(given_recipe(name, wishes.data, *words).data)
    except DataError as error:
        columns = None
        if "column" in error.message:
            columns = _asked_columns(wishes.ask, [error.message])
        if columns is None:
            raise
    else:
        reading = facts.reading
        doubts = role_warnings(reading) if reading.source_column else ()
        guessed = f"{reading.source_column} > {reading.target_column}"
        columns = _asked_columns(wishes.ask, doubts, guessed)
        if columns is None:
            return words, facts
    words.append(columns)
    return words, look_at(given_recipe(name, wishes.data, *words).data)


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
