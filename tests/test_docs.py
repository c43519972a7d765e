"""README and docs tell the truth: commands, recipe keys and links exist, Python blocks run."""

from __future__ import annotations

import csv
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from cli_parts import here, tiny_model, write_csv
from doc_pages import ROOT, Page, options_of, problem_of, root_command, unknown_keys
from preloaded import Preloaded
from programs import environment

from lora_s2s.demo.task import examples
from lora_s2s.recipe.meanings import key_hint

__all__ = ["here", "tiny_model"]

PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in (
        "*.md",
        "docs/*.md",
        "adapters/README.md",
        "lora_s2s/demo/base/*.md",
        "*/LOG.md",
    )
    for path in ROOT.glob(pattern)
)
# The changelog and the log speak of commands as they were.
CURRENT = [page for page in PAGES if not page.endswith(("CHANGELOG.md", "LOG.md"))]
RECIPES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("name", [*CURRENT, *RECIPES])
def test_every_command_parses_and_every_key_exists(name: str) -> None:
    page = Page.read(name)
    made = {
        after for words in page.commands() for word, after in pairwise(words) if word == "--out"
    }
    problems = [(" ".join(words), problem_of(words, also=made)) for words in page.commands()]
    for code in page.code():
        words = code.split()
        if words and words[0] in root_command().commands:
            options = {word.split("=")[0] for word in words if re.match("--[a-z]", word)}
            problems.append((code, ", ".join(options - options_of(words))))
        problems.append((code, ", ".join(unknown_keys(code))))
    for line in page.shell_lines():  # also of benchmarks, which take --set too
        keys = " ".join(re.findall("--set '?([^ =]+)", line))
        problems.append((line, ", ".join(unknown_keys(keys))))
    for setting in page.settings():
        problems.append((setting, problem_of(["train", "demo", "--set", setting])))
    assert page.syntax_error() == ""
    assert [f"{line}: {problem}" for line, problem in problems if problem] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = Page.read(name)
    broken = []
    for target in page.links():
        file, _, anchor = target.partition("#")
        path = page.path.parent / file if file else page.path
        if not path.exists() or (
            anchor
            and anchor not in Page.read(str(path.relative_to(page.path.parent / ROOT))).headings()
        ):
            broken.append(target)
    assert broken == []


def test_the_reference_is_what_commands_and_schema_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    page = runpy.run_path(str(ROOT / "tools" / "reference_page.py"))
    assert page["PAGE"].read_text(encoding="utf-8") == page["render"](), (
        "run: python tools/reference_page.py"
    )


def test_the_two_commands_are_on_the_first_screen() -> None:
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30]
    for task in ("demo", "test"):
        assert any(f"python3 tools/run.py {task}" in line for line in first_screen)
    assert "python3 tools/run.py test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    runner = (ROOT / "tools" / "run.py").read_text(encoding="utf-8")
    tasks = re.findall(r"^    python3 tools/run.py (\S+)", runner, re.MULTILINE)
    assert tasks == ["demo", "test", "newest", "check", "--"]  # a line each, as --help prints them


def run_block(code: str, folder: Path) -> dict[str, object]:
    """Runs a Python block as a script and returns what it defined."""
    script = folder / "block.py"
    script.write_text(code, encoding="utf-8")
    return runpy.run_path(str(script))


def test_the_python_blocks_of_the_readme_run(here: Path, tiny_model: Path) -> None:
    write_csv(here / "my.csv")
    quick = {
        "model.name": str(tiny_model),
        "training.max_steps": 2,
        "training.batch_size": 4,
        "evaluation.max_new_tokens": 6,
    }
    short, long = Page.read("README.md").python()
    short = short.replace('load("adapters/demo")', f'answered = load("{ROOT}/adapters/demo")')
    assert "Ana" in str(run_block(short, here)["answered"])
    long = long.replace('init("my.csv", {"model.name": "demo"})', f'init("my.csv", {quick})')
    long = long.replace("# or a shipped one: ", "")
    long = long.replace('{"data.train": "my.csv"}', f'{{**{quick}, "data.train": "my.csv"}}')
    defined = run_block(long, here)
    assert (here / "my-model" / "config.json").is_file()
    assert isinstance(defined["answer"], str)
    assert len(defined["answers"]) == 2  # type: ignore[arg-type]


