"""Files made to fill the memory or to take for ever: refused within 1 GB over the imports, and
within ten seconds.

All in one process of their own, as the imports take longest.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from spoiling import Case, both, deep, file, patched, removed, sparse, tensors
from table import CONFIG, LAUGHS, MANIFEST, WEIGHTS, M, adapter, model, recipe

HUGE = (2**31).to_bytes(8, "little")


def _million(folder: Path) -> None:
    made = json.loads((folder / "tokenizer.json").read_text())
    made["added_tokens"] = []
    text = json.dumps(made, separators=(",", ":"))
    added = ",".join(f'{{"id":{n},"content":"{n}"}}' for n in range(3000, 1_003_000))
    (folder / "tokenizer.json").write_text(
        text.replace('"added_tokens":[]', f'"added_tokens":[{added}]')
    )


def _many_tensors(header: dict[str, Any]) -> None:
    header.update(
        {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
    )


HEAVY = [
    adapter("header of 2 GB", sparse(WEIGHTS, 2**31 + 8, HUGE), "a safetensors header of"),
    adapter("a hundred thousand tensors", tensors(WEIGHTS, _many_tensors), "weights"),
    adapter(
        "10,000 targets",
        patched(CONFIG, target_modules=[f"q{n}" for n in range(10_000)]),
        "does not have",
    ),
    adapter("manifest of 2 GB", sparse(MANIFEST, 2**31), "more than 8 MiB"),
    adapter("config of 2 GB", sparse(CONFIG, 2**31), "more than 1 MiB"),
    adapter("recipe of 2 GB", sparse("recipe.yaml", 2**31), "more than 1 MiB"),
    adapter(
        "template that loops",
        deep(
            MANIFEST,
            "input",
            value={
                "template": "{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% "
                "endfor %}"
            },
        ),
        "is refused",
    ),
    adapter(
        "template that grows",
        deep(
            MANIFEST,
            "input",
            value={"template": "{{source" + "|replace('','aaaaaaaaaa')" * 30 + "}}"},
        ),
        "no source can be made",
    ),
    adapter(
        "template that writes a large title",
        deep(
            MANIFEST,
            "input",
            value={
                "template": "{{source"
                + "|replace('','a ')" * 3
                + "|replace('a','a a a a a a ')" * 6
                + "|title" * 30
                + "}}"
            },
        ),
        "no source can be made",
    ),
    model("header of 2 GB", sparse(M, 2**31 + 8, HUGE), "a safetensors header of"),
    model(
        "512 layers",
        patched("config.json", num_layers=512, num_decoder_layers=512),
        "do not fit the config",
    ),
    model(
        "the largest sizes",
        patched(
            "config.json",
            d_model=65_536,
            d_ff=10**6,
            vocab_size=2 * 10**6,
            num_heads=1024,
            d_kv=4096,
        ),
        "do not fit the config",
    ),
    model("tokenizer of 500 MB", sparse("tokenizer.json", 500 * 10**6), "more than 64 MiB"),
    model("tokenizer with a million additions", _million, "1,000,000 added tokens"),
    model(
        "tokenizer of 60 MB of lists",
        file("tokenizer.json", b"[" + b"[]," * 20_000_000 + b"1]"),
        "tokenizer.json",
    ),
    model(
        "index of 60 MB of brackets",
        both(removed(M), file(f"{M}.index.json", b"[" * 60_000_000)),
        "not a JSON document",
    ),
    model("vocabulary of 500 MB", sparse("spiece.model", 500 * 10**6), "more than 64 MiB"),
    recipe("billion laughs", LAUGHS, "anchors, aliases and tags are not used"),
    recipe(
        "900 KB of keys", "".join(f"k{n}: 1\n" for n in range(100_000)), "too long, for a recipe"
    ),
    recipe("900 KB of brackets", "a: " + "[" * 900_000, "nested too deep"),
    recipe("900 KB of one key", "k" * 900_000 + ": 1\n", "r.yaml"),
    recipe("900 KB of question marks", "? " * 450_000, "r.yaml"),
    Case("recipe: 2 GB", "train r.yaml", 2, "larger than 1 MB", sparse("r.yaml", 2**31)),
]

CHILD = """
import contextlib, io, json, os, resource, signal, sys
import typer, torch, transformers
import lora_s2s.pipeline.train, lora_s2s.pipeline.evaluate, lora_s2s.pipeline.merge
from lora_s2s.cli import app
from lora_s2s.hub import DEMO_BASE
from lora_s2s.models.loading import load_base
load_base(str(DEMO_BASE), device="cpu")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 1_000_000_000,) * 2)
for line in sys.stdin:
    folder, *words = json.loads(line)
    os.chdir(folder)
    err = io.StringIO()
    signal.alarm(10)
    with contextlib.redirect_stderr(err):
        try:
            code = typer.main.get_command(app)(words)
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            code = repr(error)
    signal.alarm(0)
    print(json.dumps([code, err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def child() -> Any:
    """A process with the imports done and its memory bounded; ten seconds a command, then it
    dies.
    """
    if not Path("/proc/self/statm").is_file():
        pytest.skip("memory is bounded through Linux's /proc")
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root, "RUST_BACKTRACE": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize("case", HEAVY, ids=lambda case: case.name)
def test_heavy_input_is_refused_in_bounded_time_and_memory(
    case: Case, child: Any, here: Path, tiny_model: Path, good_adapter: Path
) -> None:
    target = here
    if case.name.startswith(("adapter", "model")):
        target = here / "bad"
        shutil.copytree(tiny_model if case.name.startswith("model") else good_adapter, target)
    case.spoil(target)
    child.stdin.write(
        json.dumps(
            [str(here), *("bad" if word == "BAD" else word for word in case.command.split())]
        )
        + "\n"
    )
    child.stdin.flush()
    answer = child.stdout.readline()
    assert answer, "it took more than ten seconds"
    code, said = json.loads(answer)
    assert (code, case.said in said) == (case.code, True), said
