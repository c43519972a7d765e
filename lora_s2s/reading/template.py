"""A source text from a row's columns: ``{column}`` and nothing else (no attributes, no formats, no code)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lora_s2s.errors import DataError, UsageError

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


def template_columns(template: str) -> list[str]:
    """Returns the columns a template names, in order, each once.

    Raises:
        UsageError: it names none.
    """
    names = list(dict.fromkeys(_PLACEHOLDER.findall(template)))
    if not names:
        raise UsageError(
            f"the template '{template}' names no column",
            hint="write a column in braces: --set data.template='summarize: {text}'",
        )
    return names


def render_source(template: str | None, fields: Mapping[str, str]) -> str:
    """Returns the encoder's text: the template filled in, or the column ``source`` where there is no template.

    A column's own braces are text: what was filled in is never read as a template again.

    Raises:
        DataError: a column that the row does not have.
    """
    if template is None:
        template = "{source}"

    def value(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in fields:
            listed = ", ".join(f"'{column}'" for column in fields) or "none"
            raise DataError(f"the template names the column '{name}', the row has {listed}")
        return fields[name]

    return _PLACEHOLDER.sub(value, template)
