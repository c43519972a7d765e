"""Pages that a tool writes and a test holds: Markdown tables, and writing or checking the committed
page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path


def table(lines: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; the first line is its head."""
    head, *rows = lines
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


def write_or_check(path: Path, page: str, *, source: str) -> None:
    """Writes a page, or where the command line says ``--check`` exits 1 if the committed one says
    something else.

    Args:
        source: what the page is made from, for the message.
    """
    if "--check" not in sys.argv[1:]:
        path.parent.mkdir(exist_ok=True)
        path.write_text(page, encoding="utf-8")
    elif not path.is_file() or path.read_text(encoding="utf-8") != page:
        sys.exit(f"docs/{path.name} is not what {source} give: run tools/{Path(sys.argv[0]).name}")
