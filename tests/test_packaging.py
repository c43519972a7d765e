"""The wheel, built from the sdist, trains and answers away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = "Scripts" if os.name == "nt" else "bin"

pytestmark = pytest.mark.slow
# Runs command lines as the console script does, with one start for all.
IN_TURN = """
import json, sys
from lora_s2s.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as end:
        assert not end.code, words
"""


class Built(NamedTuple):
    """What `python -m build` wrote."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An sdist of the checkout, and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Built(sdist, wheel)


@pytest.fixture(scope="module")
def program(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`lora-s2s` of a new environment with the wheel alone; its requirements are borrowed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / SCRIPTS / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    run([*pip, "--no-deps", "--no-index", str(built.wheel)], folder)
    (packages,) = folder.rglob("site-packages")
    # A path in a .pth file brings packages, and no .pth files of theirs such as an editable one.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / SCRIPTS / "lora-s2s"


def run(command: list[str], folder: Path) -> str:
    """Runs a program in a folder without anything of the checkout, and returns its output."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sdist_holds_what_its_readme_speaks_of_and_the_wheel_no_tests(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "constraints.txt", "tools/run.py", "docs/TUTORIAL.md"} <= names
    assert any(name.startswith("recipes/") for name in names)
    with zipfile.ZipFile(built.wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lora_s2s"}


def test_the_wheel_alone_trains_scores_and_answers(program: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "samples" / "bookings.csv", tmp_path)
    where = run(
        [str(program.parent / "python"), "-c", "import lora_s2s; print(lora_s2s.__file__)"],
        tmp_path,
    )
    assert Path(where.strip()).is_relative_to(program.parents[1])
    shipped = json.loads(run([str(program), "recipes", "--json"], tmp_path))
    expected = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert {recipe["name"] for recipe in shipped["recipes"]} == expected
    short = ["--set", "model.name=demo", "--set", "training.max_steps=2"]
    commands = [
        ["train", "bookings.csv", *short],
        ["eval", "bookings", "--limit", "4", "--json"],
        ["predict", "bookings", "table for 2"],
    ]
    python = [str(program.parent / "python"), "-c", IN_TURN, json.dumps(commands)]
    scored, answer = run(python, tmp_path).splitlines()
    assert json.loads(scored)["n"] == 4
    assert (tmp_path / "adapters" / "bookings" / "report.html").exists()
    assert answer.strip()
