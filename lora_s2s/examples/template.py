"""Templates that render a row's columns as source text: ``{column}`` placeholders, or restricted
Jinja.

A template can come with an untrusted adapter, so its syntax tree is checked against a list of
allowed nodes before it is compiled: no calls, no arithmetic, no Python attributes, one loop over
    ``turns``,
and limited output. Column texts are never parsed as templates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, meta, nodes
from jinja2.filters import do_title
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lora_s2s import limits
from lora_s2s.errors import DataError, UsageError
from lora_s2s.examples.example import Turn, Unusable
from lora_s2s.files import sha256_json
from lora_s2s.readers.rows import Fields

Template: TypeAlias = str | Sequence[str] | None
TURNS = "turns"
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_FILTERS = set(
    "trim lower upper title capitalize replace join default length first last truncate".split()
)
_LOOP = {"first", "last", "index", "index0", "length"}


class _Environment(ImmutableSandboxedEnvironment):
    """Allows only the attributes of turns and loops, no others of Python's."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        allowed = (
            Turn._fields if isinstance(obj, Turn) else _LOOP if isinstance(obj, LoopContext) else ()
        )
        return (
            super().getattr(obj, attribute)
            if attribute in allowed
            else self.undefined(obj=obj, name=attribute)
        )

    def getitem(self, obj: Any, argument: Any) -> Any:
        return (
            self.getattr(obj, argument)
            if isinstance(argument, str)
            else super().getitem(obj, argument)
        )


def _written(value: object) -> object:
    if isinstance(value, (str, int, Undefined)) and not isinstance(value, bool):
        return value
    raise TypeError(f"{type(value).__name__} where a text is expected")


def _bounded(size: int) -> None:
    if size > limits.LONGEST_TEXT:
        raise ValueError(f"a text of more than {limits.LONGEST_TEXT:,} characters")


def _replace(text: str, old: str, new: str) -> str:
    _bounded(len(text) + (text.count(old) + 1) * len(new))
    return text.replace(old, new)


def _join(values: Sequence[Any], separator: str = "", attribute: str | None = None) -> str:
    _bounded(len(values) * len(separator))
    return separator.join(
        values
        if attribute is None
        else [_ENVIRONMENT.getattr(value, attribute) for value in values]
    )


def _title(text: str) -> str:
    _bounded(100 * len(text))  # Jinja's filter splits it into words
    return do_title(text)


_ENVIRONMENT = _Environment(
    undefined=StrictUndefined, finalize=_written, keep_trailing_newline=True
)
_ENVIRONMENT.filters = {name: _ENVIRONMENT.filters[name] for name in _FILTERS} | {
    "replace": _replace,
    "join": _join,
    "title": _title,
}
_ENVIRONMENT.tests = {"defined": _ENVIRONMENT.tests["defined"]}
_ENVIRONMENT.globals = {}


@dataclass(frozen=True)
class OneTemplate:
    """One template: its text, its columns, those that a row may lack, and how to fill it in."""

    text: str
    columns: tuple[str, ...]
    optional: frozenset[str]
    fill: Callable[[Fields], str]
    opening: str = ""
    first: str = ""

    def begun(self, fields: Fields) -> bool:
        """Whether the first column's text starts with the template's opening, such as
        ``summarize:``.
        """
        value = fields.get(self.first)
        if not self.opening or not isinstance(value, str):
            return False
        return value.lstrip()[: len(self.opening)].casefold() == self.opening.casefold()

    def once(self, fields: Fields) -> str:
        """Fills the template in without repeating an opening that the text already has."""
        if self.begun(fields):
            rest = fields[self.first].lstrip()[len(self.opening) :].lstrip()
            fields = {**fields, self.first: rest} if rest else fields
        return self.fill(fields)


