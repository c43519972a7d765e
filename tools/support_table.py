"""Writes docs/SUPPORT.md from what the batteries of families and adapter methods find.

python tools/support_table.py            run both batteries and write the table
python tools/support_table.py --check    run them and say whether the committed table is theirs
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from pages import table, write_or_check  # noqa: E402
from support import REFUSED, RESULTS, TABLE, cell  # noqa: E402

BATTERIES = ("tests/families/test_family_battery.py", "tests/lora/test_methods_battery.py")
TITLES = {"family": "Families", "method": "Adapter methods"}
INTRO = """# What works

Written by `tools/support_table.py` from the batteries' results (`tests/families`, `tests/lora`); not by hand. Each
"yes" is a test that passes on a tiny model built in code, on a CPU: the checks prove the mechanics, not quality.
"""  # noqa: E501

Results = dict[str, dict[str, dict[str, str]]]


def run_batteries() -> Results:
    """Runs the batteries and returns kind → row → column → note."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.jsonl"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "", *BATTERIES]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, RESULTS: str(out)}, check=False)
        if done.returncode:
            sys.exit("a battery failed: no table is written")
        found: Results = {}
        for line in out.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            found.setdefault(item["kind"], {}).setdefault(item["name"], {})[item["check"]] = item[
                "note"
            ]
    return found


def render(found: Results) -> str:
    """Returns the page: for each kind a table of what works, and one of what is refused and why."""
    parts = [INTRO]
    for kind, title in TITLES.items():
        rows = found.get(kind, {})
        refused = {name: checks for name, checks in rows.items() if set(checks) == {REFUSED}}
        working = {name: checks for name, checks in rows.items() if name not in refused}
        parts.append(f"## {title}\n")
        parts += [_table(kind, group) for group in (working, refused) if group]
    return "\n".join(parts)


def _table(kind: str, rows: dict[str, dict[str, str]]) -> str:
    columns = list(dict.fromkeys(check for checks in rows.values() for check in checks))
    lines = [
        [name, *(cell(checks[c]) if c in checks else "" for c in columns)]
        for name, checks in rows.items()
    ]
    return table([[kind, *columns], *lines])


def main() -> None:
    """Writes the table, or with ``--check`` exits 1 where the committed one says something else."""
    write_or_check(TABLE, render(run_batteries()), source="the batteries")


if __name__ == "__main__":
    main()
