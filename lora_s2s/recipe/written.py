"""A recipe as a file for people: every key with the reason of its value.

The head carries a hash of the rest, so that a file that nobody has edited can be replaced.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

from lora_s2s import __version__
from lora_s2s.console import plain, say
from lora_s2s.errors import Error, quoted
from lora_s2s.recipe.fields import ALTERNATIVES, AUTO
from lora_s2s.recipe.layers import Overrides, Scalar, overridden_keys, read_layer
from lora_s2s.recipe.load import TextDumper
from lora_s2s.recipe.schema import SECTIONS

# Asks a question with a default; returns the answer.
Ask = Callable[[str, str], str]
Read = TypeVar("Read")
SAID = "given by you"
_ASKED_AGAIN = 2  # times
_WIDTH = 98
# Keys of which one, given now, stands for the other.
_INSTEAD = {
    **ALTERNATIVES,
    "data.source_column": "data.template",
    "data.template": "data.source_column",
    "data.validation": "data.validation_fraction",
    "data.validation_fraction": "data.validation",
}
_SEAL = re.compile(r"# lora-s2s \S+ (init|train) ([0-9a-f]{8})")


@dataclass(frozen=True)
class Decision:
    """A key of a recipe, its value, and why it has it.

    Attributes:
        source: where the rule is from, and more on the reason; lines of the file and JSON.
        other: another value that one may take, and how; a line of its own.
    """

    key: str
    value: object
    reason: str
    source: str = ""
    other: str = ""

    def to_json(self) -> dict[str, object]:
        """The object of ``reasons`` of ``init --json``."""
        return dict(vars(self))

    @property
    def in_yaml(self) -> str:
        """The value as a recipe writes it."""
        text: str = yaml.dump(
            self.value,
            Dumper=TextDumper,
            default_flow_style=True,
            allow_unicode=True,
            width=10_000,
        )
        return text.removesuffix("...\n").rstrip("\n")

    def __str__(self) -> str:
        automatic = self.value == AUTO
        return f"{self.key}: {self.reason if automatic else f'{self.in_yaml} ({self.reason})'}"


def nested(decisions: Sequence[Decision]) -> dict[str, dict[str, object]]:
    """The values by section and key, as ``recipe_from_settings`` takes them."""
    sections: dict[str, dict[str, object]] = {}
    for decision in decisions:
        section, key = decision.key.split(".")
        sections.setdefault(section, {})[key] = decision.value
    return sections


def commented_recipe(
    title: str, lines: Sequence[str], decisions: Sequence[Decision], *, command: str = "init"
) -> str:
    """Returns the YAML of decisions, each below its reason, if it has one.

    Args:
        title: what the recipe is for, the line that lists show.
        lines: further lines of the head.
        command: what wrote it.
    """
    parts = ["\n".join(map(_comment, lines))]
    for section in SECTIONS:
        held = [decision for decision in decisions if decision.key.startswith(f"{section}.")]
        if held:
            parts.append("\n".join([f"{section}:", *map(_entry, held)]))
    head, rest = _comment(title), "\n\n".join(parts) + "\n"
    return f"{head}\n# lora-s2s {__version__} {command} {_hash(head, rest)}\n{rest}"


def untouched_writer(path: Path) -> str | None:
    """The command that wrote a file which nobody has edited, ``init`` or ``train``; else None."""
    try:
        head, seal, rest = path.read_text(encoding="utf-8").split("\n", 2)
    except (OSError, ValueError):  # also: not UTF-8, fewer lines
        return None
    match = _SEAL.fullmatch(seal)
    return match[1] if match and match[2] == _hash(head, rest) else None


def given_settings(path: Path, overrides: Overrides) -> dict[str, object]:
    """The keys of a written recipe that the user gave, as its reasons say, with their values; not
    those that overrides replace, and not the name of that run.
    """
    now = overridden_keys(overrides) | {"output.name"}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    given: dict[str, object] = {}
    for key, entry in read_layer(path).entries.items():
        line = int(entry.where.rpartition(":")[2])
        if lines[line - 2] == f"  # {SAID}" and now.isdisjoint((key, _INSTEAD.get(key))):
            value = entry.value
            given[key] = _text(value) if isinstance(value, Scalar) else [*map(_text, value)]
    return given


def setting_words(settings: Mapping[str, object]) -> list[str]:
    """Settings as the words after ``--set``."""
    return [
        f"{key}={value if isinstance(value, str) else Decision(key, value, '').in_yaml}"
        for key, value in settings.items()
    ]


def words_given(path: Path, overrides: Overrides = ()) -> str:
    """What :func:`given_settings` returns, as a command line takes it: `` --set lora.r=4``."""
    words = setting_words(given_settings(path, overrides))
    return "".join(f" --set {quoted(word)}" for word in words)


def asked(ask: Ask, question: str, default: str, read: Callable[[str], Read]) -> Read:
    """What an answer means; where it means nothing, shows why and asks again.

    Raises:
        Error: the last answer means nothing either.
    """
    for _ in range(_ASKED_AGAIN):
        try:
            return read(ask(question, default))
        except Error as error:
            say(error.message)
    return read(ask(question, default))


def _text(value: Scalar) -> str | None:
    return None if value.is_null else value.text


def _hash(head: str, rest: str) -> str:
    return hashlib.sha256(f"{head}\n{rest}".encode()).hexdigest()[:8]


def _entry(decision: Decision) -> str:
    key = decision.key.partition(".")[2]
    line = f"  {key}: {decision.in_yaml}"
    if not decision.reason:
        return line
    lines = decision.reason, decision.other, *decision.source.split("\n")
    filled = [
        textwrap.fill(plain(text), _WIDTH, initial_indent="  # ", subsequent_indent="  # ")
        for text in filter(None, lines)
    ]
    return "\n".join([*filled, line])


def _comment(text: str) -> str:
    return f"# {plain(text)}"
