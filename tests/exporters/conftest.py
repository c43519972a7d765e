"""A few sources of the demo task to compare on: the usual 64 take seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lora_s2s.demo.task import examples


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("few") / "few.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("source", "target"), *examples("test", 4)])
    return str(path)
