"""Renders templates. Values are printed as text: control characters become visible escapes, then
the value is escaped for HTML or Markdown, except for the package's own markup, see
:func:`verbatim`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lora_s2s.console import counted, plain

_TEMPLATES = PackageLoader("lora_s2s.reports")
# Characters that could end a script element, or a line of a script.
_IN_SCRIPTS = re.compile("[<>&\u2028\u2029]")
# CommonMark allows escaping any ASCII punctuation; these characters can start markup, an entity, a
# bare link or a mention.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&:@$^\"'=/])")


def render(template: str, /, **values: object) -> str:
    """Fills a template of ``reports/templates``.

    Args:
        template: a file name; ``.html`` is escaped as HTML, ``.md`` as Markdown.

    Raises:
        jinja2.UndefinedError: a value is missing.
    """
    environment = _html() if template.endswith(".html") else _markdown()
    return environment.get_template(template).render(values)


def verbatim(text: str) -> Markup:
    """Marks the package's own text, which templates do not escape."""
    return Markup(text)  # noqa: S704


def visible(text: str) -> str:
    """A text with its line breaks; other control characters become visible escapes."""
    return "\n".join(map(plain, text.split("\n")))


def lines(text: str) -> Markup:
    """A text with its line breaks, escaped for HTML."""
    return escape(visible(text))


def script_data(value: object) -> Markup:
    """JSON for a script element that holds data; its strings are :func:`visible`."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return verbatim(_IN_SCRIPTS.sub(lambda match: f"\\u{ord(match.group()):04x}", text))


def package_text(name: str) -> Markup:
    """A style sheet or script of ``reports/templates``, as it stands."""
    source, _, _ = _TEMPLATES.get_source(Environment(), name)  # noqa: S701  not rendered
    return verbatim(source)


def content_hash(text: str) -> Markup:
    """The source expression by which a content security policy allows an element's text."""
    digest = hashlib.sha256(text.encode()).digest()
    return verbatim(f"'sha256-{base64.b64encode(digest).decode()}'")


def markdown(text: str) -> str:
    """Escapes a text for Markdown: one line, visible control characters, backslashes before every
    character that could be markup.
    """
    return _MARKDOWN.sub(r"\\\1", plain(text))


@cache
def _html() -> Environment:
    environment = _environment(_plain_value, autoescape=True)
    environment.filters |= {
        "number": "{:,}".format,
        "counted": counted,
        "counts": _counts,
        "lines": lines,
        "script_data": script_data,
        "content_hash": content_hash,
    }
    environment.globals["package_text"] = package_text
    return environment


@cache
def _markdown() -> Environment:
    # Jinja's autoescape is for HTML; `finalize`, which every value passes, escapes for Markdown.
    environment = _environment(_markdown_value, autoescape=False)
    environment.filters |= {"python": python}
    environment.globals["verbatim"] = verbatim
    return environment


def _environment(finalize: Callable[[object], object], *, autoescape: bool) -> Environment:
    return Environment(
        loader=_TEMPLATES,
        autoescape=autoescape,  # noqa: S701
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _plain_value(value: object) -> object:
    return value if isinstance(value, Markup) else plain(str(value))


def _markdown_value(value: object) -> str:
    return value if isinstance(value, Markup) else markdown(str(value))


def _counts(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, f"{count:,}") for name, count in counts.items()]


def python(text: str) -> Markup:
    """A text as a Python string in a fenced code block."""
    literal = json.dumps(plain(text), ensure_ascii=False)
    return verbatim(literal.replace("`", "\\u0060"))
