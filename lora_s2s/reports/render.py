"""Templates to text. Every value that a template prints is text: control characters are shown as
escapes, then the value is escaped for the format, HTML or Markdown.

Only what this package wrote itself is printed as it is, see :func:`verbatim`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lora_s2s.console import counted, plain

# CommonMark lets any ASCII punctuation be escaped; these can start markup, an entity, a bare link
# or a mention.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&:@$^\"'=/])")


def render(template: str, /, **values: object) -> str:
    """Fills a template of ``reports/templates``.

    Args:
        template: a file name; ``.html`` is escaped as HTML, ``.md`` as Markdown.

    Raises:
        jinja2.UndefinedError: the template uses a value that is not given.
    """
    environment = _html() if template.endswith(".html") else _markdown()
    return environment.get_template(template).render(values)


def verbatim(text: str) -> Markup:
    """Marks text that this package wrote itself, and that templates print as it is."""
    return Markup(text)  # noqa: S704


def markdown(text: str) -> str:
    """Escapes a text for Markdown: one line, controls shown, every character that could be markup
    behind a backslash.
    """
    return _MARKDOWN.sub(r"\\\1", plain(text))


@cache
def _html() -> Environment:
    environment = Environment(
        loader=PackageLoader("lora_s2s.reports"),
        autoescape=True,
        finalize=_plain_value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": "{:,}".format, "counted": counted, "counts": _counts}
    return environment


@cache
def _markdown() -> Environment:
    # Jinja's autoescape is HTML's, so Markdown's stands in `finalize`, which sees every value.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("lora_s2s.reports"),
        finalize=_markdown_value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"python": python}
    environment.globals["verbatim"] = verbatim
    return environment


def _plain_value(value: object) -> object:
    return value if isinstance(value, Markup) else plain(str(value))


def _markdown_value(value: object) -> str:
    return value if isinstance(value, Markup) else markdown(str(value))


def _counts(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, f"{count:,}") for name, count in counts.items()]


def python(text: str) -> Markup:
    """Returns a text as a Python string inside a fenced block of Markdown."""
    literal = json.dumps(plain(text), ensure_ascii=False)
    return verbatim(literal.replace("`", "\\u0060"))
