"""Windows and macOS, as far as Linux can imitate them: single decisions here, whole runs in child
processes that :mod:`other_systems` turns into such a system.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import other_systems
import psutil
import pytest
from preloaded import Preloaded

from lora_s2s import cli, console, files, hub, machine, outputs, systems
from lora_s2s.demo.task import examples
from lora_s2s.errors import DataError, UsageError, quoted
from lora_s2s.models.weights import weight_files
from lora_s2s.readers.recorded import follow_recorded
from lora_s2s.reports.summary import without_folders
from lora_s2s.training.run_lock import check_not_running, run_lock

PACKAGE = Path(__file__).parents[1] / "lora_s2s"
needs_unix = pytest.mark.skipif(os.name != "posix", reason="imitates Windows on Unix")


@pytest.fixture
def on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "WINDOWS", True)
    monkeypatch.setattr(sys, "platform", "win32")


ELSEWHERE = [r"..\x", r"a\b", r"..\..\x", "C:x", r"C:\x", r"\\host\x", "a:stream", "nul", "CON"]


@pytest.mark.parametrize(
    "name",
    [*ELSEWHERE, "LPT1.txt", "COM¹", "CONIN$", "conout$.txt", "a.", "a ", "..", "", "/x", "a\0"],
)
def test_a_manifest_names_no_file_that_only_windows_finds_elsewhere(
    tmp_path: Path, name: str
) -> None:
    assert not files.belongs(tmp_path, name)
    assert not files.belongs(tmp_path, f"onnx/{name}")


@pytest.mark.parametrize("name", ["console.txt", "conin.txt", "a b.json", "été.md", "onnx/a.b"])
def test_other_names_are_those_of_files(tmp_path: Path, name: str) -> None:
    assert files.belongs(tmp_path, name)


@pytest.mark.parametrize("name", [r"..\x.safetensors", r"C:x.safetensors", "NUL.safetensors"])
def test_an_index_names_no_such_weights(tmp_path: Path, name: str) -> None:
    index = {"weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="does not name safetensors files of its own folder"):
        weight_files(tmp_path)


@pytest.mark.parametrize("name", ["Tokenizer.JSON", "a.SAFETENSORS", "Evaluations", "evaluationſ"])
def test_a_link_that_other_letters_hide_is_refused(tmp_path: Path, name: str) -> None:
    """Where case is ignored, ``tokenizer.json`` opens what is listed as ``Tokenizer.JSON``."""
    outside = tmp_path / "outside"
    outside.mkdir() if "." not in name else outside.write_text("{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).symlink_to(outside)
    with pytest.raises(DataError, match="a link that leads out of its folder"):
        hub.check_folder(tmp_path / "model")


@pytest.mark.parametrize("name", [r"\\host\share\a.csv", "//host/share/a.csv", r"\\?\C:\a.csv"])
def test_no_untrusted_name_leads_to_another_machine(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Windows would log in there, with the user's name and the hash of the password."""
    for look in ("isfile", "isdir"):
        monkeypatch.setattr(os.path, look, lambda path: pytest.fail(f"looks at {path}"))
    assert not hub.is_local(name, None)
    record = [{"name": name, "sha256": {name: "0" * 64}}]
    with pytest.raises(DataError, match="nothing is fetched because a file names it"):
        follow_recorded(name, record, split="test", parallel=False)


@pytest.mark.parametrize("name", [r"C:\models\mine", r"models\mine", "C:mine"])
def test_a_missing_folder_of_windows_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(UsageError, match="no such model folder"):
        hub.locate_model(name)


def test_published_facts_keep_the_last_part_of_a_path_of_windows() -> None:
    paths = [
        r"C:\Users\me\a.csv",
        "C:/Users/me/a.csv",
        r"\\host\me\a.csv",
        r"..\me\a.csv",
        "/me/a.csv",
    ]
    assert {without_folders(path) for path in paths} == {"a.csv"}
    assert without_folders(r"\n stays, and data\a.csv") == r"\n stays, and data\a.csv"


