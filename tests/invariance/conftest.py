"""The invariance tests drive the loop with the small parts of ``tests/training``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
