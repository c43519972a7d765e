"""The command line itself: light help, exit codes, one place for every failure, --debug, stdout and
stderr apart.
"""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from cli_parts import Invoke

from lora_s2s import __version__
from lora_s2s.commands._show import next_prediction
from lora_s2s.console import _waiting
from lora_s2s.errors import COMMAND_LINE, OWN_LAUNCH, DataError, Error, Stopped, again
from lora_s2s.pipeline.notices import whole

VERBS = (
    "demo",
    "prepare",
    "plan",
    "train",
    "eval",
    "predict",
    "merge",
    "push",
    "ui",
    "doctor",
    "recipes",
    "adapters",
)
# Typer itself brings pydantic in.
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "pyarrow",
    "numpy",
    "matplotlib",
    "sacrebleu",
    "accelerate",
)

# Asks every verb for help as the console script would, then lists what was imported.
_PROBE = """
import sys
from lora_s2s.cli import main
for words in sys.argv[1:]:
    sys.argv = ["lora-s2s", *words.split(), "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, words
print("MODULES", *sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_help_loads_nothing_heavy() -> None:
    words = ["", *VERBS, "recipes show", "adapters compare"]
    run = subprocess.run(
        [sys.executable, "-c", _PROBE, *words], capture_output=True, text=True, check=True
    )
    help_text, _, modules = run.stdout.partition("MODULES")
    assert help_text.count("Usage: lora-s2s") == len(words)
    assert not set(modules.split()) & set(HEAVY)


def test_python_dash_m_is_the_same_program() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "lora_s2s", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout == f"{__version__}\n"


def test_every_verb_is_listed_and_no_words_show_the_help(invoke: Invoke) -> None:
    assert all(f"\n  {verb} " in invoke("--help").stdout for verb in VERBS)
    assert "Usage: lora-s2s" in invoke(code=2).stderr


def test_no_waiting_is_shown_where_others_write(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("lora_s2s.cli.show_waiting", shown.append)
    monkeypatch.setattr("lora_s2s.cli.announce_loading", lambda _: shown.append("loading"))
    for words in (["recipes", "show", "-"], ["recipes", "--workers=2"], ["adapters"]):
        invoke(*words, code=None)
    assert shown == ["loading", "loading", "loading", "adapters"]


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("lora_s2s.recipe.catalogue.shipped", fail)


@pytest.mark.parametrize(
    ("words", "launch", "command"),
    [
        (["push", "my f", "me/x", "--overwrite"], None, "push 'my f' me/x"),
        (["train", "my rows.csv", "--overwrite"], None, "train 'my rows.csv' --resume"),
        (["predict", "m", "--resume", "--", "-x"], None, "predict m --resume -- -x"),
        (["demo", "--out", "d"], None, "demo --out d"),
        (["train", "r"], f"{OWN_LAUNCH}1", "train r --resume --processes 2"),
        (["train", "r"], "torchrun's", None),
    ],
)
def test_the_command_that_continues(
    monkeypatch: pytest.MonkeyPatch, words: list[str], launch: str | None, command: str | None
) -> None:
    if launch is not None:
        for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("TORCHELASTIC_RUN_ID", launch)):
            monkeypatch.setenv(name, value)
    before = COMMAND_LINE.set(words)
    given, replacing, more = again(), again("--overwrite"), again("--resume", "a.b=1")
    COMMAND_LINE.reset(before)
    assert ("--overwrite" in replacing) == (words[0] in ("train", "push"))
    assert given == (f"lora-s2s {command}" if command else "the same command with --resume")
    assert more == given.replace("--resume", "--resume --set a.b=1")


def test_what_is_said_of_data_ends_with_the_whole_command() -> None:
    odd = "1 row with other columns ('a: --set \"b'): kept"
    before = COMMAND_LINE.set(["train", "a.csv", "--set", "data.format=auto"])
    said = [whole("cut: --set data.format=pairs"), whole(odd)]
    COMMAND_LINE.reset(before)
    assert said == ["cut: lora-s2s train a.csv --overwrite --set data.format=pairs", odd]


class DistError(RuntimeError):
    """Named like torch's."""


