"""Data, prepared folders and adapters in object storage: in memory, and on an S3 server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import lora_s2s
from lora_s2s import remote
from lora_s2s.data.prepared import open_prepared
from lora_s2s.errors import DataError, Error, ResourceError, SetupError, UsageError
from lora_s2s.hub import only_cache
from lora_s2s.readers.origins import find_origins
from lora_s2s.readers.recorded import follow_recorded, record_data

ROWS = [{"source": f"cat {n}", "target": f"good {n}"} for n in range(40)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
LAST = "manifest.json"


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty storage and an empty cache."""
    monkeypatch.setenv("LORA_S2S_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache/remote").glob("*/*"))


def test_data_is_read_from_urls_and_reported_by_them(
    memory: Any, invoke: Any, here: Path, tmp_path: Path
) -> None:
    memory.pipe("/b/in/a.jsonl", LINES + b"broken\n")
    memory.pipe("/b/in/b.csv", b"source,target\nx,y\n")
    memory.pipe("/b/in/notes.bin", b"")
    words = ("--model", "demo", "--out", "p", "--set", "data.max_rejected=0.1", "--json")
    given = ("--data", "memory://b/in/", *words[:2], *words[4:])
    plan = json.loads(invoke("plan", *given, "--gpu-memory", "8GB").stdout)
    assert (plan["fits"], [*here.iterdir()]) == (True, [tmp_path / "cache"])
    report = json.loads(invoke("prepare", "--data", "memory://b/in/", *words).stdout)
    assert report["rows"]["read"] == 42
    rejected = json.loads(Path("p/rejected.jsonl").read_text())
    assert (rejected["file"], rejected["line"]) == ("memory://b/in/a.jsonl", 41)
    where = {origin.rpartition(":")[0] for origin in open_prepared(Path("p")).train.origins()}
    assert where == {"memory://b/in/a.jsonl", "memory://b/in/b.csv"}
    memory.pipe("/b/in/b.csv", b"source,target\nx,z\n")
    assert [row.fields["target"] for row in find_origins("memory://b/in/b.csv")[0].rows()] == ["z"]
    assert len(find_origins("memory://b/*/*.csv@2")) == 1
    recipe = {"model.name": "demo", "data.train": "memory://b/in/a.jsonl@2"}
    made = lora_s2s.prepare({**recipe, "data.max_rejected": 0.1}, "memory://b/p", progress=False)
    assert made.report["out"] == "memory://b/p"
    assert memory.exists("/b/p/manifest.json")


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        ("memory://b/none.jsonl", DataError, "no such file"),
        ("memory://b/none/*.jsonl", DataError, "no such file"),
        ("zip://a.jsonl::memory://b/a.zip", UsageError, "expected s3://"),
        ("memory://b/a.zip::zip://a.jsonl", UsageError, "expected s3://"),
        ("file:///etc/passwd", UsageError, "expected s3://"),
        ("https://example.org/a.jsonl", UsageError, "expected s3://"),
        ("gs://b/a.jsonl", SetupError, "needs a package"),
    ],
)
def test_a_url_that_is_not_read_says_why(
    url: str, kind: type[Error], said: str, memory: Any
) -> None:
    with pytest.raises(kind, match=said):
        find_origins(url)


def test_nothing_is_fetched_because_a_file_names_it(memory: Any) -> None:
    memory.pipe("/b/a.jsonl", LINES)
    record = record_data({"test": "memory://b/a.jsonl"})
    assert [*record["test"][0]["sha256"]] == ["memory://b/a.jsonl"]
    for listed in (record["test"], [{"name": "memory://b/a.jsonl", "sha256": {}}]):
        with pytest.raises(DataError, match="nothing is fetched because a file names it"):
            follow_recorded("memory://b/a.jsonl", listed, split="test")
    with pytest.raises(DataError, match="nothing is fetched"):
        follow_recorded("d", [{"name": "d", "sha256": {"memory://b/a.jsonl": ""}}], split="test")
    with only_cache(), pytest.raises(SetupError, match="is not fetched"):
        find_origins("memory://b/a.jsonl")


