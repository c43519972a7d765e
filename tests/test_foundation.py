"""Errors, console, files and hub: what every room stands on."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import subprocess
import sys
import time
import types
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from lora_s2s import console, files, hub, limits, outputs
from lora_s2s.cli import _end_quickly
from lora_s2s.errors import DataError, RecipeError, SetupError, Stopped, UsageError, nearest


def test_plain_shows_controls_and_keeps_the_rest() -> None:
    assert console.plain("[/foo] [x] café 中") == "[/foo] [x] café 中"
    assert console.plain("\x1b[31mred\u202eevil\n") == "\\x1b[31mred\\u202eevil\\n"


def test_messages_and_tables_go_to_stderr_and_are_never_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.say("[bold]not markup[/bold] \x07")
    console.table("Scores [red]", ["metric", "base"], [["[/x] bleu", "12.5"]])
    out, err = capsys.readouterr()
    assert out == ""
    assert "[bold]not markup[/bold] \\x07" in err
    assert "[/x] bleu" in err
    assert "Scores [red]" in err


def test_a_whole_table_breaks_neither_a_name_nor_a_number_from_its_unit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    cells = ["google/flan-t5-small", "12.5 GB", "a long cell"]
    console.table("A plan on one of 8.0 GB", ["a", "b", "c"], [cells], whole=True)
    err = capsys.readouterr().err
    assert err.startswith("A plan on one of 8.0 GB\n")
    assert "google/flan-t5-small   12.5 GB   a long cell" in err


def test_json_goes_to_stdout_as_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    console.write_json({"text": "é\n"})
    assert json.loads(capsys.readouterr().out) == {"text": "é\n"}


def test_json_on_stdout_is_one_strict_line_that_no_terminal_acts_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = {"text": "\x1b[31m \x9b31m \x85 \u202e \ud800 \U000e0001 é"}
    console.write_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert out.removesuffix("\n").isprintable()
    assert "é" in out


def test_what_is_no_finite_number_is_null_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = {
        "loss": math.nan,
        "deep": [{"rate": -math.inf, "steps": (1, math.inf)}],
        "text": "NaN",
        "kept": 0.5,
    }
    expected = {
        "loss": None,
        "deep": [{"rate": None, "steps": [1, None]}],
        "text": "NaN",
        "kept": 0.5,
    }
    console.write_json(value)
    files.write_json(tmp_path / "value.json", value)
    written = [
        capsys.readouterr().out,
        (tmp_path / "value.json").read_text(),
        files.jsonl_line(value),
    ]
    assert [json.loads(text) for text in written] == [expected] * 3


def test_progress_is_sparse_away_from_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.ProgressLine("train") as line:
        for step in range(1, 101):
            line.update({"loss": "1.0"}, done=step, total=100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[-1].startswith("train 100% 100/100")
    assert "\x1b" not in "".join(lines)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with console.ProgressLine("train") as line:
        for step in range(1, 3600):  # a second each
            line.update({}, done=step, total=3600)
            now[0] += 1
    lines = capsys.readouterr().err.splitlines()
    done = [int(line.split("%")[1].split("/")[0]) for line in lines]
    apart = [second - first for first, second in itertools.pairwise(done)]
    assert apart[:10] == [10] * 10  # then sparser, and a minute apart at most
    assert apart[20:22] == [33, 37]
    assert set(apart[-20:-1]) == {60}


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(RuntimeError), outputs.whole_folder(target) as staged:
        (staged / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with outputs.whole_folder(target) as staged:
        (staged / "a").write_text("1")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_existing_folder_is_kept_unless_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(UsageError, match="exists already"), outputs.whole_folder(target):
        pass
    with pytest.raises(RuntimeError), outputs.whole_folder(target, replace=True):
        raise RuntimeError
    assert (target / "old").read_text() == "old"
    with outputs.whole_folder(target, replace=True) as staged:
        (staged / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_json_lines_are_read_as_they_are_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b'\xef\xbb\xbf{"a": "caf\xc3\xa9"}\n\n{"a": "\xe2\x80\xa8"}\n')
    assert [row["a"] for row in files.read_jsonl(marked)] == ["café", "\u2028"]
    packed, listed = tmp_path / "packed.jsonl", tmp_path / "list.jsonl"
    packed.write_bytes(gzip.compress(marked.read_bytes()))
    listed.write_text("[1]\n")
    for path, message in ((packed, "not a JSON line"), (listed, "not a JSON object")):
        with pytest.raises(DataError, match=message):
            list(files.read_jsonl(path))
    monkeypatch.setattr(limits, "LONGEST_JSON_LINE", 8)
    with pytest.raises(DataError, match="a line of more than 8 bytes"):
        list(files.read_jsonl(marked))
    monkeypatch.setattr(limits, "LARGEST_JSON_LINES_FILE", 8)
    with pytest.raises(DataError, match=r"marked.jsonl has more than 8 bytes"):
        list(files.read_jsonl(marked))
    with pytest.raises(DataError, match="no such file"):
        list(files.read_jsonl(tmp_path / "absent"))


@pytest.mark.skipif(os.name != "posix", reason="no pipes with names")
@pytest.mark.parametrize(
    "read", [files.read_json, files.sha256_file, files.read_whole, lambda p: [*files.read_jsonl(p)]]
)
def test_only_regular_files_are_read_and_nothing_waits(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "device.json").symlink_to("/dev/zero")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "device.json", "folder.json"):
        with pytest.raises(DataError, match="is not a regular file"):
            read(tmp_path / name)


def test_json_errors_name_the_place(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError) as caught:
        files.read_json(tmp_path / "bad.json")
    assert str(tmp_path / "bad.json") == caught.value.where
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataError):
        files.read_json(tmp_path / "deep.json")
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\nnope\n')
    with pytest.raises(DataError) as caught:
        list(files.read_jsonl(tmp_path / "bad.jsonl"))
    assert (caught.value.where or "").endswith("bad.jsonl:2")


def test_exit_codes_follow_the_contract() -> None:
    assert [error("x").exit_code for error in (UsageError, DataError, SetupError)] == [2, 3, 5]
    codes = [Stopped("x", number).exit_code for number in (None, 2, 15)]
    assert codes == [1, 130, 143]
    assert "2 problems" in RecipeError(["a", "b"]).message
    for name, meant in (("trian", "train"), ("ROUGE", "rouge1"), ("text", "Text")):
        assert nearest(name, ["Text", "rouge1", "train"]) == f" (did you mean '{meant}'?)"


def test_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.locate_model("demo") == hub.DEMO_BASE
    assert hub.locate_model(str(tmp_path)) == tmp_path
    with pytest.raises(UsageError, match="no such model folder"):
        hub.locate_model("./absent")
    with pytest.raises(UsageError, match="neither a folder nor a hub id"):
        hub.locate_model("no such name!")
    with pytest.raises(SetupError, match="is not on this machine"):
        hub.locate_model("someone/nothing-here")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import lora_s2s, sys; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


_MISTAKES = """
import contextlib, io, sys
from lora_s2s import cli
for command in sys.stdin.read().splitlines():
    with contextlib.redirect_stderr(io.StringIO()) as message, contextlib.suppress(SystemExit):
        cli.app(command.split())
    print(command, "torch" in sys.modules, message.getvalue().partition(chr(10))[0])
