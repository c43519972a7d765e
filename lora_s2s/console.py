"""Output: stderr for people, stdout for data. The only module that formats for a terminal.

Text from data passes through :func:`plain` and is never interpreted as markup. Output that stderr
rejects is dropped, so that a run survives the end of its terminal, ``tee`` or ``head``.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import shutil
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace
from typing import TextIO

from lora_s2s.display import MESSAGES, PURPOSE, current
from lora_s2s.errors import RunError
from lora_s2s.files import json_text

# Control characters, invisible format characters such as bidi overrides, lone surrogates.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Of the processes that a launcher starts for one run, only the first writes messages.
_ALONE = os.environ.get("WORLD_SIZE", "1") == "1"
_TALKS = _ALONE or os.environ.get("RANK", "0") == "0"
# The others show a failure this much later: where the first has the same, its launcher ends them.
_SECONDS_TO_BE_ENDED = 5.0
# Between plain lines: at first; as a share of the time until then; at most.
_SECONDS_BETWEEN_PLAIN_LINES, _SPARSER, _MOST_SECONDS = 10.0, 0.1, 60.0
_SECONDS_BETWEEN_LIVE_LINES = 0.2
_SECONDS_OF_SILENCE = 2.0  # work that is often short shows no progress before
_CLEARED = "\r\x1b[K"
_JSON_ESCAPES = "lora_s2s.json"


def wait_for_the_first(*, too: bool = False) -> None:
    """Waits, in all processes of a run but the first, until a failure of its own is shown.

    Args:
        too: so does the first, for the failure of another.
    """
    if not _TALKS or (too and not _ALONE):
        time.sleep(_SECONDS_TO_BE_ENDED)


def plain(text: str) -> str:
    """Returns ``text`` with control and format characters escaped (``\\x1b``)."""
    # Printable characters are never escaped; most texts have no others.
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(char: str) -> str:
    unseen = unicodedata.category(char) in _UNSEEN
    return char.encode("unicode_escape").decode() if unseen else char


def counted(number: int, noun: str) -> str:
    """Returns ``1 row`` or ``2,000 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def say(text: str = "", *, failure: bool = False) -> None:
    """Shows a message, on stderr by default, on one line, so that quoted text cannot imitate a
    message.

    Args:
        failure: written by every process of a run, not only the first.
    """
    if failure or (_TALKS and MESSAGES.get()):
        (current() or Terminal()).message(plain(text))


def _tell(text: str, *, live: bool = False) -> None:
    """Writes to stderr; does nothing if its reader or terminal is gone or its disk is full.

    Args:
        live: what is written next takes the text's place.
    """
    stream: TextIO | None = sys.stderr
    if stream is None:
        return
    with _waiting.lock:
        clear = _CLEARED * (_waiting.line != "" and text != "\n")
        _waiting.line, _waiting.since = text * live, time.monotonic()
        try:
            stream.write(clear + (_fitting(text) if live else text))
            stream.flush()
        except BlockingIOError:
            pass  # the buffered text is written with the next message
        except OSError:
            discard(stream)


class _Waiting:
    """On a terminal, shows that a command works where it has shown nothing for two seconds.

    Attributes:
        line: the line that the next one replaces.
        since: when something was shown last.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal's handler may write too
        self.command = self.line = ""
        self.since = time.monotonic()

    def run(self) -> None:
        """Writes from a thread, past the stream, whose lock a thread must not hold at the end."""
        while self.command:
            time.sleep(_SECONDS_BETWEEN_LIVE_LINES)
            with self.lock, suppress(OSError):
                seconds = time.monotonic() - self.since
                if self.command and seconds >= _SECONDS_OF_SILENCE:
                    self.line = self.line or self.command
                    text = _fitting(f"{self.line}  {duration(seconds)}")
                    os.write(2, f"{_CLEARED}{text}".encode())


_waiting = _Waiting()


def show_waiting(command: str) -> None:
    """From now on, a terminal shows for how long a command has shown nothing."""
    if _TALKS and Terminal().is_live:
        _waiting.command = command
        threading.Thread(target=_waiting.run, daemon=True).start()


def stop_waiting() -> None:
    """Ends :func:`show_waiting`: a user is asked, other processes write, or the command ends."""
    _waiting.command = ""
    _tell("")


def announce_loading(prepare: Callable[[], str]) -> None:
    """From now on, the import of torch, which takes seconds, is reported when it begins.

    Args:
        prepare: called before it; returns a line to show, or nothing.
    """
    begins = iter([] if "torch" in sys.modules else ["loading torch and transformers"])

    def find_spec(name: str, *_: object) -> None:
        # Not "torch" itself: transformers asks whether it is installed.
        if name.startswith("torch.") and (text := next(begins, None)):
            if note := prepare():
                say(note)
            if _TALKS:
                Terminal().progress(text)

    sys.meta_path.insert(0, SimpleNamespace(find_spec=find_spec))


def _fitting(text: str) -> str:
    """The text cut to the terminal's width: of a broken line, only the last part is replaced."""
    return text[: shutil.get_terminal_size().columns - 1]


def duration(seconds: float) -> str:
    """Returns ``0:03:05``."""
    return str(timedelta(seconds=int(seconds)))


