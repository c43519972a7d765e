"""The small parts of ``tests/training`` and the tiny models of ``tests/families`` serve here
too.
"""

from __future__ import annotations

import sys
from pathlib import Path

for room in ("training", "families"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))