import lora_s2s
merge = lambda name: lora_s2s.merge(name, "out")
export = lambda name: lora_s2s.export(name, "ct2", "out")
for call in (lora_s2s.train, lora_s2s.load, lora_s2s.evaluate, merge, export):
    with contextlib.suppress(lora_s2s.Error):
        call("nosuch")
    print("Python", "torch" in sys.modules)
"""
_NEITHER = "no adapter 'nosuch' in adapters; the model 'nosuch' is not on this machine"
_AT_ONCE = {
    "train nosuch.yaml": "no such recipe: 'nosuch.yaml'",
    "train rows.csv": "cannot guess the target column",
    "train --data rows.cvs --model demo": "no such file: rows.cvs (did you mean 'rows.csv'?)",
    "train book.xlsx": "book.xlsx is a spreadsheet, expected text",
    "train demo --set training.lr=1": "1 problem",
    "train demo --set output.name=taken": "adapters/taken exists already",
    "train demo --model nosuch": "the model 'nosuch' is not on this machine",
    "plan nosuch": "no such recipe: 'nosuch'",
    "sweep nosuch": "no such recipe: 'nosuch'",
    "init rows.csv --yes": "cannot guess the target column",
    "prepare --data rows.csv --model nosuch": "the model 'nosuch' is not on this machine",
    "eval demo --data rows.cvs": "no such file: rows.cvs",
    "eval --from nosuch.csv": "no such file: nosuch.csv",
    "predict demo --input nosuch.csv": "no such file: nosuch.csv",
    "eval nosuch": _NEITHER,
    "predict nosuch text": _NEITHER,
    "predict pairs text": "the template needs 2 columns (a, b), got a plain text",
    "predict pairs --input lines.txt": "the template needs 2 columns (a, b), got a plain text",
    "merge nosuch --out out": "no such adapter folder: nosuch",
    "merge adapters/taken --out pairs": "pairs exists already",
    "export adapters/taken --out lines.txt/out": "cannot write into",
    "adapters average one other --out pairs": "pairs exists already",
    "eval adapters/taken --out pairs": "pairs contains other files (manifest.json, …)",
    "predict demo text --output pairs": "pairs is a folder, expected a file",
    "predict demo text --output HERE/out.txt": "HERE/out.txt.part holds 0 answers of an earlier",
    "sweep --data rows.csv --model demo --set data.target_column=team": "a sweep needs an end",
    "export nosuch --out out": _NEITHER,
    "serve nosuch": _NEITHER,
    "ui nosuch": _NEITHER,
}


def test_a_wrong_or_taken_name_is_reported_before_torch_loads(tmp_path: Path) -> None:
    rows = "".join(f"{n},subject {n},body {n},{n % 3}\n" for n in range(30))
    (tmp_path / "rows.csv").write_text("id,subject,body,team\n" + rows, encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "book.xlsx", "w") as book:
        for part in ("workbook", "styles"):
            book.writestr(f"xl/{part}.xml", "<a/>")
    (tmp_path / "adapters" / "taken").mkdir(parents=True)
    (tmp_path / "adapters" / "taken" / "adapter_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "manifest.json").write_text('{"input": {"template": "{a} {b}"}}', "utf-8")
    for name in ("lines.txt", "out.txt.part"):
        (tmp_path / name).write_text("text\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _MISTAKES],
        input="\n".join(_AT_ONCE).replace("HERE", str(tmp_path.resolve())),
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Python")]
    assert done.stdout.splitlines()[len(lines) :] == ["Python False"] * 5
    assert len(lines) == len(_AT_ONCE), done.stderr
    for line, (command, message) in zip(lines, _AT_ONCE.items(), strict=True):
        expected = f"{command} False error: {message}".replace("HERE", str(tmp_path.resolve()))
        assert line.startswith(expected), line


def test_the_end_is_quick_but_where_triton_would_report_leaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen: list[bool] = []
    monkeypatch.setattr("gc.freeze", lambda: frozen.append(True))
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    _end_quickly()
    assert frozen == [True]
    monkeypatch.setitem(sys.modules, "triton", types.ModuleType("triton"))
    _end_quickly()
    assert frozen == [True]


_WORKING = """
import sys
import time
from pathlib import Path
from lora_s2s.outputs import whole_folder
with whole_folder(Path(sys.argv[1])) as staged:
    (staged / "half").write_text("half")
    print(staged.name, flush=True)
    sys.stdin.read()
