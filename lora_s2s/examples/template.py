"""A source text from a row's columns: ``{column}`` places, or a Jinja template that can do little
else.

A template may come with an untrusted adapter, so the allowed parts of Jinja are listed below and
checked on its syntax tree before it is compiled: no calls, no arithmetic, no Python attributes, one
loop over ``turns``, and a bound on the length of the text. A column's text is never read as a
template itself.
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
    """Attributes are a turn's role and text, or a loop's; nothing else of Python's."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        known = (
            Turn._fields if isinstance(obj, Turn) else _LOOP if isinstance(obj, LoopContext) else ()
        )
        return (
            super().getattr(obj, attribute)
            if attribute in known
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
    _bounded(100 * len(text))  # Jinja's takes it apart into words, with a regular expression
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
    """One template: its text, the columns it names, those of them that a row may lack, and what
    fills it in.
    """

    text: str
    columns: tuple[str, ...]
    optional: frozenset[str]
    fill: Callable[[Fields], str]
    opening: str = ""
    first: str = ""

    def begun(self, fields: Fields) -> bool:
        """Whether the first column's text begins with the template's own opening, such as
        ``summarize:``.
        """
        value = fields.get(self.first)
        if not self.opening or not isinstance(value, str):
            return False
        return value.lstrip()[: len(self.opening)].casefold() == self.opening.casefold()

    def once(self, fields: Fields) -> str:
        """Fills the template in; an opening that the text has already is not put before it a second
        time.
        """
        if self.begun(fields):
            rest = fields[self.first].lstrip()[len(self.opening) :].lstrip()
            fields = {**fields, self.first: rest} if rest else fields
        return self.fill(fields)


@dataclass(frozen=True)
class PromptTemplate:
    """One or several templates; of several, each row has its own, chosen by what it holds."""

    templates: tuple[OneTemplate, ...]

    @staticmethod
    def of(template: Template) -> PromptTemplate:
        """Compiles a recipe's or a manifest's template; None is the column ``source`` unchanged.

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
        """The columns that the templates name, each with whether a row must hold it: not where
        ``if`` asks for it.
        """
        named = dict.fromkeys(name for one in self.templates for name in one.columns)
        return {
            name: any(name in one.columns and name not in one.optional for one in self.templates)
            for name in named
        }

    def chosen(self, fields: Fields, key: object = "") -> OneTemplate:
        """Returns the template for a row: of several, the same texts and key have the same one."""
        if len(self.templates) == 1:
            return self.templates[0]
        number = int(sha256_json([key, {name: fields.get(name) for name in self.columns}]), 16)
        return self.templates[number % len(self.templates)]

    def render(self, fields: Fields, key: object = "") -> str:
        """Returns the encoder's text.

        Args:
            fields: a text for each column; under ``turns``, a sequence of :class:`Turn`.
            key: what the choice among several templates depends on besides the fields.

        Raises:
            DataError: a column that the row does not have.
            Unusable: a filled-in text that is not one, or too long.
        """
        try:
            return self.chosen(fields, key).once(fields)
        except KeyError as error:
            listed = ", ".join(f"'{column}'" for column in fields) or "none"
            raise DataError(
                f"the template names the column '{error.args[0]}', the row has {listed}"
            ) from error


def check_recorded(template: Template, *, where: str) -> None:
    """Checks a template that a manifest holds.

    Raises:
        DataError: a recipe could not have it.
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
    made = _jinja(template) if "{{" in template or "{%" in template else _places(template)
    if not made.columns:
        raise UsageError(
            f"the template '{template:.80}' names no column",
            hint="write a column in braces: --set data.template='summarize: {text}'",
        )
    return made


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
    optional = frozenset(_asked_for(tree)).intersection(columns)

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
    """Returns a template's fixed beginning where it is unlike a text's own words: several, or one
    with a mark.
    """
    opening = text.strip()
    distinct = len(opening.split()) > 1 or (opening and not opening[-1].isalnum())
    return opening if distinct and any(map(str.isalpha, opening)) else ""


def _beginning(tree: nodes.Template) -> tuple[str, str]:
    """Returns the text that a template begins with and the column that follows it; empty where it
    begins otherwise.
    """
    first = tree.body[0].nodes[:2] if tree.body and isinstance(tree.body[0], nodes.Output) else []
    if len(first) < 2 or not isinstance(first[0], nodes.TemplateData):
        return "", ""
    value = first[1].node if isinstance(first[1], nodes.Filter) else first[1]
    return (_opening(first[0].data), value.name) if isinstance(value, nodes.Name) else ("", "")


def _asked_for(tree: nodes.Node) -> Iterator[str]:
    """Yields the names that an ``if`` looks at, or that have a default: a row may lack them."""
    tests = [node.test for node in tree.find_all(nodes.If)] + [
        node.test for node in tree.find_all(nodes.CondExpr)
    ]
    yield from (name.name for name in nodes.Tuple(tests, "load").find_all(nodes.Name))
    for found in tree.find_all(nodes.Filter):
        if found.name == "default" and isinstance(found.node, nodes.Name):
            yield found.node.name


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
    """Raises UsageError at the first part of a syntax tree that is not allowed."""
    for count, node in enumerate(tree.find_all(nodes.Node), start=1):
        allowed = _ALLOWED.get(type(node))
        if allowed is None or not allowed(node) or count > limits.MOST_TEMPLATE_NODES:
            name = getattr(node, "name", None) or getattr(node, "attr", None) or ""
            part = f"{type(node).__name__.lower()} {name}".strip()
            raise UsageError(
                f"not allowed in a template: '{part}'",
                hint=f"allowed are names, if, one loop over {TURNS}, and the filters "
                f"{', '.join(sorted(_FILTERS))}; {limits.MOST_TEMPLATE_NODES} of these at most",
                where=f"template:{node.lineno}",
            )
