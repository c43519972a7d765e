"""A process that has everything imported and runs command lines in forks of itself: a run costs no
start.

It reads a JSON line for each run from stdin: ``words``, ``folder``, ``kill_after`` (seconds or
null), ``kill_when`` (a path that exists by then, or null), ``signal``, ``fault`` ([number, kind] or
null), ``log``; it answers with ``code`` (negative: killed), ``stdout``, ``stderr`` and ``seconds``.
With ``unread`` nobody reads either of the two streams. With ``processes`` it runs as many times at
once, as a launcher would start them, and the answer is a list. With ``script`` a Python file is run
instead of the command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LONGEST = 300.0


def warm() -> None:
    """Imports what a run imports, without a thread of its own that a fork would lose."""
    from lora_s2s import cli
    from lora_s2s.pipeline import dry_run, train
    from lora_s2s.recipe.load import load_recipe

    del cli, train
    import matplotlib.backends.backend_agg
    import torch

    del matplotlib
    torch.set_num_threads(1)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        dry_run.dry_run(
            load_recipe("demo", ["data.train=demo:validation", "data.validation=demo:test"])
        )


def child(asked: dict[str, Any], out: str, err: str) -> None:
    """Runs one command line and ends with its exit code."""
    code = 99
    try:
        os.chdir(asked["folder"])
        for name, stream in ((out, 1), (err, 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        if asked.get("unread"):
            reader, writer = os.pipe()
            os.close(reader)
            for stream in (1, 2):
                os.dup2(writer, stream)
        sys.stdout, sys.stderr = (
            os.fdopen(os.dup(stream), "w", encoding="utf-8") for stream in (1, 2)
        )
        if asked.get("fault") or asked.get("log"):
            sys.path.append(str(Path(__file__).parents[1] / "faults"))
            import layer

            at, kind = asked.get("fault") or (0, "eio")
            layer.install(asked["folder"], at, kind, asked.get("log") or "")
        script = asked.get("script")
        sys.argv = [script or "lora-s2s", *asked["words"]]
        if script:
            sys.path.insert(0, str(Path(script).parent))
            runpy.run_path(script, run_name="__main__")
            sys.exit(0)
        from lora_s2s.cli import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def one(asked: dict[str, Any]) -> dict[str, Any]:
    """Runs one, and sends it a signal when its time has come."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = f"{folder}/out", f"{folder}/err"
        began, sent = time.monotonic(), False
        process = os.fork()
        if process == 0:
            child(asked, out, err)
        after, there = asked.get("kill_after"), asked.get("kill_when")
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            passed = time.monotonic() - began
            if ended:
                break
            due = (after is not None and passed >= after) or (
                there and Path(asked["folder"], there).exists()
            )
            if due and not sent:
                os.kill(process, asked.get("signal") or 9)
                sent = True
            if passed > LONGEST:
                os.kill(process, 9)
            time.sleep(0.002)
        texts = [
            Path(name).read_text(encoding="utf-8") if Path(name).exists() else ""
            for name in (out, err)
        ]
    return {
        "code": os.waitstatus_to_exitcode(status),
        "stdout": texts[0],
        "stderr": texts[1],
        "seconds": passed,
    }


def together(asked: dict[str, Any], processes: int) -> list[dict[str, Any]]:
    """Runs one in each of several processes that find each other; answers in the order of ranks."""
    from lora_s2s import console

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    with tempfile.TemporaryDirectory() as folder:
        answers, started = [Path(folder, str(rank)) for rank in range(processes)], []
        for rank, path in enumerate(answers):
            started.append(os.fork())
            if started[-1] == 0:
                names = {**shared, "RANK": rank, "LOCAL_RANK": rank}
                os.environ.update({name: str(value) for name, value in names.items()})
                console._ALONE, console._TALKS = False, rank == 0  # read when it is imported
                path.write_text(json.dumps(one(asked)), encoding="utf-8")
                os._exit(0)
        for process in started:
            os.waitpid(process, 0)
        return [json.loads(path.read_text(encoding="utf-8")) for path in answers]


def serve() -> None:
    """Answers until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a command line that has not begun simply ends
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    warm()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        processes = asked.pop("processes", 0)
        answer = together(asked, processes) if processes else one(asked)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