def discard(stream: TextIO) -> None:
    """Redirects a standard stream to the null device; Python would flush it again at exit."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def tell_in_signal_handler(text: str) -> None:
    """Writes to stderr unbuffered: the handler may have interrupted a buffered write."""
    if _TALKS and current() is None:
        with suppress(OSError):
            os.write(2, text.encode())


def warn(text: str) -> None:
    """Shows a warning."""
    say(f"warning: {text}")


def require_stdout() -> None:
    """Checks that stdout is open before work begins whose result goes there.

    Raises:
        RunError: stdout is closed.
    """
    if sys.stdout is None:
        raise RunError(
            "stdout is closed, so the result has nowhere to go",
            hint="redirect it to a file: > FILE",
        )


def write_out(text: str) -> None:
    """Writes data to stdout, with a newline. A terminal, which acts on control characters, gets
    them as escapes, apart from tabs; a pipe or a file gets the text as it is.

    Raises:
        RunError: stdout is closed.
        OSError: the write failed; BrokenPipeError if the reader is gone.
    """
    if not _TALKS:
        return
    require_stdout()
    # Lone surrogates, and characters that the encoding lacks, are escaped.
    encoding = sys.stdout.encoding or "utf-8"
    if sys.stdout.isatty():
        text = re.sub(r"[^\n\t]+", lambda part: plain(part[0]), text)
        _tell("")  # no live line before the text
    try:
        sys.stdout.write(f"{text}\n".encode(encoding, _JSON_ESCAPES).decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        if error.filename is None:
            error.filename = "stdout"
        raise


def _escaped(error: UnicodeEncodeError) -> tuple[str, int]:
    """Escapes what an encoding lacks as JSON does (``\\u00e9``), which JSON keeps readable."""
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_JSON_ESCAPES, _escaped)  # type: ignore[arg-type]


def write_json(value: object) -> None:
    """Writes one JSON object to stdout; control characters and lone surrogates as JSON escapes."""
    text = json_text(value)
    write_out(
        "".join(
            json.dumps(char)[1:-1] if unicodedata.category(char) in _UNSEEN else char
            for char in text
        )
    )


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, whole: bool = False
) -> None:
    """Writes a table to stderr: first column left-aligned, numbers right-aligned.

    Args:
        title: on one line, like a message.
        whole: no cell is broken, even where the table is wider than the terminal.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if sys.stderr is None:
        return
    console = Console(
        file=sys.stderr,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        highlight=False,
        markup=False,
        width=1000 if whole else None,
    )
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = index > 0 and all(_is_number(row[index]) for row in rows)
        drawn.add_column(
            Text(plain(column)),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=numeric or whole,
        )
    for row in rows:
        drawn.add_row(*(Text(plain(cell)) for cell in row))
    with suppress(OSError):  # Rich flushes earlier messages
        with console.capture() as text:
            console.print(Text(plain(title), style="table.title"), soft_wrap=True)
            console.print(drawn)
        _tell(text.get())


def _is_number(cell: str) -> bool:
    return not cell or cell[0] in "+-−0123456789"


class Terminal:
    """Messages and progress on stderr: a live line on a terminal, elsewhere a plain line every few
    seconds. Other output takes the live line's place.
    """

    def __init__(self) -> None:
        at_terminal = sys.stderr is not None and sys.stderr.isatty()
        self.is_live = at_terminal and os.environ.get("TERM") != "dumb"
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """The least time between two progress lines; plain ones become sparser."""
        if self.is_live:
            return _SECONDS_BETWEEN_LIVE_LINES
        sparser = _SPARSER * (time.monotonic() - self._begun)
        return min(max(_SECONDS_BETWEEN_PLAIN_LINES, sparser), _MOST_SECONDS)

    def message(self, text: str) -> None:
        """Writes a message, newlines kept."""
        _tell(f"{text}\n")

    def progress(self, text: str) -> None:
        """Writes a progress line, on a terminal over the last one."""
        _tell(text if self.is_live else f"{text}\n", live=self.is_live)

    def end(self) -> None:
        """Ends the line that is open."""
        if _waiting.line not in ("", _waiting.command):
            _tell("\n")


class ProgressLine:
    """Progress on the current display.

    >>> with ProgressLine("train") as line:
    ...     line.update({"loss": "1.23"}, done=10, total=100)

    Args:
        short: the work may be short: nothing is shown in its first two seconds.
    """

    def __init__(self, label: str, *, short: bool = False) -> None:
        self.label, self._short = PURPOSE.get() + label, short
        self._display = current() or Terminal()
        self._start, self._last = time.monotonic(), -math.inf
        self._counted: tuple[float, int] | None = None
        self._pending = ""

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pending:
            self._write()
        self._display.end()

    def update(self, fields: Mapping[str, str], *, done: int, total: int) -> None:
        """Shows ``label done/total  key value  …``, at most every few seconds and at the end.

        Args:
            total: 0 if unknown; then the rate is shown.
        """
        rate = done / max(1e-9, time.monotonic() - self._start)
        rows = f"{done:,} rows, {rate:,.0f} a second"
        share = f"{100 * done // total:3d}% {done}/{total}" if total else rows
        shown = "  ".join(f"{key} {value}" for key, value in fields.items())
        self._pending = plain(f"{self.label} {share}{self._left(done, total)}  {shown}")
        if time.monotonic() - self._last >= self._display.seconds:
            self._write()

    def _left(self, done: int, total: int) -> str:
        """The time left by the rate since the first update, which a stopped command may have
        reached.
        """
        begun, before = self._counted = self._counted or (time.monotonic(), done)
        if not before < done < total:
            return ""
        seconds = (time.monotonic() - begun) * (total - done) / (done - before)
        return f"  left {duration(seconds)}"

    def _write(self) -> None:
        now = time.monotonic()
        if self._short and now - self._start < _SECONDS_OF_SILENCE:
            return
        self._last = now
        text, self._pending = self._pending, ""
        if _TALKS:
            self._display.progress(text)