def test_the_cache_is_bounded_and_keeps_what_is_in_use(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        memory.pipe(f"/b/{name}", name.encode() * 400)
    monkeypatch.setattr("lora_s2s.limits.LARGEST_REMOTE_CACHE", 1000)
    first = remote.fetched_file("memory://b/a")
    assert remote.fetched_file("memory://b/a") == first
    remote.fetched_file("memory://b/b")
    with pytest.raises(ResourceError, match="800 bytes of it are in use"):
        remote.fetched_file("memory://b/c")
    while remote._held:  # as when the process that used them ends
        os.close(remote._held.pop())
    os.utime(first.parent, (1, 1))
    remote.fetched_file("memory://b/c")
    assert cached(tmp_path) == ["b", "c"]
    monkeypatch.setenv("LORA_S2S_CACHE_GB", "x")
    memory.pipe("/b/a", b"new")
    with pytest.raises(UsageError, match="LORA_S2S_CACHE_GB"):
        remote.fetched_file("memory://b/a")


def test_a_storage_that_fails_halfway_leaves_nothing(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/b/a", b"x" * 100)
    info = memory.info("/b/a")
    monkeypatch.setattr(type(memory), "info", lambda *_, **__: {**info, "size": 200})
    with pytest.raises(DataError, match="100 bytes are missing"):
        remote.fetched_file("memory://b/a")
    monkeypatch.undo()
    monkeypatch.setenv("LORA_S2S_CACHE", str(tmp_path / "cache"))
    assert cached(tmp_path) == []

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("denied")

    monkeypatch.setattr(type(memory), "open", refused)
    with pytest.raises(SetupError, match="no permission: memory://b/f/a"):
        remote.upload_folder({"manifest.json": b"{}", "a": b"a"}, "memory://b/f", manifest=LAST)
    assert not memory.exists("/b/f/manifest.json")


def test_a_folder_is_uploaded_whole_and_fetched_whole(memory: Any) -> None:
    files = {"manifest.json": b"{}", "model.bin": b"1", "z": b"2"}
    remote.upload_folder(files, "memory://b/f/", manifest=LAST)
    with pytest.raises(UsageError, match="exists already"):
        remote.upload_folder(files, "memory://b/f", manifest=LAST)
    folder = remote.fetched_folder("memory://b/f", LAST)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    remote.upload_folder({**files, "z": b"3"}, "memory://b/f", manifest=LAST, overwrite=True)
    assert (remote.fetched_folder("memory://b/f/", LAST) / "z").read_bytes() == b"3"
    memory.rm("/b/f/manifest.json")
    with pytest.raises(DataError, match="an upload that has not finished"):
        remote.fetched_folder("memory://b/f", LAST)


def run_through(invoke: Any, root: str) -> None:
    """Shards, join, training, upload and answers, all at URLs."""
    words = ("--data", f"{root}/rows.jsonl", "--model", "demo", "--out", f"{root}/prepared")
    few = ("--set", "training.max_steps=2", "--set", "evaluation.limit=4")
    for shard in ("2/2", "1/2"):
        invoke("prepare", *words, *few, "--shard", shard)
    joined = invoke("prepare", *words, *few, "--join", "--json")
    assert json.loads(joined.stdout)["out"] == f"{root}/prepared"
    assert f"train {root}/prepared" in joined.stderr
    assert "as before" in invoke("prepare", *words, *few).stderr
    invoke("train", f"{root}/prepared", "--set", "output.name=far")
    assert json.loads(invoke("push", "far", f"{root}/far", "--json").stdout)["url"] == f"{root}/far"
    invoke("push", "far", f"{root}/far", code=2)
    near, far = (invoke("predict", name, "table for two").stdout for name in ("far", f"{root}/far"))
    assert near == far


def test_a_run_through_urls(memory: Any, invoke: Any) -> None:
    memory.pipe("/b/rows.jsonl", LINES)
    run_through(invoke, "memory://b")
    memory.pipe("/b/prepared/train.arrow", memory.cat("/b/prepared/train.arrow")[:-1] + b"\0")
    assert "differs from its hash" in invoke("train", "memory://b/prepared", code=3).stderr


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server of this machine."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    monkeypatch.setenv("LORA_S2S_CACHE", str(tmp_path / "cache"))
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as attempt:
            if not attempt.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    process.wait(120)


@pytest.mark.slow
def test_a_run_through_an_s3_server(
    server: str, invoke: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = fsspec.filesystem("s3", use_listings_cache=False)
    with pytest.raises(DataError, match="no such file"):
        find_origins("s3://bucket/rows.jsonl")
    system.mkdir("bucket")
    system.pipe("bucket/rows.jsonl", LINES)
    run_through(invoke, "s3://bucket")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(SetupError, match=r"cannot reach s3://bucket/rows\.jsonl"):
        find_origins("s3://bucket/rows.jsonl")
