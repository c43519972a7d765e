"""The undisturbed runs, for all tests here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import SHORT, TRAIN, Reference, make_reference
from preloaded import Preloaded


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, preloaded: Preloaded) -> Reference:
    """The undisturbed run of 12 steps."""
    return make_reference(tmp_path_factory.mktemp("reference"), preloaded, TRAIN)


@pytest.fixture(scope="session")
def short_reference(tmp_path_factory: pytest.TempPathFactory, preloaded: Preloaded) -> Reference:
    """The undisturbed run of 6 steps."""
    return make_reference(tmp_path_factory.mktemp("short"), preloaded, SHORT)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, reference: Reference) -> Path:
    """A folder with the finished adapter, to be left as it is."""
    return shutil.copytree(reference.whole, tmp_path_factory.mktemp("trained") / "it")
