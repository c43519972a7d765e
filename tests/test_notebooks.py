"""The notebooks run from the first cell to the last, on the bundled base with little data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
FEW = """
BASE = "demo"
ROWS = 120
SETTINGS = {"training.max_steps": 12}
"""


def small(path: Path) -> Any:
    """A notebook that installs nothing, with other parameters."""
    notebook = nbformat.read(path, as_version=4)
    cells = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    assert cells["install"].source.startswith("%pip install")
    cells["install"].source = ""
    cells["parameters"].source += FEW
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_has_no_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_and_results_show_themselves(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = small(path)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    for content in ("Prepared data:", "data:image/png;base64,", "difference [95 %]", "train 100%"):
        assert content in pages
    noise = "".join(output.get("text", "") for output in outputs)
    assert not re.sub(r"\rLoading weights:[^\r\n]*\n?", "", noise).strip()
