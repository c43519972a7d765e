"""Writes docs/recording.svg: what a terminal shows from a file to answers, as README's picture.

    python tools/recording.py

Runs the commands below in a temporary folder and draws their lines in the order and rhythm in
which they appeared, long waits shortened. The picture holds text and style sheets, no script.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "recording.svg"
COMMANDS = (
    "lora-s2s train bookings.csv --set model.name=demo",
    "lora-s2s eval bookings --baseline",
    'lora-s2s predict bookings "hi its Ana, table for two on sat at 8pm"',
)
COLUMNS, ROWS = 100, 30
LONGEST_WAIT = 0.8  # seconds between two lines, however long it took
READING = 2.5  # seconds for the lines of a command that has ended
END = 6.0  # seconds for the last picture
WIDTH, HEIGHT = 8.4, 18.0  # of a character, in units of the picture
MARGIN = 14.0
PROGRESS = re.compile(r"\w+(?= +\d+% )")
BACKGROUND, INK, COMMAND = "#12161d", "#d5dae2", "#7fd1a5"


class Line(NamedTuple):
    """A line of the terminal, the second at which it appears, and its row.

    Progress takes the row of the progress before it, as on a terminal.
    """

    text: Text
    second: float
    row: int


def recorded() -> Iterator[Line]:
    """Runs the commands and yields what appears, wrapped at the terminal's width."""
    second, row = 0.5, 0
    console = Console(width=COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "docs" / "samples" / "bookings.csv", folder)
        for command in COMMANDS:
            yield Line(Text.assemble((f"$ {command}", f"bold {COMMAND}")), second, row)
            before, last = time.monotonic(), ""
            for output in output_of(command, Path(folder)):
                now = time.monotonic()
                second += min(now - before, LONGEST_WAIT)
                before = now
                task = PROGRESS.match(output)
                row -= bool(task and task[0] == last)
                last = task[0] if task else ""
                for text in Text.from_ansi(output).wrap(console, COLUMNS):
                    row += 1
                    yield Line(text, second, row)
            second += READING
            row += 2


def output_of(command: str, folder: Path) -> Iterator[str]:
    """Yields the lines of a command's output and messages as they appear.

    Raises:
        subprocess.CalledProcessError: the command fails.
    """
    program, *words = shlex.split(command)
    executable = Path(sys.executable).with_name(program)
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    with subprocess.Popen(
        [str(executable), *words],
        cwd=folder,
        env={**environment, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as process:
        if process.stdout is not None:
            yield from (line.rstrip() for line in process.stdout)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def drawn(lines: Sequence[Line]) -> str:
    """Returns the SVG: each line appears at its second, and the window scrolls with the last."""
    length = lines[-1].second + END
    width, height = (COLUMNS * WIDTH + 2 * MARGIN, ROWS * HEIGHT + 2 * MARGIN)
    shown = [element(line, after) for line, after in zip_longest(lines, lines[1:])]
    bottom = max(0, lines[-1].row + 1 - ROWS)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img"
 aria-label="A terminal: {escape("; ".join(COMMANDS))}">
<!-- Written by tools/recording.py -->
<style>
text {{ font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
 fill: {INK}; white-space: pre; }}
.b {{ font-weight: bold; }}
.i {{ font-style: italic; }}
.gone {{ opacity: 0; }}
@media (prefers-reduced-motion: no-preference) {{
text {{ opacity: 0; animation: shown 0.01s forwards; }}
text.gone {{ animation-fill-mode: none; }}
#lines {{ animation: scroll {length:.2f}s forwards; }}
}}
@keyframes shown {{ from, to {{ opacity: 1; }} }}
@keyframes scroll {{
{scrolling(lines, length)}
}}
</style>
<clipPath id="window"><rect x="0" y="{MARGIN:g}" width="{width:g}" height="{ROWS * HEIGHT:g}"/>
</clipPath>
<rect width="{width:g}" height="{height:g}" rx="8" fill="{BACKGROUND}"/>
<g clip-path="url(#window)"><g transform="translate({MARGIN:g} {MARGIN - 4:g})">
<g id="lines" transform="translate(0 {-bottom * HEIGHT:g})">
{chr(10).join(shown)}
</g></g></g>
</svg>
"""


def element(line: Line, after: Line | None) -> str:
    """Returns a line's text element, which goes when the line after it takes its row."""
    looks, timing = "", f"animation-delay:{line.second:.2f}s"
    if after and after.row == line.row:
        looks = ' class="gone"'
        timing += f";animation-duration:{max(0.01, after.second - line.second):.2f}s"
    y = HEIGHT * (line.row + 1)
    return f'<text y="{y:g}"{looks} style="{timing}">{spans(line.text)}</text>'


def scrolling(lines: Sequence[Line], length: float) -> str:
    """Returns the key frames that keep the last line in the window."""
    seconds = {line.row: line.second for line in reversed(lines)}  # when each row is reached
    moved = {seconds[row]: row + 1 - ROWS for row in sorted(seconds) if row >= ROWS}
    frames = [frame(100 * second / length, above) for second, above in moved.items()]
    return "\n".join([frame(0.0, 0), *frames, frame(100.0, max(0, lines[-1].row + 1 - ROWS))])


def frame(percent: float, above: int) -> str:
    """Returns a key frame with ``above`` lines over the window's top."""
    moved = f"transform: translateY({-above * HEIGHT:g}px)"
    return f"{percent:.3f}% {{ {moved}; animation-timing-function: step-end; }}"


def spans(text: Text) -> str:
    """Returns a line's parts of one style each, at their columns."""
    console = Console(width=COLUMNS)
    parts: list[str] = []
    column = 0
    for segment in text.render(console):
        words = segment.text.rstrip("\n")
        if words.strip():
            style = segment.style
            classes = "b " * bool(style and style.bold) + "i" * bool(style and style.italic)
            color = style.color.get_truecolor().hex if style and style.color else None
            looks = f' class="{classes.strip()}"' * bool(classes)
            looks += f' style="fill:{color}"' * bool(color)
            place = f'x="{column * WIDTH:g}" textLength="{len(words) * WIDTH:g}"'
            parts.append(f"<tspan {place}{looks}>{escape(words)}</tspan>")
        column += len(words)
    return "".join(parts)


def main() -> None:
    """Records, and writes the picture."""
    PICTURE.write_text(drawn(list(recorded())), encoding="utf-8", newline="\n")
    print(f"wrote {PICTURE.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