@pytest.mark.usefixtures("on_windows")
def test_hints_are_for_the_shells_of_windows() -> None:
    assert quoted(r"C:\data\my.csv") == r"C:\data\my.csv"
    assert quoted("it's my.csv") == '"it\'s my.csv"'
    assert quoted('say "x"') == r'"say \"x\""'


@needs_unix
@pytest.mark.usefixtures("on_windows")
def test_files_are_flushed_as_windows_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens no folder, and flushes no file that is open for reading only."""
    import fcntl

    flushed: list[str] = []

    def fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", fsync)
    with outputs.whole_folder(tmp_path / "out") as staged:
        (staged / "inside").mkdir()
        (staged / "inside" / "a.txt").write_text("a")
    assert flushed == ["a.txt"]


def test_a_name_that_a_scanner_has_open_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems, "_PAUSES", (0.0, 0.0, 0.0))
    real, refusals = os.replace, [PermissionError(13, "in use")] * 3

    def replace(*paths: Path) -> None:
        if refusals:
            raise refusals.pop()
        real(*paths)

    monkeypatch.setattr(os, "replace", replace)
    files.write_text(tmp_path / "a.txt", "a")
    assert (tmp_path / "a.txt").read_text() == "a"
    refusals += [PermissionError(13, "in use")] * 4
    with pytest.raises(PermissionError):
        files.write_text(tmp_path / "b.txt", "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.fixture(params=["unix", "windows"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks of Unix, and those of Windows imitated by Linux' own locks of bytes."""
    if request.param == "windows":
        request.getfixturevalue("on_windows")
        monkeypatch.setattr(systems, "msvcrt", other_systems.msvcrt(), raising=False)


@needs_unix
@pytest.mark.usefixtures("locks")
def test_a_lock_is_one_processs_until_it_ends(tmp_path: Path) -> None:
    one, two = (systems.open_lock(tmp_path / "a.lock") for _ in range(2))
    os.write(one, b"owner")
    assert systems.lock(one)
    assert not systems.lock(two)
    os.lseek(two, 0, os.SEEK_SET)
    assert os.read(two, 300) == b"owner"
    os.close(one)
    assert systems.lock(two)
    assert systems.lock(two, shared=True)
    os.close(two)


