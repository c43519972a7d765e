"""What the batteries find, and the table made of it: ``docs/SUPPORT.md``.

A battery's test calls ``record`` after its assertions. ``tools/support_table.py`` runs the
batteries with SUPPORT_RESULTS naming a file, and writes the table from what they put there. In any
other run ``record`` holds the committed table against what was just found.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

RESULTS = "SUPPORT_RESULTS"
TABLE = Path(__file__).parents[2] / "docs" / "SUPPORT.md"
WORKS, REFUSED = "works", "refused"


def record(kind: str, name: str, check: str, note: str = WORKS) -> None:
    """Notes that a check held.

    Args:
        kind: ``family`` or ``method``.
        name: the row: a family's or a method's name.
        check: the column; ``refused`` where the whole row is refused.
        note: what the table shows: ``works``, or the reason of a refusal.
    """
    path = os.environ.get(RESULTS)
    if path:
        with Path(path).open("a", encoding="utf-8") as out:
            out.write(json.dumps({"kind": kind, "name": name, "check": check, "note": note}) + "\n")
    else:
        shown = cells(TABLE.read_text(encoding="utf-8")).get((kind, name, check))
        assert shown == cell(note), (
            f"docs/SUPPORT.md says {shown!r}: python tools/support_table.py writes it"
        )


def cell(note: str) -> str:
    """How the table shows a note."""
    return "yes" if note == WORKS else " ".join(note.split()).replace("|", "/")


def cells(text: str) -> dict[tuple[str, str, str], str]:
    """Reads the table's cells back: (kind, row, column) → what it shows."""
    found, header = dict[tuple[str, str, str], str](), list[str]()
    for line in text.splitlines():
        words = (
            [word.strip() for word in line.strip("|").split("|")] if line.startswith("|") else []
        )
        if words and not header:
            header = words
        elif words and not words[0].startswith("---"):
            found.update(
                {
                    (header[0], words[0], name): word
                    for name, word in zip(header[1:], words[1:], strict=True)
                }
            )
        elif not words:
            header = []
    return found