@dataclass(frozen=True)
class PromptTemplate:
    """One or several templates; a hash of the row chooses among several."""

    templates: tuple[OneTemplate, ...]

    @staticmethod
    def of(template: Template) -> PromptTemplate:
        """Compiles the template of a recipe or manifest; None stands for ``{source}``.

        Raises:
            UsageError: it names no column, is not a template, or has parts that are not allowed.
        """
        texts = (
            ["{source}"]
            if template is None
            else [template]
            if isinstance(template, str)
            else template
        )
        if not 0 < len(texts) <= limits.MOST_TEMPLATES:
            raise UsageError(f"{len(texts)} templates, expected 1 to {limits.MOST_TEMPLATES}")
        return PromptTemplate(tuple(map(_compiled, texts)))

    @cached_property
    def columns(self) -> dict[str, bool]:
        """The templates' columns, each with whether it is required: not if tested by ``if``."""
        named = dict.fromkeys(name for one in self.templates for name in one.columns)
        return {
            name: any(name in one.columns and name not in one.optional for one in self.templates)
            for name in named
        }

    @property
    def needed(self) -> list[str]:
        """The columns that a row must have: the required ones, or all where none is."""
        return [name for name, required in self.columns.items() if required] or list(self.columns)

    def chosen(self, fields: Fields, key: object = "") -> OneTemplate:
        """The template for a row; equal texts and key give the same one."""
        if len(self.templates) == 1:
            return self.templates[0]
        number = int(sha256_json([key, {name: fields.get(name) for name in self.columns}]), 16)
        return self.templates[number % len(self.templates)]

    def render(self, fields: Fields, key: object = "") -> str:
        """The encoder's text.

        Args:
            fields: a text for each column; under ``turns``, a sequence of :class:`Turn`.
            key: influences, besides the fields, the choice among several templates.

        Raises:
            DataError: the row lacks a column.
            Unusable: a value is not text, or the text is too long.
        """
        try:
            return self.chosen(fields, key).once(fields)
        except KeyError as error:
            listed = ", ".join(f"'{column}'" for column in fields) or "none"
            raise DataError(
                f"the template uses the column '{error.args[0]}', but the row has {listed}"
            ) from error


def check_recorded(template: Template, *, where: str) -> None:
    """Checks the template in a manifest.

    Raises:
        DataError: it would be invalid in a recipe.
    """
    try:
        PromptTemplate.of(template)
    except UsageError as error:
        problem = f"the manifest's input.template is refused: {error.message}"
        raise DataError(problem, where=where) from error


@lru_cache(maxsize=256)
def _compiled(template: str) -> OneTemplate:
    if len(template) > limits.LONGEST_TEMPLATE:
        raise UsageError(
            f"a template of {len(template):,} characters, expected at most "
            f"{limits.LONGEST_TEMPLATE:,}"
        )
    compiled = _jinja(template) if "{{" in template or "{%" in template else _places(template)
    if not compiled.columns:
        raise UsageError(
            f"the template '{template:.80}' names no column",
            hint="write a column in braces: --set data.template='summarize: {text}'",
        )
    return compiled


def _places(template: str) -> OneTemplate:
    literals, names = _PLACEHOLDER.split(template)[::2], _PLACEHOLDER.findall(template)

    def fill(fields: Fields) -> str:
        values = [*(fields[name] for name in names), ""]
        return "".join(part for pair in zip(literals, values, strict=True) for part in pair)

    columns = tuple(dict.fromkeys(names))
    return OneTemplate(
        template, columns, frozenset(), fill, _opening(literals[0]), "".join(names[:1])
    )


def _jinja(template: str) -> OneTemplate:
    try:
        tree = _ENVIRONMENT.parse(template)
        _check(tree)
        compiled = _ENVIRONMENT.from_string(tree)
    except TemplateSyntaxError as error:
        raise UsageError(
            f"the template is not Jinja: {error.message}", where=f"template:{error.lineno}"
        ) from error
    except (RecursionError, SyntaxError, ValueError, OverflowError) as error:
        raise UsageError(f"the template cannot be compiled: {error}") from error
    free = meta.find_undeclared_variables(tree)
    columns = tuple(
        dict.fromkeys(node.name for node in tree.find_all(nodes.Name) if node.name in free)
    )
    optional = frozenset(_optional_names(tree)).intersection(columns)

    def fill(fields: Fields) -> str:
        gaps = {name: Undefined(name=name) for name in optional if name not in fields}
        values = {name: gaps[name] if name in gaps else fields[name] for name in columns}
        pieces, size = [], 0
        try:
            for piece in compiled.generate(values):
                size += len(piece)
                _bounded(size)
                pieces.append(piece)
        except (TemplateError, TypeError, ValueError, LookupError, AssertionError) as error:
            raise Unusable(f"the template cannot be filled in: {error}") from error
        return "".join(pieces)

    return OneTemplate(template, columns, optional, fill, *_beginning(tree))