@needs_unix
@pytest.mark.usefixtures("locks")
def test_a_lock_held_for_a_moment_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes may check at once whether a run is being trained."""

    def lock_for_a_moment() -> None:
        other = systems.open_lock(tmp_path / ".a.lock")
        assert systems.lock(other)
        monkeypatch.setattr(time, "sleep", lambda _: os.close(other))

    lock_for_a_moment()
    check_not_running(tmp_path / "a")
    with monkeypatch.context() as patch:  # another user's file
        real = os.open
        refused = Mock(side_effect=[PermissionError, PermissionError])
        patch.setattr(os, "open", refused)
        owner = f"user {(tmp_path / '.a.lock').stat().st_uid}"
        with pytest.raises(UsageError, match=f"cannot see whether {owner} is training in"):
            check_not_running(tmp_path / "a")
        refused.side_effect = [PermissionError, real(tmp_path / ".a.lock", os.O_RDWR)]
        check_not_running(tmp_path / "a")  # one that may be read alone shows its lock
    lock_for_a_moment()
    with run_lock(tmp_path / "a"):
        assert f"process {os.getpid()} on " in (tmp_path / ".a.lock").read_text()


@needs_unix
@pytest.mark.usefixtures("locks")
def test_a_second_run_in_a_folder_is_refused_and_a_dead_one_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ".a.lock"
    other = systems.open_lock(path)
    os.write(other, b"process 1 on a laptop")
    assert systems.lock(other)
    with (
        pytest.raises(UsageError, match=r"another run is training in .*: process 1 on a laptop"),
        run_lock(tmp_path / "a"),
    ):
        pytest.fail("two runs")
    os.close(other)
    with run_lock(tmp_path / "a"):
        assert f"process {os.getpid()} on " in path.read_text()
    assert "taking over: the previous run (process 1 on a laptop)" in capsys.readouterr().err
    assert not path.exists()
    path.symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="not a regular file"), run_lock(tmp_path / "a"):
        pytest.fail("follows a link")
    assert not (tmp_path / "mine").exists()


@pytest.mark.usefixtures("on_windows")
def test_the_system_is_asked_through_psutil_and_no_process_gets_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(rss=5, peak_wset=7)
    monkeypatch.setattr(psutil, "pid_exists", lambda process: process == 12)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=9))
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: memory))
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("signal 0 ends a process"))
    sizes = machine.physical_memory(), machine.resident_memory(), machine.peak_memory()
    assert sizes == (9, 5, 7)
    mine = files.beside(tmp_path / "a", "staged").name.replace(f".{os.getpid()}.", ".{}.")
    for process in ("12", "13", "x"):
        (tmp_path / mine.format(process)).touch()
    files.tidy(tmp_path / "a")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {mine.format("12"), mine.format("x")}
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert machine.physical_memory() is None  # doctor says that a library is missing


@pytest.mark.parametrize("windows", [True, False])
def test_a_pipe_gets_utf8_on_windows_and_what_another_encoding_lacks_escaped(
    monkeypatch: pytest.MonkeyPatch, windows: bool
) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="cp1252", newline="\r\n")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(cli, "WINDOWS", windows)
    cli._open_standard_streams()
    stream.write("→ é\n")
    console.write_json({"a": "→ é 🙂"})
    monkeypatch.undo()
    stream.detach()
    if windows:
        assert written.getvalue() == '→ é\n{"a": "→ é 🙂"}\n'.encode()
        return
    help, _ = written.getvalue().decode("cp1252").splitlines()
    assert help == r"\u2192 é"


def mode_of(call: ast.Call) -> str | None:
    """The mode of a call of ``open`` or of a path's ``open``; None if it is something else's."""
    name = ast.unparse(call.func)
    given = call.args[1:2] if name == "open" else call.args[:1]
    modes = [*given, *(word.value for word in call.keywords if word.arg == "mode")]
    if not modes:
        return "r"
    value = modes[0].value if isinstance(modes[0], ast.Constant) else None
    return value if isinstance(value, str) and set(value) <= set("rwaxbt+") else None


def lacks(call: ast.Call) -> set[str]:
    """What a call that reads or writes text leaves to the system's defaults."""
    name = ast.unparse(call.func).rpartition(".")[2]
    given = {word.arg for word in call.keywords}
    if name in ("read_text", "write_text"):
        positional = len(call.args) > (name == "write_text")
        return set() if positional else {"encoding"} - given
    if name == "open" and (mode := mode_of(call)) and "b" not in mode:
        return ({"encoding"} if mode == "r" else {"encoding", "newline"}) - given
    starts = ast.unparse(call.func).startswith("subprocess.")
    return {"encoding"} - given if starts and given & {"text", "universal_newlines"} else set()


def test_every_text_names_its_encoding_and_newline() -> None:
    """Windows' defaults are its code page, and ``\\r\\n``, which changes the hash of a file."""
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (missing := lacks(node)):
                wrong.append(f"{path.name}:{node.lineno} lacks {missing}")
    assert wrong == []


@pytest.fixture(scope="module")
def strict() -> Iterator[Preloaded]:
    """A process for forks in which text without an encoding is an error."""
    with Preloaded({"PYTHONWARNDEFAULTENCODING": "1"}) as process:
        yield process


@needs_unix
@pytest.mark.slow
@pytest.mark.parametrize("system", ["windows", "macos"])
def test_a_run_from_file_to_merged_model(tmp_path: Path, strict: Preloaded, system: str) -> None:
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("source", "target"), *examples("test", 60)])
    done = strict.run(tmp_path, system, str(tmp_path), script=other_systems.__file__)
    assert done.code == 0, done.stderr[-3000:]
    assert "nf4" in done.stderr
    left = {path.name for folder in (".", "adapters") for path in (tmp_path / folder).iterdir()}
    assert left == {"rows.csv", "prepared", "adapters", "a", "merged", "answers.jsonl"}
    (answer,) = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(answer)["text"] == "a table for Zoë → two × 中 🙂"