# Run elsewhere: README.md above, TUTORIAL.md below; EXPORT.md in tests/exporters; SERVE.md needs a
# server.
ELSEWHERE = {"README.md", "docs/TUTORIAL.md", "docs/EXPORT.md", "docs/SERVE.md"}
WITH_PYTHON = [page for page in CURRENT if Page.read(page).python() and page not in ELSEWHERE]


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_blocks_run(name: str, here: Path) -> None:
    shutil.copytree(ROOT / "adapters" / "demo", here / "adapters" / "demo")
    torch.save({"weight": torch.zeros(2)}, here / "adapter_model.bin")
    for code in Page.read(name).python():
        run_block(code, here)


def test_the_samples_are_of_the_demo_task() -> None:
    for name, split in (("bookings.csv", "train"), ("bookings-test.csv", "test")):
        with (ROOT / "docs" / "samples" / name).open(encoding="utf-8", newline="") as stream:
            head, *rows = csv.reader(stream)
        assert head == ["message", "booking"]
        assert [tuple(row) for row in rows] == examples(split, len(rows))


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_one_after_another(
    here: Path, preloaded: Preloaded
) -> None:
    """In a fresh folder, with fewer training steps than the page has."""
    page = Page.read("docs/TUTORIAL.md")
    shutil.copytree(ROOT / "docs" / "samples", here / "docs" / "samples")
    commands = "\n".join(page.shell_blocks())
    short = commands.replace(
        "train bookings.yaml\n", "train bookings.yaml --set training.max_steps=20\n"
    )
    assert short != commands
    folder, answers = here, []
    for line in filter(None, short.splitlines()):
        program, *words = shlex.split(line)
        if program == "lora-s2s":
            done = preloaded.run(folder, *words)
            assert done.code == 0, done.stderr[-2000:]
            answers.append(done.stdout)
        else:
            moved = subprocess.run(
                ["bash", "-euc", f"{line}; pwd"], cwd=folder, stdout=subprocess.PIPE, check=True
            )
            folder = Path(moved.stdout.decode().splitlines()[-1])
    (code,) = page.python()
    said = subprocess.run(
        [sys.executable, "-"],
        input=code.encode(),
        cwd=folder,
        env=environment(HF_HUB_OFFLINE="1"),
        check=True,
        stdout=subprocess.PIPE,
    ).stdout.decode()
    adapter = [line for answer in answers for line in answer.splitlines()][-1]
    (merged,) = said.splitlines()
    assert adapter == merged  # of predict, and of plain transformers
    assert (
        (here / "tutorial" / "answered.csv")
        .read_text(encoding="utf-8")
        .startswith("message,booking,prediction")
    )


def test_keys_of_other_tools_mean_what_the_page_says() -> None:
    """What an unknown key is answered with, by the tables of MIGRATING.md."""
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", Page.read("docs/MIGRATING.md").text, re.MULTILINE)
    assert len(rows) > 90
    wrong = []
    for theirs, ours in rows:
        for name in re.findall(r"`-*([^`]+)`", theirs):
            hint = key_hint(name, "1")
            pairs = re.findall(r"`([a-z_.]+)(?:: ([^`]+))?`", ours)
            meant = [
                f"'{key}={value}'" if value and "=" in hint else f"'{key}" for key, value in pairs
            ]
            if not any(word in hint for word in meant or ["(omit it: "]):
                wrong.append((name, ours, hint))
    assert wrong == []


def test_the_recording_shows_commands_that_exist_and_runs_nothing() -> None:
    path = "docs/recording.svg"
    assert f"]({path})" in (ROOT / "README.md").read_text(encoding="utf-8")
    picture = ElementTree.fromstring((ROOT / path).read_text(encoding="utf-8"))  # noqa: S314  ours
    lines = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    typed = [shlex.split(line)[2:] for line in lines if line.startswith("$ lora-s2s ")]
    assert [words[0] for words in typed] == ["train", "eval", "predict"]
    assert [problem_of(words) for words in typed] == [None] * 3
    names = {element.tag.partition("}")[2] for element in picture.iter()}
    assert names <= {"svg", "style", "text", "tspan", "clipPath", "rect", "g"}
