"""A file → a recipe for it and for this machine, each value with its reason. Heavy to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_s2s.console import counted, say
from lora_s2s.errors import DataError, UsageError, quoted
from lora_s2s.examples.suggested import settings_named
from lora_s2s.files import write_text
from lora_s2s.outputs import check_writable
from lora_s2s.pipeline import html
from lora_s2s.pipeline.base_choice import Machine, machine_with, this_machine
from lora_s2s.pipeline.file_facts import FileFacts, files_of, look_at
from lora_s2s.pipeline.recipes import starter_name
from lora_s2s.pipeline.starter import decide, notes_on
from lora_s2s.pipeline.starter_base import ANSWERED, SAID, Ask, Starting
from lora_s2s.recipe.catalogue import schema_line
from lora_s2s.recipe.layers import Overrides, overridden_keys
from lora_s2s.recipe.load import load_recipe, recipe_from_settings
from lora_s2s.recipe.schema import Recipe
from lora_s2s.recipe.written import Decision, commented_recipe, nested, untouched_writer

THIS_MACHINE = "this machine"


@dataclass(frozen=True)
class StarterRecipe:
    """A recipe that :func:`lora_s2s.init` wrote.

    Attributes:
        path: the YAML file, which ``train`` takes.
        decisions: every key that was decided, its value and the reason.
        recipe: what the file says.
        text: of the file.
    """

    path: Path
    decisions: Sequence[Decision] = field(repr=False)
    recipe: Recipe = field(repr=False)
    text: str = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The object of ``init --json``."""
        reasons = [decision.to_json() for decision in self.decisions]
        return {"recipe": str(self.path), "reasons": reasons}

    def _repr_html_(self) -> str:
        return html.starter(self.path, self.decisions)

    def __fspath__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Wishes:
    """What the user said of a recipe that is to be written.

    Attributes:
        sets: ``section.key=value`` words, or a mapping of keys to values.
        out: the recipe's file; ``NAME.yaml`` by default.
        gpu_memory: of the GPU that will train, such as ``8GB``; by default this machine trains.
        overwrite: replace a file even if it was edited.
        ask: asks at most four questions; None: nobody is there to answer.
    """

    data: Sequence[str]
    sets: Overrides = ()
    out: Path | None = None
    gpu_memory: str | None = None
    overwrite: bool = False
    ask: Ask | None = None


def write_recipe(wishes: Wishes) -> StarterRecipe:
    """Writes what :func:`starter_recipe` decides, with the same errors."""
    starter = starter_recipe(wishes)
    write(starter)
    return starter


def write(starter: StarterRecipe) -> None:
    """Writes the recipe's file."""
    done = "replaced" if starter.path.exists() else "wrote"
    write_text(starter.path, starter.text)
    load_recipe(str(starter.path))  # what was written is what was meant, or an error names the line
    say(f"{done} {starter.path}: each value stands there below its reason")


def starter_recipe(wishes: Wishes, *, command: str = "init") -> StarterRecipe:
    """Looks at files and machine, decides on a commented recipe, and shows every choice and why;
    writes nothing.

    Args:
        command: what will write it.

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
    machine = _machine(wishes)
    given = _given(name, wishes.data, *words)
    said = dict.fromkeys(overridden_keys(words[-1]), ANSWERED)  # where columns were asked for
    said |= dict.fromkeys(overridden_keys(wishes.sets), SAID)

    def built(decisions: Sequence[Decision]) -> Recipe:
        return recipe_from_settings(name, {"model.name": "demo"}, nested(decisions), *words)

    start = Starting(given, said, facts, machine, built)
    decisions = decide(start, wishes.ask)
    recipe = built(decisions)
    for decision in decisions:
        say(f"  {decision}")
    notes_on(start, decisions)
    text = commented_recipe(
        f"{files_of(given.data)} on {recipe.model.name}.", _head(start), decisions, command=command
    )
    return StarterRecipe(path, decisions, recipe, text)


def _head(start: Starting) -> list[str]:
    return [
        schema_line(),
        f"Data: {files_of(start.recipe.data)}, {counted(start.facts.rows, 'example')}",
        f"Machine: {start.machine}",
        "`auto` is settled in each run by these rules; `lora-s2s train THIS_FILE --dry-run` shows "
        "its values.",
    ]


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
    """Reads the files; asks for the columns where nobody can guess them."""
    words: list[Overrides] = [wishes.sets]
    try:
        return words, look_at(_given(name, wishes.data, *words).data)
    except DataError as error:
        if wishes.ask is None or "column" not in error.message:
            raise
        say(error.message)
        columns = _asked_columns(wishes.ask) or _asked_columns(wishes.ask, again=True)
        if columns is None:
            raise
        words.append(columns)
        return words, look_at(_given(name, wishes.data, *words).data)


def _asked_columns(ask: Ask, *, again: bool = False) -> dict[str, str] | None:
    """The settings of the columns that the user names; None where the form is wrong."""
    form = "SOURCE > TARGET (several sources: A, B > TARGET)"
    if again:
        say(f"expected columns with > between sources and target: {form}")
    return settings_named(ask(f"Source and target column, as {form}", ""))


def _machine(wishes: Wishes) -> Machine:
    if wishes.gpu_memory is not None:
        return machine_with(wishes.gpu_memory)
    here = this_machine()
    if wishes.ask is None:
        return here
    question = f"Memory of the GPU that will train, such as 16GB, or {THIS_MACHINE} ({here})"
    answer = wishes.ask(question, THIS_MACHINE)
    return here if answer == THIS_MACHINE else machine_with(answer)
