"""``docs/SUPPORT.md`` is what the batteries give; that every check stands in it, ``record`` holds
in each of them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import TABLE, cells
from tiny_families import TINY

from lora_s2s.models.family import REFUSED

ROOT = Path(__file__).parents[2]
CHECKS = [
    "same as transformers",
    "targets",
    "LoRA",
    "nf4",
    "checkpointing",
    "save, load, merge",
    "answers",
]


def test_the_table_names_every_family_and_no_other() -> None:
    found = cells(TABLE.read_text(encoding="utf-8"))
    expected = {("family", name, check): "yes" for name in TINY for check in CHECKS}
    refusals = {("family", name, "refused"): reason for name, reason in REFUSED.items()}
    assert {key: shown for key, shown in found.items() if key[0] == "family"} == {
        **expected,
        **refusals,
    }
    assert not {shown for key, shown in found.items() if key[0] == "method" and not shown}


@pytest.mark.long  # `record` holds each check to its cell; this finds only rows that are left over
def test_the_committed_table_is_what_the_batteries_give() -> None:
    command = [sys.executable, str(ROOT / "tools" / "support_table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
