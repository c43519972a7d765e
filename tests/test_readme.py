"""The README tells the truth: its verbs, recipes, links and two commands exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import typer
from cli_parts import here, tiny_model, write_csv

from lora_s2s.cli import app
from lora_s2s.recipe.catalogue import shipped

__all__ = ["here", "tiny_model"]

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "ARCHITECTURE.md", "adapters/README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_link_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    verbs = set(getattr(typer.main.get_command(app), "commands"))  # noqa: B009  click's type is not ours to name
    assert set(re.findall(r"(?:^|`)\s*lora-s2s ([a-z]+)", text, re.MULTILINE)) <= verbs
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / page).parent.joinpath(target).exists(), target


def test_the_two_commands_are_on_the_first_screen() -> None:
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30]
    for task in ("demo", "test"):
        assert any(f"python3 tools/run.py {task}" in line for line in first_screen)
    assert "python3 tools/run.py test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_recipes_named_in_the_readme_are_shipped() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"recipes copy ([\w-]+)", text)) <= set(shipped())


def run_blocks(text: str, folder: Path) -> list[dict[str, object]]:
    """Runs the Python blocks of a page as scripts; gives what each of them defined."""
    ended = []
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
        script = folder / f"block{number}.py"
        script.write_text(block, encoding="utf-8")
        ended.append(runpy.run_path(str(script)))
    return ended


def test_the_python_blocks_run(here: Path, tiny_model: Path) -> None:
    write_csv(here / "my.csv")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    quick = {
        "model.name": str(tiny_model),
        "training.max_steps": 2,
        "training.batch_size": 4,
        "evaluation.max_new_tokens": 6,
    }
    text = text.replace('{"data.train": "my.csv"}', f'{{**{quick}, "data.train": "my.csv"}}')
    text = text.replace('load("adapters/demo")', f'answered = load("{ROOT}/adapters/demo")')
    short, long = run_blocks(text, here)
    assert "Ana" in str(short["answered"])
    assert (here / "my-model" / "config.json").is_file()
    assert isinstance(long["answer"], str)
    assert len(long["answers"]) == 2  # type: ignore[arg-type]
