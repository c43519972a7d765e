"""Streams that are closed, full or left by their reader; progress that stays sparse."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_s2s import console
from lora_s2s.errors import RunError
from lora_s2s.files import jsonl_line


class Broken(io.RawIOBase):
    """A stream whose writes fail, as a terminal's do once it is closed."""

    def __init__(self, number: int) -> None:
        self._number = number

    def writable(self) -> bool:
        return True

    def write(self, _data: object) -> int:
        raise OSError(self._number, os.strerror(self._number))


def left_by_its_reader() -> io.TextIOWrapper:
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


def full() -> io.TextIOWrapper:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    return open("/dev/full", "w", encoding="utf-8")


def closed_terminal() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(Broken(errno.EIO)), write_through=True)


@pytest.mark.parametrize("broken", [left_by_its_reader, full, closed_terminal, lambda: None])
def test_what_stderr_does_not_take_is_dropped(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[[], io.TextIOWrapper | None]
) -> None:
    stream = broken()
    monkeypatch.setattr(sys, "stderr", stream)
    with console.ProgressLine("train") as line:
        for step in range(3):
            console.say("words " * 2000)
            console.warn("mind the gap")
            console.table("Scores", ["metric", "base"], [["bleu", "12.5"]])
            line.update({"loss": "1.0"}, done=step, total=3)
    console.tell_in_signal_handler("")
    if stream is not None and not isinstance(stream.buffer.raw, Broken):
        stream.close()  # what is held goes nowhere, as it does when Python ends


def test_a_closed_stdout_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(RunError, match="stdout is closed"):
        console.require_stdout()
    with pytest.raises(RunError, match="stdout is closed"):
        console.write_json({})


@pytest.mark.parametrize(
    ("broken", "kind"), [(left_by_its_reader, BrokenPipeError), (full, OSError)]
)
def test_data_that_stdout_does_not_take_is_an_error_once(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[[], io.TextIOWrapper], kind: type[OSError]
) -> None:
    stream = broken()
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(kind) as told:
        console.write_out("answers")
    assert told.value.filename == "stdout"
    stream.close()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp932"])
def test_json_stays_json_where_the_encoding_lacks_a_character(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    value = {"key": "é 日 😀 \ud800"}
    console.write_json(value)
    console.write_out(jsonl_line(value).rstrip())
    lines = stream.buffer.getvalue().decode(encoding).splitlines()
    assert [json.loads(line) for line in lines] == [value, value]


@pytest.fixture(autouse=True)
def _usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


class OpenTerminal(io.StringIO):
    """A stream that is a terminal, and its lines as they stand there in the end."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        return [re.split("\r(?:\x1b\\[K)?", line)[-1] for line in self.getvalue().split("\n")]


def scores_titled(title: str) -> None:
    console.table(title, ["metric"], [["bleu"]])


def test_answers_and_messages_take_the_place_of_the_live_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = OpenTerminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, terminal)
    with console.ProgressLine("predict") as line:
        for write in (console.write_out, console.warn, scores_titled):
            line.update({}, done=1, total=2)
            line._last = -1.0  # the next one is due
            write("an answer")
    shown = terminal.lines()
    assert shown[:2] == ["an answer", "warning: an answer"]
    assert "an answer" in shown[2]
    assert not [line for line in shown if "predict" in line]


def test_a_terminal_gets_tabs_and_no_line_that_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = OpenTerminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, terminal)
    monkeypatch.setenv("COLUMNS", "40")
    console.write_out("yes\t0.9\x1b[2J\n\tno")
    with console.ProgressLine("train") as line:
        line.update({"loss": "1.0" * 30}, done=1, total=2)
    first, second, progress, *_ = terminal.getvalue().split("\n")
    assert (first, second) == ("yes\t0.9\\x1b[2J", "\tno")
    assert len(progress.strip("\r").removesuffix("\x1b[K")) == 39


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = OpenTerminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "dumb")
    with console.ProgressLine("train") as line:
        line.update({}, done=1, total=2)
        line.update({}, done=2, total=2)
    assert terminal.getvalue() == "train  50% 1/2  \ntrain 100% 2/2  \n"


def test_the_import_of_torch_is_reported_once_when_it_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    console.announce_loading(lambda: "on 1 of 2 threads")
    for name in ("numpy", "torch", "torch.version", "torch.nn"):
        sys.meta_path[0].find_spec(name, None)
    assert capsys.readouterr().err == "on 1 of 2 threads\nloading torch and transformers\n"


def test_a_terminal_shows_for_how_long_it_was_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = OpenTerminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, terminal)
    monkeypatch.setattr(os, "write", lambda _, data: terminal.write(data.decode()))
    monkeypatch.setattr(console, "_SECONDS_OF_SILENCE", 0.03)
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LIVE_LINES", 0.01)
    console.show_waiting("merge")
    try:
        wait_for(terminal, "merge  0:00:00")
        console.say("merged")
        with console.ProgressLine("score") as line:
            line.update({}, done=1, total=2)
            wait_for(terminal, "score  50% 1/2    0:00:00")
            line.update({}, done=2, total=2)
    finally:
        console.stop_waiting()
    written = terminal.getvalue()
    time.sleep(0.1)
    assert terminal.getvalue() == written
    assert terminal.lines()[:2] == ["merged", "score 100% 2/2  "]


def test_without_colors_a_table_is_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = OpenTerminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    scores_titled("Scores")
    assert "\x1b" not in terminal.getvalue()
    monkeypatch.delenv("NO_COLOR")
    scores_titled("Scores")
    assert "\x1b[" in terminal.getvalue()


def wait_for(terminal: OpenTerminal, text: str) -> None:
    end = time.monotonic() + 60
    while terminal.lines()[-1] != text:
        assert time.monotonic() < end, terminal.getvalue()
        time.sleep(0.005)


def test_a_line_has_the_time_left_and_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal, clock = OpenTerminal(), [0.0]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setenv("COLUMNS", "40")
    with console.ProgressLine("eval") as line:
        for clock[0], done in ((50.0, 100), (70.0, 120), (110.0, 160)):  # 100: before the stop
            line.update({"of": "x" * 80}, done=done, total=4000)
    assert "left 1:04:00" in terminal.lines()[0]
    assert len(terminal.lines()[0]) == 39


@pytest.mark.parametrize(
    "total_of",
    [lambda _: 0, lambda done: done, lambda _: 1, lambda done: 10 * done],
    ids=["0", "done", "1", "more"],
)
def test_progress_is_sparse_whatever_it_counts(
    capsys: pytest.CaptureFixture[str], total_of: Callable[[int], int]
) -> None:
    with console.ProgressLine("read") as line:
        for done in range(2_000):
            line.update({"rows": str(done)}, done=done // 1000, total=total_of(done // 1000))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "rows 0" in said[0]
    assert "rows 1999" in said[1]