"""


def working(target: Path) -> subprocess.Popen[str]:
    """A process in the midst of writing a folder, until its stdin ends."""
    words = [sys.executable, "-c", _WORKING, str(target)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_left_is_taken_away_and_a_living_one_is_let_be(
    tmp_path: Path,
) -> None:
    target = tmp_path / "out"
    with working(target) as killed:
        assert killed.stdout is not None
        left = killed.stdout.readline().strip()
        killed.kill()
    assert [path.name for path in tmp_path.iterdir()] == [left]
    # Neither another machine's nor another folder's: nobody here can tell whether those are in use.
    other_machine = tmp_path / f".out.elsewhere.{killed.pid}.staged.abc"
    other_folder = tmp_path / left.replace(".out.", ".other.", 1)
    for path in (other_machine, other_folder):
        path.mkdir()
    with working(target) as living:
        assert living.stdout is not None
        name = living.stdout.readline().strip()
        assert not (tmp_path / left).exists()
        with outputs.whole_folder(target, replace=True) as staged:
            (staged / "mine").write_text("whole")
        assert (tmp_path / name / "half").read_text() == "half"
        assert (target / "mine").read_text() == "whole"
        assert other_machine.is_dir()
        assert other_folder.is_dir()
        living.communicate("")
    # The folder that appeared meanwhile is kept, and the process ends with an error.
    assert living.returncode == 1
    assert (target / "mine").read_text() == "whole"
    assert {path.name for path in tmp_path.iterdir()} == {
        "out",
        other_machine.name,
        other_folder.name,
    }


def test_a_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    with working(tmp_path / "a") as killed:
        assert killed.stdout is not None
        left = killed.stdout.readline().strip()
        killed.kill()
    with outputs.whole_folder(tmp_path / "[ab]"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"[ab]", left}


def test_folders_made_for_a_folder_go_with_it(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(RuntimeError), outputs.whole_folder(tmp_path / "there" / "a" / "b" / "out"):
        raise RuntimeError
    assert list((tmp_path / "there").iterdir()) == []
    with pytest.raises(RuntimeError), outputs.whole_folder(tmp_path / "new" / "deep" / "out"):
        (tmp_path / "new" / "mine").write_text("another's")
        raise RuntimeError
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"]


class Hub:
    """A hub and its cache: a first call without the network finds what an earlier one fetched."""

    def __init__(self, cache: Path, *, pickled: bool = False) -> None:
        self.cache, self.asked = cache, list[list[str]]()
        self.weights = ["pytorch_model.bin"] if pickled else ["model.safetensors"]

    def snapshot_download(
        self,
        name: str,
        *,
        revision: str | None,
        allow_patterns: list[str],
        local_files_only: bool = False,
    ) -> str:
        if local_files_only:
            if not self.cache.is_dir():
                raise LocalEntryNotFoundError("not here")
            return str(self.cache)
        self.asked.append(allow_patterns)
        self.cache.mkdir(exist_ok=True)
        for file in ("config.json", "spiece.model", "pytorch_model.bin", *self.weights):
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                (self.cache / file).write_text("")
        return str(self.cache)


def test_weights_are_fetched_only_when_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Hub(tmp_path / "snapshot")
    monkeypatch.setattr(hub, "snapshot_download", fake.snapshot_download)
    for _ in range(2):  # the second time it is in the cache
        folder = hub.locate_model("google/flan-t5-small", weights=False)
        assert {path.name for path in folder.iterdir()} == {"config.json", "spiece.model"}
        assert len(fake.asked) == 1
    assert not any("safetensors" in pattern for pattern in fake.asked[0])
    for _ in range(2):
        folder = hub.locate_model("google/flan-t5-small")
        assert (folder / "model.safetensors").is_file()
        assert len(fake.asked) == 2
    assert hub.locate_model("google/flan-t5-small", weights=False) == folder
    assert len(fake.asked) == 2
    assert not (folder / "pytorch_model.bin").exists()  # a pickle is never fetched


@pytest.mark.parametrize("there", [True, False])
def test_weights_that_are_only_a_pickle_lead_to_the_hub_s_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def discussions(name: str, **asked: object) -> list[SimpleNamespace]:
        assert name == "google/mt5-small"
        assert (asked["author"], asked["discussion_type"]) == ("SFconvertbot", "pull_request")
        return [SimpleNamespace(num=7)] if there else []

    fake = Hub(tmp_path / "snapshot", pickled=True)
    monkeypatch.setattr(hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(hub, "get_repo_discussions", discussions)
    assert hub.locate_model("google/mt5-small", weights=False).is_dir()
    with pytest.raises(DataError, match="no safetensors weights of 'google/mt5-small'") as refused:
        hub.locate_model("google/mt5-small")
    assert (
        "--set model.revision=refs/pr/7 (the hub's own conversion" in str(refused.value.hint)
    ) is there
    assert not (tmp_path / "snapshot" / "pytorch_model.bin").exists()


@pytest.mark.parametrize(
    ("weights", "off", "why"),
    [(True, True, "is switched off"), (False, False, "cannot be reached")],
)
def test_a_hub_that_is_away_is_said_in_one_line(
    weights: bool, off: bool, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **asked: object) -> str:
        if asked.get("local_files_only") and weights:
            return str(tmp_path)  # the tokenizer alone, from an earlier call
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(hub, "snapshot_download", away)
    monkeypatch.setattr(hub, "is_offline", lambda: off)
    with pytest.raises(
        SetupError, match=f"'google/flan-t5-small' is not on this machine, and the hub {why}"
    ):
        hub.locate_model("google/flan-t5-small", weights=weights)


def test_a_file_that_a_killed_process_was_writing_is_taken_away(tmp_path: Path) -> None:
    with working(tmp_path / "note.json") as killed:
        assert killed.stdout is not None
        left = killed.stdout.readline().strip()
        killed.kill()
    (tmp_path / left / "half").unlink()
    (tmp_path / left).rmdir()
    (tmp_path / left).write_text("ha")
    files.write_text(tmp_path / "note.json", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["note.json"]
