"""Fuzzes whatever reads a stranger's bytes: nothing but an error of this package may come out, and
that soon.

    python benchmarks/fuzz.py --minutes 30 [--only recipe] [--seed 7]
    python benchmarks/fuzz.py --minutes 30 --guided           the same time, by atheris (pip install
    atheris)

Targets: every reader of data, rows to examples, the recipe loader, the adapter's config and
manifest, safetensors headers, and templates. Inputs are seeds mutated and crossed, and those that
lead to a new outcome join the seeds; with ``--guided`` those that reach new code do. Crashes are
kept whole beside the result.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FunctionType
from typing import Any

from lora_s2s.errors import Error
from lora_s2s.examples.example import Turn, Unusable
from lora_s2s.examples.read import Examples
from lora_s2s.examples.template import PromptTemplate
from lora_s2s.inference.loading import input_settings
from lora_s2s.lora.schema import adapter_settings
from lora_s2s.models.weights import opened, shapes
from lora_s2s.readers.origins import READERS, find_origins
from lora_s2s.recipe.load import load_recipe
from lora_s2s.recipe.schema import DataSection

RESULTS = Path(__file__).parent / "results" / "fuzz-cpu.json"
LIMIT_S, SLOW_S = 10, 1
_LONGEST, _MOST_SEEDS = 20_000, 400
_ROWS = 2_000

Target = Callable[[bytes, Path], object]


def _rows(suffix: str) -> Target:
    def read(content: bytes, folder: Path) -> int:
        path = folder / f"rows{suffix}"
        path.write_bytes(content)
        return sum(1 for origin in find_origins(str(path)) for _ in islice(origin.rows(), _ROWS))

    return read


def _examples(content: bytes, folder: Path) -> int:
    path = folder / "examples.jsonl"
    path.write_bytes(content)
    return sum(1 for _ in islice(Examples(DataSection(train=str(path))), _ROWS))


def _recipe(content: bytes, folder: Path) -> object:
    path = folder / "recipe.yaml"
    path.write_bytes(content)
    return load_recipe(str(path)).model.name


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise Error("not JSON") from None  # what files.read_json says


def _adapter(content: bytes, _folder: Path) -> object:
    return len(adapter_settings(_json(content), where="x").values)


def _manifest(content: bytes, _folder: Path) -> object:
    return input_settings(_json(content), where="x").format


def _weights(content: bytes, folder: Path) -> int:
    path = folder / "x.safetensors"
    path.write_bytes(content)
    found = shapes([path])
    with opened(path) as tensors:
        for name in found:
            tensors.get_tensor(name)
    return len(found)


def _template(content: bytes, _folder: Path) -> int:
    text = content.decode("utf-8", "replace")
    fields = {
        "source": "a {{b}} {c}",
        "text": "x" * 50,
        "turns": (Turn("user", "hi"), Turn("assistant", "yo")),
    }
    prompt = PromptTemplate.of(text)
    return len(prompt.render({**dict.fromkeys(prompt.columns, "v"), **fields}))


def _header(tensors: dict[str, Any], data: bytes = b"") -> bytes:
    head = json.dumps(tensors).encode()
    return struct.pack("<Q", len(head)) + head + data


TARGETS: dict[str, Target] = {
    **{f"reader{suffix}": _rows(suffix) for suffix in READERS},
    "examples": _examples,
    "recipe": _recipe,
    "adapter_config": _adapter,
    "manifest": _manifest,
    "safetensors": _weights,
    "template": _template,
}
_LINE = b'{"instruction": "add", "input": "1 2", "output": "3"}\n'
_CHAT = (
    b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}\n'
)
SEEDS: dict[str, list[bytes]] = {
    "reader.csv": [
        b'question,answer\na,b\n"c\n""d",e\n',
        b"a;b\r\n1;2\r\n",
        b"\xef\xbb\xbfx\ty\n1\t2\n",
    ],
    "reader.tsv": [b"source\ttarget\na\tb\n"],
    "reader.json": [
        b'[{"a": "b"}, {"a": null}]',
        b'{"data": [{"x": 1e400, "y": "\\ud800"}]}',
        b"[" * 50,
    ],
    "reader.jsonl": [_LINE * 3, _CHAT, b'{"a": "\\u0000", "b": [1, {"c": 2}]}\n{"a"'],
    "reader.tmx": [
        b'<?xml version="1.0"?><tmx version="1.4"><header srclang="en"/><body><tu><tuv '
        b'xml:lang="en"><seg>a</seg></tuv>'
        b'<tuv xml:lang="de"><seg>b &amp; <b>c</b></seg></tuv></tu></body></tmx>',
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b '
        b'"&a;&a;">]><tmx><body><tu><tuv><seg>&b;</seg></tuv></tu></body>',
    ],
    "examples": [
        _LINE * 3,
        _CHAT * 2,
        b'{"source": "a", "target": "b"}\n' * 3,
        b'{"context": "c", "question": "q", "answers": {"text": ["a"], "answer_start": [0]}}\n',
    ],
    "recipe": [
        b"model:\n  name: demo\ndata:\n  train: demo:train\nlora:\n  r: 8\ntraining:\n  epochs: "
        b"1.5\n",
        b"extends: demo\noutput: {name: x}\nlora: {target_modules: [q, v], rank_pattern: [q=2]}\n",
        b"a: &a [x, x]\nb: [*a, *a]\n",
        b"!!python/object:os.system x\n",
        b"model:\n  name: .nan\n",
    ],
    "adapter_config": [
        json.dumps({"peft_type": kind, "r": 4, "target_modules": ["q", "v"], **more}).encode()
        for kind, more in (
            ("LORA", {"lora_alpha": 8, "rank_pattern": {"q": 2}}),
            ("IA3", {"feedforward_modules": ["wo"]}),
            ("VERA", {"projection_prng_key": 3}),
            ("LOKR", {"alpha": 1, "decompose_factor": 4}),
            ("LORA", {"auto_mapping": {"a": "b"}, "trainable_token_indices": {"lm_head": [1]}}),
        )
    ],
    "manifest": [
        json.dumps(
            {"template": "{a} {{b}}", "max_source_tokens": 9, "truncate_source": "left"}
        ).encode(),
        json.dumps(
            {"template": ["{% for t in turns %}{{t.text}}{% endfor %}"], "source_column": "a"}
        ).encode(),
    ],
    "safetensors": [
        _header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
        _header(
            {
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "b": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [4, 8]},
                "__metadata__": {"format": "pt"},
            },
            bytes(8),
        ),
        struct.pack("<Q", 1 << 31),
        b"",
    ],
    "template": [
        b"translate: {source}",
        b"{% if text %}{{ text | trim }}{% else %}{{ source }}{% endif %}",
        b"{% for t in turns %}{{ t.role }}: {{ t.text | replace('a', 'bb') }}\n{% endfor %}",
        b"{{ turns | map(attribute='text') | join }}",
        b"{{ source.__class__ }}",
        b"{{ text | default('x') | truncate(3) }}",
    ],
}
_WORDS = (
    b"{{",
    b"}}",
    b"{%",
    b"%}",
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\n",
    b"\r",
    b'"',
    b"'",
    b"[" * 40,
    b"{" * 40,
    b"1e999",
    b"-1",
    b"9" * 5000,
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
    b"&a",
    b"*a",
    b"!!python/name:os.system ",
    b"<<: ",
    b"__class__",
    b"range(999999999)",
    b" * 99999",
    b"../../etc/passwd",
    b"&lol;",
    b'<!ENTITY a SYSTEM "file:///etc/passwd">',
    b"\xe2\x80\xae",
    b"\x1b[31m",
    b"=cmd()",
    b",",
    b";",
    b"\t",
    b": ",
    b"- ",
    b"? ",
    b"|",
    b">",
    b"#",
    b"%",
    b"\xc2\x85",
)


def _parquet() -> list[bytes]:
    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(
        pyarrow.table({"source": ["a", "b"], "target": ["c", None], "n": [1, 2]}), sink
    )
    return [sink.getvalue()]


def seeds_of(name: str) -> list[bytes]:
    """Returns the inputs a target begins with."""
    return _parquet() if name == "reader.parquet" else list(SEEDS.get(name, SEEDS["reader.jsonl"]))


def mutated(content: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Returns an input changed in one to six places."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        at, to = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        to = min(to, at + chance.choice((1, 2, 8, 64, 1000)))
        kind = chance.randrange(7)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[at:to]
        elif kind == 2:
            data[at:at] = data[at:to] * chance.choice((1, 2, 30))
        elif kind == 3:
            data[at:to] = chance.choice(_WORDS)
        elif kind == 4:
            data[at:at] = chance.choice(_WORDS)
        elif kind == 5:
            other = chance.choice(others)
            data[at:] = other[chance.randrange(len(other) + 1) :]
        else:
            data[at:to] = chance.randbytes(to - at)
    return bytes(data[:_LONGEST])


class TooSlow(BaseException):
    """One input took longer than the limit."""


def _alarm(_number: int, _frame: object) -> None:
    raise TooSlow


def outcome(target: Target, content: bytes, folder: Path) -> tuple[str, BaseException | None]:
    """Runs one input; returns what came out, without its digits, and the crash if it was one."""
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        return f"ok {str(target(content, folder))[:1]}", None
    except (Error, Unusable) as error:
        return re.sub(r"\d+|'.*'", "", f"{type(error).__name__} {error}")[:80], None
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return f"CRASH {type(error).__name__}", error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@dataclass
class Tally:
    """What happened to one target."""

    executions: int = 0
    slowest_s: float = 0.0
    outcomes: set[str] = field(default_factory=set)
    crashes: dict[str, str] = field(default_factory=dict)


def fuzz(names: list[str], minutes: float, seed: int, keep: Path) -> dict[str, Tally]:
    """Gives every target its turns of a second until the time is over."""
    chance = random.Random(seed)
    corpus = {name: seeds_of(name) for name in names}
    tallies = {name: Tally() for name in names}
    until = time.monotonic() + 60 * minutes
    signal.signal(signal.SIGALRM, _alarm)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  a disk would be the slowest part
    with (
        tempfile.TemporaryDirectory(dir=memory) as scratch,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        for name in _turns(names, until):
            turn = time.monotonic() + 1.0
            while time.monotonic() < turn:
                content = mutated(chance.choice(corpus[name]), corpus[name], chance)
                _one(name, content, tallies[name], corpus[name], Path(scratch), keep)
    return tallies


def _turns(names: list[str], until: float) -> Iterator[str]:
    while True:
        for name in names:
            if time.monotonic() >= until:
                return
            yield name


def _one(
    name: str, content: bytes, tally: Tally, corpus: list[bytes], scratch: Path, keep: Path
) -> None:
    start = time.monotonic()
    kind, crash = outcome(TARGETS[name], content, scratch)
    tally.executions += 1
    took = time.monotonic() - start
    if took > max(SLOW_S, tally.slowest_s):
        _keep(keep, f"slow-{name}", content)
    tally.slowest_s = max(tally.slowest_s, took)
    if crash is not None:
        trace, last = crash.__traceback__, ""
        while trace is not None:
            last, trace = (
                f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}",
                trace.tb_next,
            )
        what = f"{type(crash).__name__} at {last}: {str(crash)[:120]}"
        key = f"{type(crash).__name__} {last}"
        if key not in tally.crashes:
            tally.crashes[key] = what
            _keep(keep, name, content)
            print(f"{name}: {what}", file=sys.__stderr__, flush=True)
    if kind not in tally.outcomes:
        tally.outcomes.add(kind)
        corpus.append(content)
        del corpus[_MOST_SEEDS:]


def _keep(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}").write_bytes(content)


_STEERING = ("lora_s2s", "yaml", "jinja2", "json")


def _instrumented() -> None:
    """Has the functions that read report where they go."""
    import atheris  # type: ignore[import-not-found, unused-ignore]

    for place in [
        module for name, module in sys.modules.items() if name.partition(".")[0] in _STEERING
    ]:
        holders = [place, *(value for value in vars(place).values() if isinstance(value, type))]
        for function in [value for holder in holders for value in vars(holder).values()]:
            if isinstance(function, FunctionType) and function.__module__ == place.__name__:
                atheris.instrument_func(function)


def _steered(name: str, words: list[str]) -> None:
    """Fuzzes one target under atheris until its time is over or it crashes; ends the process."""
    import atheris

    _instrumented()
    with tempfile.TemporaryDirectory() as scratch:

        def once(content: bytes) -> None:
            with (
                contextlib.suppress(Error, Unusable),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                TARGETS[name](content, Path(scratch))

        atheris.Setup([sys.argv[0], *words], once)
        atheris.Fuzz()


def guided(names: list[str], minutes: float, seed: int, keep: Path) -> dict[str, Tally]:
    """Gives every target its share of the time, under atheris, in a process of its own."""
    tallies = {}
    keep.mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory() as corpus:
            for number, content in enumerate(seeds_of(name)):
                (Path(corpus) / f"seed-{number}").write_bytes(content)
            words = (
                f"-max_total_time={round(60 * minutes / len(names))}",
                f"-seed={seed + 1}",
                f"-max_len={_LONGEST}",
                f"-timeout={LIMIT_S}",
                "-rss_limit_mb=4096",
                "-print_final_stats=1",
                f"-artifact_prefix={keep}/{name}-",
                corpus,
            )
            command = [sys.executable, __file__, "--steered", name, *words]
            ended = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False
            )
            said = {
                key: int(value)
                for key, value in re.findall(r"^stat::(\w+):\s+(\d+)", ended.stderr, re.M)
            }
            tally = Tally(
                said.get("number_of_executed_units", 0), float(said.get("slowest_unit_time_sec", 0))
            )
            tally.outcomes = {str(path) for path in Path(corpus).iterdir()}
            if ended.returncode:
                lines = [
                    line for line in ended.stderr.splitlines() if "Error" in line or "ERROR" in line
                ]
                tally.crashes[name] = " ".join(lines)[:200] or f"ended with {ended.returncode}"
            tallies[name] = tally
    return tallies


def main() -> None:
    """Fuzzes, prints a line for each target, and adds the run to the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", action="append", choices=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, default=Path("build/fuzz"), help="where crashing inputs go"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    parser.add_argument("--steered", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.steered:
        _steered(asked.steered[0], asked.steered[1:])
        return
    tallies = (guided if asked.guided else fuzz)(
        asked.only or list(TARGETS), asked.minutes, asked.seed, asked.keep
    )
    for name, tally in tallies.items():
        print(
            f"{name:16} {tally.executions:>9,} executions  {len(tally.outcomes):>4} outcomes  "
            f"slowest {tally.slowest_s:5.2f} s  {len(tally.crashes)} crashes"
        )
    run = {
        "minutes": asked.minutes,
        "guided": asked.guided,
        "seed": asked.seed,
        "executions": sum(tally.executions for tally in tallies.values()),
        "crashes": sum(len(tally.crashes) for tally in tallies.values()),
        "targets": {
            name: {
                "executions": tally.executions,
                "outcomes": len(tally.outcomes),
                "slowest_s": round(tally.slowest_s, 3),
                "crashes": sorted(tally.crashes.values()),
            }
            for name, tally in tallies.items()
        },
    }
    runs = json.loads(asked.out.read_text()) if asked.out.is_file() else []
    asked.out.write_text(json.dumps([*runs, run], indent=2) + "\n")
    sys.exit(1 if run["crashes"] else 0)


if __name__ == "__main__":
    main()
