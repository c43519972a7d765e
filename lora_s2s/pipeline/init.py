"""A file → a recipe for it and for this machine, each value with its reason. Heavy to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_s2s.console import say, warn
from lora_s2s.data.columns import column_warnings, role_warnings
from lora_s2s.files import write_text
from lora_s2s.pipeline import html
from lora_s2s.pipeline.base_choice import Machine, machine_with, this_machine
from lora_s2s.pipeline.file_facts import files_of
from lora_s2s.pipeline.notices import beside_others, whole
from lora_s2s.pipeline.starter import decide, notes_on
from lora_s2s.pipeline.starter_base import ANSWERED, Starting
from lora_s2s.pipeline.wishes import Looked, Wishes
from lora_s2s.recipe.catalogue import schema_line
from lora_s2s.recipe.layers import overridden_keys
from lora_s2s.recipe.load import load_recipe, recipe_from_settings
from lora_s2s.recipe.schema import Recipe
from lora_s2s.recipe.written import SAID, Decision, asked, commented_recipe, nested

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


def write_recipe(looked: Looked) -> StarterRecipe:
    """Writes what :func:`starter_recipe` decides, with the same errors."""
    starter = starter_recipe(looked)
    write(starter)
    return starter


def write(starter: StarterRecipe) -> None:
    """Writes the recipe's file."""
    done = "replaced" if starter.path.exists() else "wrote"
    write_text(starter.path, starter.text)
    load_recipe(str(starter.path))  # what was written is what was meant, or an error names the line
    say(f"{done} {starter.path}: each value stands there below its reason")


def starter_recipe(looked: Looked, *, command: str = "init") -> StarterRecipe:
    """Decides on a commented recipe for files and machine, and shows every choice and why; writes
    nothing.

    Args:
        command: what will write it.

    Raises:
        DataError: the files cannot be used.
        UsageError: a setting is wrong.
    """
    wishes, name, words, given = looked.wishes, looked.name, looked.words, looked.given
    machine = _machine(wishes)
    said = dict.fromkeys(overridden_keys(words[-1]), ANSWERED)  # where columns were asked for
    said |= dict.fromkeys([*(wishes.kept or ()), *overridden_keys(wishes.sets)], SAID)

    def built(decisions: Sequence[Decision]) -> Recipe:
        return recipe_from_settings(name, {"model.name": "demo"}, nested(decisions), *words)

    start = Starting(given, said, looked.facts, machine, built)
    decisions = decide(start, wishes.ask)
    recipe = built(decisions)
    for decision in decisions:
        say(f"  {decision}")
        if decision.other:
            say(f"    {decision.other}")
    # Of text that is not used, train warns when it prepares; it no longer guesses columns then.
    for sentence in (column_warnings if command == "init" else role_warnings)(looked.facts.reading):
        warn(whole(sentence))
    notes_on(start, decisions)
    if command == "init" and (line := beside_others(start.machine.device.kind)[1]):
        say(line)
    text = commented_recipe(
        f"{files_of(given.data)} on {recipe.model.name}.", _head(start), decisions, command=command
    )
    return StarterRecipe(looked.path, decisions, recipe, text)


def _head(start: Starting) -> list[str]:
    return [
        schema_line(),
        f"Data: {files_of(start.recipe.data)}",
        f"Machine: {start.machine}",
        "`auto` is settled in each run by these rules; `lora-s2s train THIS_FILE --dry-run` shows "
        "its values.",
    ]


def _machine(wishes: Wishes) -> Machine:
    if wishes.gpu_memory is not None:
        return machine_with(wishes.gpu_memory)
    here = this_machine()
    if wishes.ask is None:
        return here
    question = f"Memory of the GPU that will train, such as 16GB, or {THIS_MACHINE} ({here})"
    return asked(
        wishes.ask,
        question,
        THIS_MACHINE,
        lambda answer: here if answer == THIS_MACHINE else machine_with(answer),
    )
