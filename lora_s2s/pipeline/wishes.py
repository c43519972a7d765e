"""What is asked of a starter recipe, and the files that it is for. Light to import: what is wrong
with a name or a file is reported before torch loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lora_s2s.console import plain, say
from lora_s2s.data.columns import role_warnings
from lora_s2s.errors import (
    DataError,
    RecipeError,
    SetupError,
    UsageError,
    again,
    quoted,
    with_settings,
)
from lora_s2s.examples.suggested import settings_named
from lora_s2s.hub import is_offline
from lora_s2s.outputs import check_writable
from lora_s2s.pipeline.file_facts import FileFacts, look_at, traits_of
from lora_s2s.pipeline.recipes import chosen_recipe, starter_name
from lora_s2s.readers.origins import local_path
from lora_s2s.recipe.bases import bases_here, family_for
from lora_s2s.recipe.layers import Overrides, overridden_keys
from lora_s2s.recipe.load import recipe_from_settings
from lora_s2s.recipe.schema import Recipe
from lora_s2s.recipe.written import (
    Ask,
    asked,
    given_settings,
    setting_words,
    untouched_writer,
    words_given,
)

_FORM = "SOURCE > TARGET (several sources: A, B > TARGET)"


@dataclass(frozen=True)
class Wishes:
    """What the user said of a recipe that is to be written.

    Attributes:
        sets: ``section.key=value`` words, or a mapping of keys to values.
        out: the recipe's file; ``NAME.yaml`` by default.
        gpu_memory: of the GPU that will train, such as ``8GB``; by default this machine trains.
        overwrite: replace a file even if it was edited.
        ask: asks at most four questions; None: nobody is there to answer.
        kept: keys and values that the user gave for an earlier recipe of the same data; None: those
            of the file, which :func:`look` reads.
    """

    data: Sequence[str]
    sets: Overrides = ()
    out: Path | None = None
    gpu_memory: str | None = None
    overwrite: bool = False
    ask: Ask | None = None
    kept: Mapping[str, object] | None = None


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
        UsageError: the recipe's file exists and was edited or is of other data, or a setting is
            wrong.
    """
    if not wishes.data:
        raise UsageError("expected a file of training data", hint="lora-s2s init --data my.csv")
    path = wishes.out or starter_path(wishes.data[0], wishes.sets)
    name = path.stem
    _check_free(path, wishes)
    if wishes.kept is None:
        there = path.exists() and not wishes.overwrite
        kept = kept_settings(path, wishes.data[0], wishes.sets) if there else {}
        wishes = replace(wishes, kept=kept)
    words, facts = _looked_at(name, wishes)
    return Looked(wishes, name, path, words, facts)


def check_base(facts: FileFacts) -> None:
    """Refuses data for which no base can be had, where the hub is switched off: before torch loads
    and anything is decided.
    """
    if not is_offline():
        return
    traits = traits_of(facts, facts.metrics())
    rule = family_for(traits)
    if not bases_here(rule.family):
        raise SetupError(
            f"no {rule.family} base ({rule.why(traits)}) is on this machine, and the hub is "
            "switched off (HF_HUB_OFFLINE)",
            hint=f"the small one in the package: {with_settings('model.name=demo')}; or a base's "
            "folder: --set model.name=FOLDER",
        )


def _check_free(path: Path, wishes: Wishes) -> None:
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"a recipe ends in .yaml: {path}", hint=f"--out {path}.yaml")
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, expected a recipe",
            hint="choose another: lora-s2s init FILE --out NAME.yaml",
        )
    if path.exists() and not (wishes.overwrite or untouched_writer(path)):
        raise UsageError(
            f"{path} exists and is not as init wrote it",
            hint=f"train by it: lora-s2s train {quoted(path)}; or write another: --out FILE.yaml; "
            f"or replace it: {again('--overwrite')}{words_given(path, wishes.sets)}",
        )
    check_writable(path.absolute().parent)


def kept_settings(path: Path, name: str, sets: Overrides) -> dict[str, object]:
    """What the user gave for a recipe that nobody edited, but for what is given now and what does
    not go with it.

    Raises:
        UsageError: the recipe is of other data.
    """
    for words in (sets, ()):  # of another version, it loads with neither
        with suppress(RecipeError):
            existing_recipe(path, name, words)
            break
    given_recipe(path.stem, [name], sets)  # what is wrong with these is told before what is kept
    given = given_settings(path, sets)
    kept: dict[str, object] = {}
    for key, value in given.items():
        try:
            given_recipe(path.stem, [name], {**kept, key: value}, sets)
        except RecipeError:
            continue
        kept[key] = value
    line = f"{path} was not edited: decided anew"
    if kept:
        anew = f"lora-s2s init {quoted(name)} --out {quoted(path)} --overwrite"
        line += f", but for what you gave before ({_listed(kept)}; to drop it: {anew})"
    if unfit := {key: value for key, value in given.items() if key not in kept}:
        line += f"; what does not go with it is dropped: {_listed(unfit)}"
    say(line)
    return kept


def existing_recipe(path: Path, name: str, sets: Overrides) -> Recipe:
    """The recipe that a data file has.

    Raises:
        UsageError: it is of other data.
    """
    recipe = chosen_recipe(str(path), (), None, sets, command="train")
    train = recipe.data.train
    files = [train] if isinstance(train, str) else train
    place = local_path(name).resolve()
    named = "data.train" in overridden_keys(sets)
    if not (named or any(local_path(file).resolve().is_relative_to(place) for file in files)):
        anew = f"lora-s2s init {quoted(name)}"
        raise UsageError(
            f"{path} is a recipe for other data: {', '.join(files)}",
            hint=f"write one of another name: {anew} --out FILE.yaml; or replace it: {anew} "
            f"--out {quoted(path)} --overwrite",
        )
    return recipe


def _listed(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{plain(word):.80}" for word in setting_words(settings))


def starter_path(name: str, sets: Overrides) -> Path:
    """The recipe's file of a data file; that of a run which the user named has its name."""
    run = starter_name(name)
    with suppress(RecipeError):  # what is wrong is told where the file is looked at
        run = str(given_recipe(run, [name], sets).output.name)
    return Path(f"{run}.yaml")


def given_recipe(name: str, data: Sequence[str], *words: Overrides) -> Recipe:
    """The recipe of what the user said alone; the base is one that is always here."""
    train = data[0] if len(data) == 1 else list(data)
    return recipe_from_settings(name, {"data.train": train, "model.name": "demo"}, *words)


def _looked_at(name: str, wishes: Wishes) -> tuple[Sequence[Overrides], FileFacts]:
    """Reads the files; asks for the columns where nobody can guess them, or several have a usual
    name.
    """
    words: list[Overrides] = [wishes.kept or {}, wishes.sets]
    ask, doubts, guessed = wishes.ask, list[str](), ""
    try:
        facts = look_at(given_recipe(name, wishes.data, *words).data)
        reading = facts.reading
        if reading.source_column:
            doubts = role_warnings(reading)
            guessed = f"{reading.source_column} > {reading.target_column}"
    except DataError as error:
        if ask is None or "column" not in error.message:
            raise
        doubts = [error.message]
    if ask is None or not doubts:
        return words, facts
    for line in doubts:
        say(line)

    def named(answer: str) -> tuple[Sequence[Overrides], FileFacts]:
        columns = settings_named(answer)
        if columns is None:
            raise UsageError(f"expected columns with > between sources and target: {_FORM}")
        answered = [*words, columns]
        return answered, look_at(given_recipe(name, wishes.data, *answered).data)

    return asked(ask, f"Source and target column, as {_FORM}", guessed, named)
