"""Sets up a virtual environment once and runs the project in it. Needs only Python 3.10 or newer.

    python3 tools/run.py demo            set up, then `lora-s2s demo`
    python3 tools/run.py test            set up, then the tests (further words go to pytest)
    python3 tools/run.py newest          the tests of models, on the newest transformers and PEFT
    python3 tools/run.py check           style and types: ruff and mypy
    python3 tools/run.py -- train demo   set up, then any `lora-s2s` command

The tests run in up to four processes; `test -n 0` runs them in one.

The environment is `.venv` in the checkout; it is made again only when the requirements change.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv"
NEWEST = ROOT / "build" / "newest"
# What loads, adapts, decodes, merges and describes models.
ON_NEWEST = (
    "tests/families",
    "tests/lora",
    "tests/models",
    "tests/inference",
    "tests/tokens",
)
REQUIREMENTS = (
    ROOT / "pyproject.toml",
    ROOT / "constraints.txt",
    ROOT / "lora_s2s" / "__init__.py",
)


def say(text: str) -> None:
    """Tells what happens next, on stderr."""
    print(f"== {text}", file=sys.stderr, flush=True)


def script(name: str) -> str:
    """Returns the path of an executable of the environment."""
    folder, suffix = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
    return str(ENVIRONMENT / folder / f"{name}{suffix}")


def processes() -> str:
    """Returns how many processes the tests take: a core each, at most four, as each needs a
    gigabyte or two.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return str(min(4, cores))


def call(command: Sequence[str]) -> None:
    """Runs a command in the checkout and ends with its exit code when it fails."""
    code = subprocess.run(list(command), cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


def set_up() -> None:
    """Makes the environment and installs the tested set, unless that has been done for these
    requirements.
    """
    wanted = hashlib.sha256(b"\0".join(path.read_bytes() for path in REQUIREMENTS)).hexdigest()
    stamp = ENVIRONMENT / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        say(f"using the environment in {ENVIRONMENT.name} (delete it to start afresh)")
        return
    if not Path(script("python")).exists():
        say(
            f"making a virtual environment in {ENVIRONMENT.name} with Python "
            f"{sys.version.split()[0]}"
        )
        venv.create(ENVIRONMENT, with_pip=True)
    pip = [
        script("python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        "constraints.txt",
    ]
    say("installing torch (the largest download)")
    call([*pip, "torch"])
    say("installing lora-s2s and its other requirements")
    call([*pip, "--editable", ".[dev]"])
    stamp.write_text(wanted)


def set_up_newest() -> None:
    """Installs the newest transformers and PEFT that pyproject.toml allows, beside the tested
    set.
    """
    wanted = re.findall(
        r'"((?:transformers|peft)[<>=][^"]*)"', REQUIREMENTS[0].read_text(encoding="utf-8")
    )
    say(f"installing the newest {' and '.join(wanted)}")
    pip = [
        script("python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--upgrade",
        "--no-deps",
    ]
    call([*pip, "--target", str(NEWEST), *wanted])
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(NEWEST), os.environ.get("PYTHONPATH")))
    )


def main(arguments: Sequence[str]) -> None:
    """Runs ``demo``, ``test``, ``newest``, ``check`` or, after ``--``, any command of lora-s2s."""
    if sys.version_info < (3, 10):  # noqa: UP036  this file may meet any Python
        sys.exit(f"lora-s2s needs Python 3.10 or newer; this is {sys.version.split()[0]}")
    if not arguments or arguments[0] not in ("demo", "test", "newest", "check", "--"):
        sys.exit(__doc__)
    task, rest = arguments[0], list(arguments[1:])
    set_up()
    if task == "newest":
        set_up_newest()
        task, rest = "test", rest or [*ON_NEWEST]
    if task == "test":
        os.environ["OMP_NUM_THREADS"] = "1"  # the processes take the cores
    commands = {
        "demo": [[script("lora-s2s"), "demo", *rest]],
        "test": [
            [script("python"), "-m", "pytest", "-n", processes(), "--dist", "loadfile", *rest]
        ],
        "check": [
            [script("ruff"), "check", "."],
            [script("ruff"), "format", "--check", "."],
            [script("mypy")],
        ],
        "--": [[script("lora-s2s"), *rest]],
    }
    for command in commands[task]:
        say(f"running {' '.join([Path(command[0]).name, *command[1:]])}")
        call(command)


if __name__ == "__main__":
    main(sys.argv[1:])
