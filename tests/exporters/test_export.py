"""What holds for every format: what is refused before anything is loaded or merged, folders that
others write too, and manifests.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapting import adapt
from programs import environment
from tiny_families import TINY, write

import lora_s2s
from lora_s2s import files
from lora_s2s.errors import DataError, ResourceError, UsageError
from lora_s2s.exporters import parity
from lora_s2s.exporters.formats import EXPORTERS
from lora_s2s.lora import adapter, merge
from lora_s2s.lora.adapter import save_adapter
from lora_s2s.models.loading import load_base
from lora_s2s.pipeline import export_source
from lora_s2s.recipe.amounts import bytes_of
from lora_s2s.records import ExportManifest, verify

ADAPTER = Path(__file__).parents[2] / "adapters" / "demo"


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[object]:
    """Counts the calls of a function of a module."""
    calls: list[object] = []
    function: Callable[..., Any] = getattr(module, name)

    def call(*words: Any, **options: Any) -> Any:
        calls.append(words)
        return function(*words, **options)

    monkeypatch.setattr(module, name, call)
    return calls


def test_an_adapter_is_loaded_once(
    few: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = counted(monkeypatch, export_source, "load_adapter")
    bases = counted(monkeypatch, adapter, "load_base")
    lora_s2s.export(ADAPTER, "safetensors", tmp_path / "out", data=few, progress=False)
    assert len(adapters) == 1
    assert len(bases) == 1


@pytest.mark.parametrize("format", ["ct2", "onnx"])
def test_an_adapter_of_a_family_that_the_format_lacks_is_refused_before_merging(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(write(TINY["LongT5 (local)"], tmp_path / "base")), device="cpu")
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(adapt(base, r=2, alpha=4, target_modules="attention-qv", seed=0), folder)
    merged = counted(monkeypatch, merge, "folded_state")
    with pytest.raises(UsageError) as caught:
        out = tmp_path / "out"
        lora_s2s.export(folder, format, out, base=str(tmp_path / "base"), progress=False)
    assert "does not support models of type 'longt5'; it supports t5, mt5" in caught.value.message
    assert caught.value.hint == "export it as safetensors, for transformers: format=safetensors"
    assert not merged
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_disk_space_is_asked_for_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 2**20))
    expected = counted(monkeypatch, parity, "expect")
    for model in (ADAPTER, "demo"):
        with pytest.raises(ResourceError, match=r"space: .* are needed, 1\.0 MiB are free"):
            lora_s2s.export(model, "ct2", tmp_path / "out", progress=False)
        assert not list(tmp_path.iterdir())
    assert not expected  # it is the first thing that is done with a loaded model


def test_two_processes_do_not_export_into_one_folder(tmp_path: Path) -> None:
    holder = (
        "import sys; from pathlib import Path; from lora_s2s.training.run_lock import run_lock\n"
        f"with run_lock(Path({str(tmp_path / 'out')!r})): print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", holder]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(), **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError) as caught:
            lora_s2s.export(ADAPTER, "ct2", tmp_path / "out", progress=False)
        other.communicate("\n")
    assert caught.value.message.startswith(f"another run is exporting to {tmp_path / 'out'}: proc")
    assert caught.value.hint == "wait for it, or choose another folder"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_appears_meanwhile_is_kept(
    few: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_model = export_source.write_whole_model

    def write_and_lose(*words: Any, **options: Any) -> None:
        write_model(*words, **options)
        out.mkdir()

    monkeypatch.setattr(export_source, "write_whole_model", write_and_lose)
    with pytest.raises(UsageError, match="out exists already"):
        lora_s2s.export(ADAPTER, "safetensors", out, data=few, progress=False)
    assert list(tmp_path.iterdir()) == [out]
    assert not list(out.iterdir())


def test_an_export_onto_the_model_itself_is_refused(tmp_path: Path) -> None:
    copied = tmp_path / "demo"
    shutil.copytree(ADAPTER, copied)
    for out, message in ((copied, "is the model's folder"), (copied / "x", "is inside the model")):
        with pytest.raises(UsageError) as caught:
            lora_s2s.export(copied, "ct2", out, progress=False)
        assert message in caught.value.message


def test_the_manifest_lists_and_verifies_every_file(few: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"precision": "bfloat16", "data": few, "progress": False}
    lora_s2s.export("demo", "safetensors", out, **options)
    manifest = ExportManifest.read(out)
    assert (manifest.export.format, manifest.export.precision) == ("safetensors", "bfloat16")
    rest = {path.name for path in out.iterdir()} - set(manifest.files)
    assert rest == {"manifest.json", "README.md"}
    verify(out, manifest.files)
    (out / "config.json").write_text("{}", "utf-8")
    with pytest.raises(DataError, match="differs from its hash"):
        lora_s2s.load(out, progress=False)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../x", "a/b/c", "a/.."])
def test_a_manifest_names_files_of_its_folder_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    entry = {name: {"sha256": "0" * 64, "bytes": 0}}
    manifest = {
        "format": 1,
        "export": {"format": "onnx", "precision": "float32"},
        "input": {},
        "decoding": {"max_new_tokens": 8, "num_beams": 1},
        "files": entry,
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(DataError, match="not a file of the folder"):
        verify(tmp_path, ExportManifest.read(tmp_path).files)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (
            {"format": "safetensor"},
            "unknown format 'safetensor' (did you mean 'safetensors'?)",
            "format=ct2 or onnx or safetensors",
        ),
        (
            {"format": "safetensors", "precision": "int8"},
            "safetensors has no precision 'int8'",
            "precision=float32, float16, bfloat16",
        ),
        (
            {"format": "onnx", "precision": "float16"},
            "onnx has no precision 'float16'",
            "precision=float32, int8",
        ),
        (
            {"format": "ct2", "max_shard_size": "2GB"},
            "ct2 has no shards, so it takes no --max-shard-size",
            "omit max_shard_size, or format=safetensors",
        ),
        (
            {"format": "safetensors", "max_shard_size": "2 big"},
            "--max-shard-size is '2 big', expected an amount",
            "max_shard_size=8GB",
        ),
    ],
)
def test_wrong_choices(words: dict[str, Any], message: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        lora_s2s.export(ADAPTER, out=tmp_path / "out", progress=False, **words)
    assert message in caught.value.message
    assert caught.value.hint == hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "size"), [("8GB", 8e9), ("7.5 gib", 7.5 * 2**30), ("20000000KB", 2e10)]
)
def test_amounts(given: str, size: float) -> None:
    assert bytes_of(given, "--gpu-memory") == bytes_of(given, "", plain=True) == size


def test_a_size_is_also_a_number_of_bytes() -> None:
    assert bytes_of("500000", "--max-shard-size", plain=True) == 500_000
    for wrong in ("0", "0GB", "True", "-1GB", "1e3GB", "8,5GB", "1.5", "\u0668GB"):
        with pytest.raises(UsageError, match="--max-shard-size is"):
            bytes_of(wrong, "--max-shard-size", plain=True)


def test_the_command_names_every_format_and_precision() -> None:
    command = [sys.executable, "-m", "lora_s2s", "export", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    words = done.stdout.replace("│", " ").split()
    text = " ".join(words)
    for format, exporter in EXPORTERS.items():
        assert format in text
        for precision in exporter.bytes_per_weight:
            assert precision in text
