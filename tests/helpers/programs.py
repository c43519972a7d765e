"""The environment of programs that tests start."""

from __future__ import annotations

import os
from pathlib import Path

HELPERS = Path(__file__).parent
ROOT = HELPERS.parents[1]


def environment(**more: str) -> dict[str, str]:
    """This process's environment; the project and these helpers can be imported."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(HELPERS))), **more}
