"""What is written keeps to the umask, to links and devices, and its messages to the names a user
knows.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_s2s import files, outputs
from lora_s2s.errors import DataError, UsageError

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="permissions, pipes and descriptors as Unix has them"
)


@pytest.fixture(params=[0o077, 0o027, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The process's umask, for as long as a test runs."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def write_output(path: Path, text: str) -> None:
    with outputs.output_stream(path) as stream:
        stream.write(text.encode())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_umask_holds_for_files_and_folders(tmp_path: Path, umask: int) -> None:
    files.write_json(tmp_path / "made" / "a.json", {})
    write_output(tmp_path / "out.txt", "answers")
    with outputs.whole_folder(tmp_path / "folder") as staged:
        (staged / "inside").mkdir()
        files.write_text(staged / "inside" / "a.txt", "a")
    written = [
        tmp_path / "made" / "a.json",
        tmp_path / "out.txt",
        tmp_path / "folder" / "inside" / "a.txt",
    ]
    assert {mode(path) for path in written} == {0o666 & ~umask}
    folders = [tmp_path / "made", tmp_path / "folder", tmp_path / "folder" / "inside"]
    assert {mode(path) for path in folders} == {0o777 & ~umask}
    with outputs.whole_folder(tmp_path / "folder", replace=True):
        pass
    assert mode(tmp_path / "folder") == 0o777 & ~umask


def test_the_umask_holds_for_weights(tmp_path: Path, umask: int) -> None:
    import torch

    from lora_s2s.models.weights import write_weights

    (tmp_path / "model").mkdir()
    write_weights(tmp_path / "model" / "model.safetensors", {"a": torch.zeros(2)})
    assert mode(tmp_path / "model" / "model.safetensors") == 0o666 & ~umask


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "private.txt"
    path.write_text("old")
    path.chmod(0o600)
    write_output(path, "new")
    assert (path.read_text(), mode(path)) == ("new", 0o600)


def test_a_device_is_written_to(tmp_path: Path) -> None:
    write_output(Path(os.devnull), "answers")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    (tmp_path / "nowhere").symlink_to(os.devnull)
    write_output(tmp_path / "nowhere", "answers")
    assert (tmp_path / "nowhere").is_symlink()
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_output(tmp_path / "pipe", "answers\n")
    reader.join(timeout=60)
    assert read == ["answers\n"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("to_file", [True, False])
def test_its_own_stdout_is_written_to_where_it_stands(
    tmp_path: Path, name: str, to_file: bool
) -> None:
    """A redirected stdout is a regular file by that name: what was in it stays."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = (
        "import os; from pathlib import Path; from lora_s2s.outputs import output_stream\n"
        "os.write(1, b'before ')\n"
        f"with output_stream(Path({name!r})) as stream: stream.write(b'answers')\n"
        "os.write(1, b' after')"
    )
    words = [sys.executable, "-c", code]
    if to_file:
        with (tmp_path / "out").open("wb") as out:
            subprocess.run(words, stdout=out, cwd=tmp_path, check=True)
        found = (tmp_path / "out").read_bytes()
    else:
        found = subprocess.run(words, stdout=subprocess.PIPE, cwd=tmp_path, check=True).stdout
    assert found == b"before answers after"


def test_a_link_that_the_user_names_is_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "old").symlink_to("data/old.txt")
    (tmp_path / "data" / "old.txt").write_text("old")
    (tmp_path / "new").symlink_to("data/new.txt")
    for name in ("old", "new"):
        write_output(tmp_path / name, "answers")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "data" / f"{name}.txt").read_text() == "answers"
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write_output(tmp_path / "a", "answers")


def test_a_link_in_a_folder_that_anybody_made_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "README.md").symlink_to("../mine")
    files.write_text(tmp_path / "adapter" / "README.md", "card")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "adapter" / "README.md").is_symlink()


@pytest.mark.parametrize("replace", [True, False])
def test_a_folder_is_refused_at_once_where_it_could_not_land(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("link", "a link to nothing"),
        ("file", "exists already"),
        ("pipe", "exists already"),
    ):
        with (
            pytest.raises(UsageError, match=reason),
            outputs.whole_folder(tmp_path / name, replace=replace),
        ):
            pytest.fail("work has begun")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe"]


def test_no_message_names_a_hidden_place(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError) as missing,
        outputs.whole_folder(tmp_path / "out") as staged,
    ):
        (staged / "deep" / "a.txt").write_text("a")
    assert missing.value.filename == str(tmp_path / "out" / "deep" / "a.txt")
    with pytest.raises(DataError) as refused, outputs.whole_folder(tmp_path / "out") as staged:
        raise DataError(f"{staged}/a differs", where=str(staged / "a"), hint=f"look at {staged}")
    said = (refused.value.message, refused.value.where, refused.value.hint, str(refused.value))
    out = tmp_path / "out"
    assert said == (f"{out}/a differs", f"{out}/a", f"look at {out}", f"{out}/a differs")
    with (
        pytest.raises(OSError, match="No space") as full,
        outputs.whole_folder(tmp_path / "out") as staged,
    ):
        os.mkdir(staged / "a.json")  # what a file cannot replace
        raise OSError(28, "No space left on device", str(staged / "a"), None, str(staged / "b"))
    assert (full.value.filename, full.value.filename2) == (str(out / "a"), str(out / "b"))
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match="irectory") as taken:
        files.write_json(tmp_path / "a.json", {})
    assert ".staged." not in f"{taken.value}"
