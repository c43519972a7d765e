"""What the project's pages show: command lines, recipe keys, links, anchors, Python blocks."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

import typer
import yaml

from lora_s2s.cli import app
from lora_s2s.errors import Error
from lora_s2s.recipe.catalogue import shipped
from lora_s2s.recipe.load import recipe_from_settings
from lora_s2s.recipe.schema import SECTIONS

ROOT = Path(__file__).parents[2]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_KEY = re.compile(rf"\b({'|'.join(SECTIONS)})\.([a-z][a-z_0-9]*)\b(?![/.(])")
QUOTES = "\"'"
_SHELL = ("", "sh", "bash", "shell", "console")
_LAUNCHER = r"(accelerate launch|torchrun)( --\S+( [\w.:-]+)?)*"
_BEFORE = re.compile(rf"(\w+=\S* |\$ |! ?|%)*((python3?|{_LAUNCHER}) -m )?")
_ENDS = {"|", "||", "&&", ";", ">", ">>", "2>&1", "<", "&"}
# Words of a synopsis are no values; and what every command takes anywhere.
_ANYWHERE = ("--debug", "--offline", "--help", "--version", "-h")


@dataclass(frozen=True)
class Page:
    """A page's text without its fenced blocks, and those by language."""

    path: Path
    text: str
    blocks: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, name: str) -> Page:
        """Reads a page, or the comments at the head of a recipe."""
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".yaml":
            head = "".join(line for line in text.splitlines(True) if line.startswith("#"))
            # After two spaces, a remark follows the command.
            text = re.sub(r"^#[ ]*(?:Run:)?[ ]*(.*?)(  .*)?$", r"    \1", head, flags=re.MULTILINE)
        blocks = tuple((block[1], block[2]) for block in _FENCED.finditer(text))
        return cls(path, _FENCED.sub("\n", text), blocks)

    def python(self) -> list[str]:
        """The Python blocks that are scripts."""
        return [code for kind, code in self.blocks if kind == "python" and ">>> " not in code]

    def code(self) -> list[str]:
        """The inline code of the text."""
        return [" ".join(span.split()) for span in _CODE.findall(_INDENTED.sub("\n", self.text))]

    def shell_blocks(self) -> list[str]:
        """Fenced blocks without another language, and indented ones."""
        blocks = [code for kind, code in self.blocks if kind in _SHELL]
        return blocks + [dedent(block[0]) for block in _INDENTED.finditer(self.text)]

    def shell_lines(self) -> Iterator[str]:
        """Every line of a shell block, continued lines joined, and every inline code."""
        for block in self.shell_blocks():
            yield from (line.strip() for line in block.replace("\\\n", " ").splitlines())
        yield from self.code()

    def syntax_error(self) -> str:
        """What bash says against the commands of the shell blocks; empty if nothing."""
        lines = [
            line
            for block in self.shell_blocks()
            for line in block.replace("\\\n", " ").splitlines()
        ]
        script = "\n".join(line for line in lines if _command(line.strip()) is not None)
        return subprocess.run(
            ["bash", "-n"], input=script, capture_output=True, text=True, check=False
        ).stderr

    def commands(self) -> list[list[str]]:
        """The words of every ``lora-s2s`` command line, without the program's name."""
        return [words for line in self.shell_lines() if (words := _command(line)) is not None]

    def settings(self) -> Iterator[str]:
        """The keys of YAML blocks as ``section.key=value``; a key may stand there several times."""
        for kind, code in self.blocks:
            root = yaml.compose(code) if kind == "yaml" else None
            for section, keys in getattr(root, "value", []):
                for key, value in keys.value if isinstance(keys, yaml.MappingNode) else []:
                    text = code[value.start_mark.index : value.end_mark.index]
                    yield f"{section.value}.{key.value}={text.strip().strip(QUOTES)}"

    def headings(self) -> set[str]:
        """The anchors of the headings, as GitHub makes them."""
        anchors: set[str] = set()
        for title in re.findall(r"^#+ +(.+?) *$", self.text, re.MULTILINE):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            several = (f"{slug}-{number}" for number in range(1, 99))
            anchors.add(
                slug if slug not in anchors else next(s for s in several if s not in anchors)
            )
        return anchors

    def links(self) -> list[str]:
        """The targets of links that lead into the project."""
        targets = re.findall(r"\]\(([^)\s]+)\)", _CODE.sub("", self.text))
        targets += re.findall(r'(?:href|src)="([^"]+)"', self.text)
        return [target for target in targets if not re.match(r"https?:|mailto:", target)]


def _command(line: str) -> list[str] | None:
    rest = line[_BEFORE.match(line).end() :]  # type: ignore[union-attr]
    if not re.match(r"lora[-_]s2s(\s|$)", rest):
        return None
    lexer = shlex.shlex(rest, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = list(lexer)[1:]
    ends = [place for place, word in enumerate(words) if word in _ENDS]
    return (words[: ends[0]] if ends else words) or None


@cache
def root_command() -> Any:
    """The command that ``lora-s2s`` is, as Typer builds it."""
    return typer.main.get_command(app)


def problem_of(words: list[str], *, also: set[str] = frozenset()) -> str | None:  # type: ignore[assignment]
    """What the parser or the recipe's schema says against a command line; None if nothing.

    Args:
        also: names that the page has used for an output folder.
    """
    kept = [word for word in words if word not in _ANYWHERE]
    command = root_command()
    asked = len(kept) < len(words)
    while kept and (below := getattr(command, "commands", None)):
        if kept[0] in {name for option in command.params for name in option.opts}:
            return None  # it asks for something else than a command, as --version does
        if kept[0] not in below:
            return f"no command '{kept[0]}'"
        command, kept = below[kept[0]], kept[1:]
    if not kept and (asked or command.name in words[-1:]):  # the command is only named
        return None
    try:
        given = command.make_context("lora-s2s", list(kept)).params
    except (typer.BadParameter, typer.Exit) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  Typer's own copy of click does not export all of its errors
        return f"{type(error).__name__}: {error}"
    named = given.get("recipe") or (given.get("name", "") if words[0] == "recipes" else "")
    if re.fullmatch(r"[\w-]+", named) and named not in {*shipped(), *also, named.upper()}:
        return f"no recipe '{named}'"
    keys = SECTIONS["evaluation"].model_fields  # some are options, too
    own = [f"evaluation.{key}={given[key]}" for key in keys if given.get(key) is not None]
    return _problem_of_settings([*(given.get("sets") or ()), *own])


def _problem_of_settings(sets: list[str]) -> str | None:
    try:
        recipe_from_settings("docs", ["model.name=demo", "data.train=x", *sets])
    except Error as error:
        return error.message
    return None


def unknown_keys(text: str) -> list[str]:
    """The ``section.key`` of a text that no recipe has."""
    return [
        f"{section}.{key}"
        for section, key in _KEY.findall(text)
        if key not in SECTIONS[section].model_fields and key not in _NOT_KEYS
    ]


# What follows a section's name elsewhere: endings of files, and attributes in Python.
_NOT_KEYS = (
    "score",
    "report",
    "splits",
    "py",
    "safetensors",
    "yaml",
    "yml",
    "json",
    "jsonl",
    "csv",
    "md",
)


def options_of(words: list[str]) -> set[str]:
    """The options of a command that inline code starts with; every word's own if it is none."""
    command = root_command()
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    return {option for one in command.params for option in one.opts} | set(_ANYWHERE)
