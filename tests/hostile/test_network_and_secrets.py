"""A whole run on the bundled base: no socket is opened, and no secret of the environment is in
anything it leaves.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from preloaded import Preloaded

ROOT = Path(__file__).parents[2]
SECRETS = {
    "HF_TOKEN": "hf_" + "Q7xk2LmPz9" * 3,
    "HUGGING_FACE_HUB_TOKEN": "hf_" + "R8yl3MnQa0" * 3,
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "feedc0de",
    "MY_PASSWORD": "correct-horse-battery",
}
# Runs before anything else: whoever asks for the network is written down, and refused.
SITE = """
import os, socket
def refused(what):
    def ask(*given, **named):
        if what == "connect" and isinstance(given[1], (str, bytes)):
            return real(*given)
        with open(os.environ["NETWORK_LOG"], "a") as log:
            log.write(f"{what} {given[-1]}\\n")
        raise OSError("no network in this test")
    return ask
real = socket.socket.connect
socket.socket.connect = refused("connect")
socket.socket.connect_ex = refused("connect_ex")
socket.getaddrinfo = refused("getaddrinfo")
socket.gethostbyname = refused("gethostbyname")
socket.create_connection = refused("create_connection")
"""
# bitsandbytes asks it for compiled code from a hub as soon as it is imported.
KERNELS = """
import os
def get_kernel(name, **_):
    with open(os.environ["NETWORK_LOG"], "a") as log:
        log.write(f"get_kernel {name}\\n")
    raise OSError("no network in this test")
"""
SHORT = [
    *("--set", "data.train=demo:validation", "--set", "data.validation=demo:test"),
    "--set",
    "training.max_steps=2",
    "--set",
    "training.tokens_per_batch=256",
    "--set",
    "training.save_every=1",
]


class Ran(NamedTuple):
    """A command's end."""

    code: int
    said: str
    asked: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    (folder / "home").mkdir()
    (folder / "site" / "kernels").mkdir()
    (folder / "site" / "kernels" / "__init__.py").write_text(KERNELS)
    return folder


def watched(place: Path) -> dict[str, str | None]:
    """What is added to the environment of a program, so that it has secrets and is watched."""
    offline = [name for name in os.environ if name.endswith("OFFLINE")]
    return {
        **dict.fromkeys([*offline, "HF_HUB_OFFLINE"]),
        **SECRETS,
        "HOME": str(place / "home"),
        "HF_HOME": str(place / "home"),
        "NETWORK_LOG": str(place / "asked.log"),
        "PYTHONPATH": os.pathsep.join((str(place / "site"), str(ROOT))),
    }


def run(place: Path, *words: str) -> Ran:
    """Runs a command line in a process of its own, which --offline changes."""
    log = place / "asked.log"
    log.write_text("")
    environment = {**os.environ, **watched(place)}
    done = subprocess.run(
        [sys.executable, "-m", "lora_s2s", *words],
        cwd=place,
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
    )
    return Ran(done.returncode, done.stdout + done.stderr, log.read_text())


@pytest.fixture(scope="module")
def runs(place: Path) -> list[Ran]:
    """prepare, train, eval, predict, merge, predict on the merged model."""
    (place / "rows.jsonl").write_text('{"source": "a table for two", "target": "it is done"}\n' * 4)
    commands = [
        ("prepare", "demo", "--out", "out"),
        ("train", "demo", *SHORT),
        ("eval", "adapters/demo", "--baseline", "--data", "rows.jsonl"),
        ("predict", "adapters/demo", "a table for two"),
        ("merge", "adapters/demo", "--out", "merged"),
        ("predict", "merged", "a table for two"),
        ("adapters", "show", "adapters/demo"),
        ("predict", "https://me:hunter2-secret@host/model", "x"),
    ]
    log, ran = place / "asked.log", []
    log.write_text("")
    with Preloaded(watched(place)) as preloaded:  # the imports are watched with the first command
        for words in commands:
            done = preloaded.run(place, *words)
            ran.append(Ran(done.code, done.stdout + done.stderr, log.read_text()))
    return ran


@pytest.mark.slow
def test_nothing_asks_for_the_network(runs: list[Ran]) -> None:
    *good, bad = runs
    assert [done.code for done in good] == [0] * len(good), "\n".join(done.said for done in good)
    assert bad.code == 2
    assert [done.asked for done in runs] == [""] * len(runs)


@pytest.mark.slow
def test_no_secret_is_in_anything_left_or_said(place: Path, runs: list[Ran]) -> None:
    files = [path for path in place.rglob("*") if path.is_file()]
    assert {"recipe.yaml", "manifest.json", "README.md", "report.html", "metrics.jsonl"} <= {
        path.name for path in files
    }
    assert any("checkpoints" in path.parts for path in files)
    for secret in (*SECRETS.values(), "hunter2-secret"):
        assert not [str(path) for path in files if secret.encode() in path.read_bytes()]
        assert not [done.said for done in runs if secret in done.said]


@pytest.mark.slow
def test_offline_forbids_what_a_hubs_name_asks_for(place: Path) -> None:
    online = run(place, "predict", "no/such-model", "x")
    assert (online.code, bool(online.asked)) == (5, True), "the recorder must see who asks"
    offline = run(place, "--offline", "predict", "no/such-model", "x")
    assert (offline.code, offline.asked) == (5, "")
    anywhere = run(
        place, "prepare", "demo", "--set", "data.train=hf:no/such-data", "--offline", "--out", "new"
    )
    assert (anywhere.code, anywhere.asked) == (5, "")
    assert not (place / "new").exists()


@pytest.mark.slow
def test_offline_refuses_whoever_asks_all_the_same(place: Path) -> None:
    asking = "import socket, sys\nfrom lora_s2s.cli import _forbid_network\n_forbid_network()\n" + (
        "for ask in (lambda: socket.create_connection(('example.org', 80)),\n"
        "            lambda: socket.gethostbyname('example.org'),\n"
        "            lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', "
        "53)),\n"
        "            lambda: socket.socket().connect(('192.0.2.1', 80))):\n"
        "    try:\n        ask()\n"
        "    except ConnectionRefusedError as error:\n        assert '--offline' in str(error)\n"
        "    else:\n        sys.exit('it was let through')\n"
        "near, far = socket.socketpair()\nnear.send(b'x')\nlistener = "
        "socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(listener.getsockname()).close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", asking],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