def _opening(text: str) -> str:
    """A template's fixed start, if it cannot be a text's own word: several words, or a final
    punctuation mark.
    """
    opening = text.strip()
    distinct = len(opening.split()) > 1 or (opening and not opening[-1].isalnum())
    return opening if distinct and any(map(str.isalpha, opening)) else ""


def _beginning(tree: nodes.Template) -> tuple[str, str]:
    """A template's initial text and the column after it; empty if it starts otherwise."""
    first = tree.body[0].nodes[:2] if tree.body and isinstance(tree.body[0], nodes.Output) else []
    if len(first) < 2 or not isinstance(first[0], nodes.TemplateData):
        return "", ""
    value = first[1].node if isinstance(first[1], nodes.Filter) else first[1]
    return (_opening(first[0].data), value.name) if isinstance(value, nodes.Name) else ("", "")


def _optional_names(tree: nodes.Node) -> Iterator[str]:
    """Yields the names that an ``if`` tests or that have a default: a row may lack them."""
    tests = [node.test for node in tree.find_all(nodes.If)] + [
        node.test for node in tree.find_all(nodes.CondExpr)
    ]
    yield from (name.name for name in nodes.Tuple(tests, "load").find_all(nodes.Name))
    for applied in tree.find_all(nodes.Filter):
        if applied.name == "default" and isinstance(applied.node, nodes.Name):
            yield applied.node.name


def _is_plain(value: object) -> bool:
    return (
        value is None
        or isinstance(value, str)
        or (isinstance(value, int) and abs(value) <= limits.LARGEST_TEMPLATE_NUMBER)
    )


def _is_constant(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) or (
        isinstance(node, nodes.Neg) and isinstance(node.node, nodes.Const)
    )


def _is_one_loop(node: nodes.For) -> bool:
    over_turns = (
        isinstance(node.iter, nodes.Name)
        and node.iter.name == TURNS
        and isinstance(node.target, nodes.Name)
    )
    return over_turns and not node.recursive and not any(node.find_all(nodes.For))


# The allowed nodes, each with its condition.
_ALLOWED: dict[type[nodes.Node], Callable[[Any], bool]] = {
    **dict.fromkeys(
        (
            nodes.Template,
            nodes.Output,
            nodes.TemplateData,
            nodes.If,
            nodes.CondExpr,
            nodes.Compare,
            nodes.Operand,
            nodes.And,
            nodes.Or,
            nodes.Not,
            nodes.Keyword,
        ),
        lambda _: True,
    ),
    nodes.Const: lambda node: _is_plain(node.value),
    nodes.Neg: _is_constant,
    nodes.Name: lambda node: not node.name.startswith("_"),
    nodes.Getattr: lambda node: not node.attr.startswith("_"),
    nodes.Getitem: lambda node: _is_constant(node.arg),
    nodes.Filter: lambda node: node.name in _FILTERS and not (node.dyn_args or node.dyn_kwargs),
    nodes.Test: lambda node: node.name == "defined",
    nodes.For: _is_one_loop,
}


def _check(tree: nodes.Node) -> None:
    """Raises UsageError if a node of the syntax tree is not allowed."""
    for count, node in enumerate(tree.find_all(nodes.Node), start=1):
        allowed = _ALLOWED.get(type(node))
        if allowed is None or not allowed(node) or count > limits.MOST_TEMPLATE_NODES:
            name = getattr(node, "name", None) or getattr(node, "attr", None) or ""
            part = f"{type(node).__name__.lower()} {name}".strip()
            raise UsageError(
                f"not allowed in a template: '{part}'",
                hint=f"allowed are names, if, one loop over {TURNS}, and the filters "
                f"{', '.join(sorted(_FILTERS))}; at most {limits.MOST_TEMPLATE_NODES} nodes",
                where=f"template:{node.lineno}",
            )
