"""Completion, through the variables that the four shells' scripts set, and in a real bash."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_parts import Invoke

from lora_s2s.exporters.formats import EXPORTERS
from lora_s2s.inference.loading import ENGINES
from lora_s2s.lora.average import KINDS
from lora_s2s.recipe.catalogue import shipped

SHELLS = ("bash", "zsh", "fish", "powershell")
# The item without its meaning and the shell's marks.
_ITEM = {
    "bash": r"(.*)",
    "zsh": r"""(?:_arguments '\*: :\(\()?"?([^"]*)"?.*""",
    "fish": r"([^\t]*).*",
    "powershell": r"(.*?):::.*",
}
HOSTILE = ("a b", "a$(touch hit)", "a`touch hit`", "a;touch hit", "a'b", 'a"b', "a\\$(touch hit)")
HOSTILE += ("a\nb", "a\x1b[2Jb", "a:b", "a=b", "-a", "~a", "a*", "a\u202eb", "a\udcff")
Complete = Callable[..., list[str]]


@pytest.fixture
def complete(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """Completes the last word of a command line as a shell's script asks for it."""
    monkeypatch.setitem(sys.modules, "rich", None)  # as the console script does

    def run(line: str, shell: str = "bash") -> list[str]:
        separate = [part for word in line.split(" ") for part in re.split("([=:]+)", word)]
        words = [part for part in separate[:-1] if part] + separate[-1:]
        words = words[:-1] if re.search("[=:]$", line) else words
        variables = {
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "_TYPER_COMPLETE_WORD_TO_COMPLETE": line.rpartition(" ")[2],
        }
        if shell == "bash":
            variables = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
        result = invoke(env={"_LORA_S2S_COMPLETE": f"complete_{shell}", **variables})
        assert result.stderr == ""
        items = [re.fullmatch(_ITEM[shell], row) for row in result.stdout.splitlines()]
        return [item[1] for item in items if item and item[1]]

    return run


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_completes_recipes_adapters_keys_and_values(
    complete: Complete, here: Path, shell: str
) -> None:
    for name in ("short", "shown.running"):
        (here / "adapters" / name).mkdir(parents=True)
    (here / "adapters" / "short" / "adapter_config.json").touch()
    (here / "nl.yaml").touch()
    (here / "nl.md").touch()
    assert complete("lora-s2s --offline train --debug nl", shell) == ["nl2bash", "nl.yaml"]
    assert complete("lora-s2s eval ", shell) == ["short", "demo", "adapters/"]
    assert complete("lora-s2s train my", shell) == ([] if shell != "zsh" else ["_files"])
    start = "" if shell == "bash" else "training.schedule="
    for line in ("--set training.schedule=co", "--set=training.schedule=co"):
        values = complete(f"lora-s2s train demo {line}", shell)
        assert values == [f"{start}cosine", f"{start}constant"]


def test_a_key_alone_is_completed_to_its_sign_and_no_space(complete: Complete) -> None:
    for line, values in (
        ("--set training.packi", ["training.packing=", "training.packing=true"]),
        ("--set training.see", ["training.seed=", "training.seed=42"]),
        ("--set model.na", ["model.name=", "model.name=demo"]),
        ("--vary lora.me", ["lora.method=", "lora.method=lora"]),
    ):
        assert complete(f"lora-s2s sweep demo {line}")[:2] == values


def test_closed_lists_are_those_of_the_package(complete: Complete) -> None:
    assert complete("lora-s2s export demo --format ") == [*EXPORTERS]
    assert complete("lora-s2s eval demo --engine ") == ["torch", *ENGINES]
    assert complete("lora-s2s adapters average a b --method ") == [*KINDS]
    assert complete("lora-s2s train ") == [*shipped()]
    assert complete("lora-s2s --version pre") == ["prepare", "predict"]


@pytest.mark.parametrize("shell", SHELLS)
def test_no_name_that_a_shell_would_act_on_is_offered(
    complete: Complete, here: Path, shell: str
) -> None:
    for name in HOSTILE:
        folder = here / "adapters" / name
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").touch()
        (here / name).mkdir()
        (here / f"{name}.yaml").touch()
    assert complete("lora-s2s train ", shell) == [*shipped(), "adapters/"]
    assert complete("lora-s2s eval a", shell) == ([] if shell != "zsh" else ["_files"])


@pytest.mark.parametrize("damage", ["file", "loop", "unreadable"])
def test_a_damaged_folder_of_adapters_is_no_failure(
    complete: Complete, here: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = here / "adapters"
    if damage == "file":
        adapters.touch()
    elif damage == "loop":
        adapters.symlink_to("adapters")
    else:
        adapters.mkdir()

        def refuse(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "scandir", refuse)
    assert complete("lora-s2s eval de")[0] == "demo"


def test_a_real_bash_completes_without_loading_or_writing_anything(here: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    program = here / "bin" / "lora-s2s"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport atexit, sys\n"
        "atexit.register(lambda: print('MODULES', *sys.modules, file=sys.__stderr__))\n"
        "from lora_s2s.cli import main\nmain()\n"
    )
    program.chmod(0o700)
    (here / "nl2 $(touch hit).yaml").touch()
    (here / "nl2.yaml").touch()
    script = (
        "source <(_LORA_S2S_COMPLETE=source_bash lora-s2s 2> /dev/null)\n"
        "COMP_WORDS=(lora-s2s train nl2) COMP_CWORD=2\n"
        '_lora_s2s_completion lora-s2s\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
        "_LORA_S2S_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args "
        "_TYPER_COMPLETE_ARGS='lora-s2s train nl2b' lora-s2s\n"
    )
    path = os.pathsep.join((str(program.parent), os.environ["PATH"]))
    before = sorted(here.rglob("*"))
    run = subprocess.run(
        [bash, "--norc", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    *names, meaning = run.stdout.splitlines()
    assert names == ["nl2bash", "nl2.yaml"]
    assert meaning.startswith("nl2bash\tEnglish to a shell")
    assert meaning.endswith("lacks.")
    loaded, heavy = run.stderr.split(), ("torch", "numpy", "huggingface_hub", "yaml", "rich.text")
    assert loaded[0] == "MODULES"
    assert not {*loaded} & {*heavy, "lora_s2s.recipe.schema"}
    assert sorted(here.rglob("*")) == before