class DistNetworkError(DistError):
    """A kind of it."""


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            DataError("no rows", where="a.csv:3", hint="add some"),
            3,
            "error: no rows\n  at: a.csv:3\nhint: add some\n",
        ),
        (Error("it failed"), 1, "error: it failed\n"),
        (
            Stopped("stopped after step 3", 15),
            143,
            "stopped after step 3\nhint: continue: the same call with resume=True\n",
        ),
        (MemoryError(), 4, "error: out of memory: the machine has no more\nhint: "),
        (
            OutOfMemoryError("CUDA out of memory. Tried 2 GiB"),
            4,
            "error: out of memory: CUDA out of memory. Tried",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            4,
            "error: out of memory: DefaultCPU",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "x/y"),
            4,
            "error: out of disk space: No space left",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            2,
            "error: no permission: Permission denied\n",
        ),
        (
            OSError(errno.EIO, "Input/output error", "/x"),
            1,
            "error: the system refused: Input/output error\n  at: /x",
        ),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:537] reset by peer"),
            1,
            "error: another process of this run has",
        ),
        (
            DistNetworkError("the connection was closed"),
            1,
            "error: another process of this run has ended\nhint: ",
        ),
        (
            ImportError("No module named 'wandb'"),
            5,
            "error: a package is missing or broken: No module named 'wandb'",
        ),
        (KeyboardInterrupt(), 130, ""),
        (DataError("\x1b[31mred [bold]x[/bold]"), 3, "error: \\x1b[31mred [bold]x[/bold]\n"),
    ],
)
def test_each_failure_is_one_message_with_its_code(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    raising(monkeypatch, error)
    result = invoke("recipes", code=code)
    assert result.stderr.startswith(text)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("place", [0, 1])
def test_debug_anywhere_shows_the_traceback_and_keeps_the_code(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    raising(monkeypatch, DataError("no rows"))
    words = ["recipes"]
    words.insert(place, "--debug")
    result = invoke(*words, code=3)
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: no rows\n")


def test_what_nobody_foresaw_is_one_line_and_exit_1() -> None:
    breaking = (
        "import lora_s2s.recipe.catalogue as c\n"
        "def fail(): raise ZeroDivisionError('by\\nzero')\n"
        "c.shipped = fail\n"
        "from lora_s2s.cli import main\nmain()\n"
    )
    command = [sys.executable, "-c", breaking, "recipes"]
    quiet = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (quiet.returncode, quiet.stdout) == (1, "")
    assert quiet.stderr.startswith("error: something unforeseen: ZeroDivisionError: by\n  at: ")
    assert "hint: run again with --debug" in quiet.stderr
    assert "Traceback" not in quiet.stderr
    loud = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert loud.returncode == 1
    assert "Traceback" in loud.stderr


def test_recipes_lists_shows_copies_and_prints_the_schema(invoke: Invoke, here: Path) -> None:
    listed = json.loads(invoke("recipes", "--json").stdout)["recipes"]
    assert {"demo", "flan-t5-base"} <= {entry["name"] for entry in listed}
    assert "flan-t5-base" in invoke("recipes").stderr
    shown = invoke("recipes", "show", "demo").stdout
    assert shown.startswith("# Booking messages")
    invoke("recipes", "copy", "demo", "mine.yaml")
    copied = (here / "mine.yaml").read_text(encoding="utf-8")
    schema = "# yaml-language-server: $schema="  # of the copy, where it is on this machine
    lines = zip(copied.splitlines(), shown.splitlines(), strict=True)
    assert [one for one, other in lines if one != other] == [
        line for line in copied.splitlines() if line.startswith(schema)
    ]
    assert json.loads(invoke("recipes", "schema").stdout)["title"] == "lora-s2s recipe"
    told = invoke("recipes", "schema", "--json")
    assert json.loads(told.stdout)["$defs"]["LoraSection"]["properties"]["r"]["type"] == "integer"
    assert told.stderr == ""
    again = invoke("recipes", "copy", "demo", "mine.yaml", code=2)
    assert "error: mine.yaml exists already" in again.stderr


# A verb that waits inside a folder it is writing, or writes to a stdout nobody reads.
_WAITING = """
import sys, time
from pathlib import Path
from lora_s2s import cli
from lora_s2s.outputs import whole_folder
def wait() -> None:
    with whole_folder(Path("out")):
        print("ready", flush=True)
        time.sleep(60)
cli.app.command("wait")(wait)
sys.argv = ["lora-s2s", "wait"]
cli.main()
"""


def test_sigterm_leaves_nothing_half_written(here: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WAITING], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        run.terminate()
        assert run.wait(timeout=120) == 143
    assert list(here.iterdir()) == []


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line of the shell, where $lora is the program."""
    environment = {
        **os.environ,
        "lora": f"{sys.executable} -m lora_s2s",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(os.name != "posix", reason="a shell's redirections")
@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("$lora recipes --json >&-", 1, "stdout is closed"),
        (
            "$lora recipes schema --json >/dev/full",
            4,
            "out of disk space: No space left on device\n  at: stdout",
        ),
        ("$lora recipes 2>&-", 0, ""),
        ("$lora recipes show nix 2>&-", 2, ""),
        ("$lora adapters <&- >&- 2>&-", 0, ""),
        ("$lora recipes show demo 2>/dev/full >out", 0, ""),
        ("$lora recipes show nix 2>/dev/full", 2, ""),
        ("$lora --help | head -1 >/dev/null; exit ${PIPESTATUS[0]}", None, ""),
        (
            "mkdir gone; cd gone; rmdir ../gone; $lora predict demo hello",
            2,
            "the current folder has been removed",
        ),
        ("PYTHONOPTIMIZE=2 $lora train demo", 5, "python -OO drops the docstrings"),
        ("PYTHONOPTIMIZE=2 $lora recipes", 0, "Shipped recipes"),
        ("TERM=dumb COLUMNS=1 LC_ALL=C $lora recipes", 0, ""),
        (
            "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $lora adapters show café",
            3,
            "no adapter 'caf\\xe9'",
        ),
        ("env -u HOME $lora adapters --dir '~nobody-here/x'", 0, "no adapter in"),
    ],
)
def test_streams_and_surroundings_that_are_not_as_usual(
    here: Path, script: str, code: int | None, said: str
) -> None:
    if "/dev/full" in script and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    run = shell(script, here)
    assert code is None or run.returncode == code, run.stderr
    assert said in run.stderr
    assert "unforeseen" not in run.stderr
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["adapters", "show", "caf\udce9"],
        ["predict", "demo", "\udc80"],
        ["train", "demo", "--set", "output.name=\udcff"],
        ["\udce9"],
    ],
)
def test_words_that_are_not_text_are_refused(invoke: Invoke, words: list[str]) -> None:
    said = invoke(*words, code=2).stderr
    assert f"error: argument {len(words)} is not UTF-8 text: " in said
    assert "\\udc" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EBADF, "Bad file descriptor"), "the system refused: Bad file descriptor"),
        (io.UnsupportedOperation("not readable"), "the system refused: not readable"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/x']"),
            "no folder for temporary",
        ),
        (RuntimeError("Could not determine home directory."), "no such home folder is known here"),
    ],
)
def test_whatever_the_system_refuses_is_one_message(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, error: BaseException, said: str
) -> None:
    raising(monkeypatch, error)
    assert said in invoke("recipes", code=None).stderr


def test_a_reader_that_goes_away_is_no_defect() -> None:
    words = [sys.executable, "-m", "lora_s2s", "recipes", "schema"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == ""
        assert run.wait(timeout=120) == 1


def test_a_terminal_gets_the_keys_as_a_table() -> None:
    master, slave = pty.openpty()
    words = [sys.executable, "-m", "lora_s2s", "recipes", "schema"]
    environment = {**os.environ, "COLUMNS": "160"}
    done = subprocess.run(
        words, stdout=slave, stderr=subprocess.PIPE, text=True, env=environment, check=True
    )
    os.close(slave)
    os.close(master)
    rows = [line.split(maxsplit=1) for line in done.stderr.splitlines() if line.strip()]
    lines = {words[0]: " ".join(words[-1].split()) for words in rows if "." in words[0]}
    assert lines["model.name"].startswith("required text Hub id")
    assert lines["lora.dropout"].startswith("0.0 number, ≥ 0, < 1 Dropout")
    assert lines["training.packing"].startswith("false true, false")
    assert lines["data.train"].startswith("required text or list of text")
    assert "none, nf4, int8" in lines["model.quantization"]


def test_the_end_of_a_command_ends_its_waiting_line(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_waiting, "command", "recipes")
    invoke("recipes", "show", "nothing", code=2)
    assert _waiting.command == ""


def test_the_next_command_can_be_pasted(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copied = invoke("recipes", "copy", "demo", "my $(own) recipe.yaml").stderr
    assert "lora-s2s train 'my $(own) recipe.yaml' --dry-run" in copied


@pytest.mark.parametrize(
    ("template", "asked"),
    [
        ("{a} {b}", "--input FILE"),
        ("{% if a %}{{ a }}{% endif %}{% if b %}{{ b }}{% endif %}", "--input FILE"),
        ("{a}", "text"),
    ],
)
def test_the_next_command_asks_for_rows_where_a_template_needs_several_columns(
    template: str, asked: str, tmp_path: Path
) -> None:
    manifest = json.dumps({"merged": {}, "input": {"template": template}})
    (tmp_path / "manifest.json").write_text(manifest, encoding="utf-8")
    assert asked in next_prediction(str(tmp_path))
