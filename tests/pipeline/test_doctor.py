"""``doctor``: planted faults are findings, each with its fix; nothing secret is printed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_parts import Invoke

from lora_s2s import machine
from lora_s2s.pipeline import doctor, imports, versions
from lora_s2s.pipeline.imports import Imported

HEALTHY = {"cuda_build": None, "threads": 1, "gpus": [], "cuda": False, "cuda_problem": ""}
GPU = {
    "name": "Tesla T4",
    "memory": 16 * 10**9,
    "capability": [7, 5],
    "bfloat16": False,
    "kernels": ["sm_75", "sm_90"],
}
Fault = Callable[[pytest.MonkeyPatch], object]


def torch_says(**facts: object) -> Fault:
    found = Imported(torch={**HEALTHY, **facts})
    return lambda patch: patch.setattr(doctor, "imported", lambda: found)


def version_is(package: str, version: str | None) -> Fault:
    real = versions.installed
    return lambda patch: patch.setattr(
        versions, "installed", lambda name: version if name == package else real(name)
    )


def with_driver(**facts: object) -> Fault:
    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(doctor, "driver", lambda: "470.82, Tesla T4")
        torch_says(**facts)(patch)

    return plant


def built_for_another_torch(patch: pytest.MonkeyPatch) -> None:
    version_is("torchvision", "0.20")(patch)
    real = metadata.requires
    named = lambda name: ["torch==2.5.0"] if name == "torchvision" else real(name)  # noqa: E731
    patch.setattr(metadata, "requires", named)


def container(patch: pytest.MonkeyPatch, path: Path, **files: str) -> None:
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text, encoding="utf-8")
    patch.setattr(machine, "CGROUP", path)


FAULTS: dict[str, tuple[Fault, str, str]] = {
    "a library is missing": (version_is("peft", None), "peft", "pip install -U"),
    "a library is too old": (version_is("transformers", "4.57.1"), "transformers", ">=5.3"),
    "a combination fails": (version_is("optimum-onnx", "0.1"), "optimum-onnx 0.1", "uninstall"),
    "torchvision for another torch": (built_for_another_torch, "torchvision", "pip install -U"),
    "torch without CUDA beside a GPU": (with_driver(), "gpu", "pip install --force-reinstall"),
    "an old driver": (
        with_driver(cuda_build="12.9", cuda_problem="driver too old"),
        "gpu",
        "update the NVIDIA driver",
    ),
    "a GPU without kernels": (
        torch_says(cuda=True, gpus=[{**GPU, "kernels": ["sm_90"]}]),
        "gpu",
        "supports this GPU",
    ),
    "more threads than processors": (torch_says(threads=999), "threads", "OMP_NUM_THREADS="),
    "a full disk": (
        lambda patch: patch.setattr(
            shutil, "disk_usage", lambda _: SimpleNamespace(total=9, used=9, free=10**6)
        ),
        "model cache",
        "export HF_HOME",
    ),
    "a small container": (
        lambda patch: patch.setattr(machine, "container_memory", lambda: 10**9),
        "memory",
        "docker run --memory",
    ),
    "a notebook without its GPU": (
        lambda patch: patch.setenv("COLAB_RELEASE_TAG", "1"),
        "Google Colab",
        "Change runtime type",
    ),
    "python -OO": (
        lambda patch: patch.setattr(
            sys, "flags", SimpleNamespace(optimize=2, utf8_mode=0, dev_mode=False)
        ),
        "python",
        "PYTHONOPTIMIZE",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_reported_with_its_fix(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, name, fix = FAULTS[fault]
    monkeypatch.setattr(doctor, "driver", lambda: None)
    torch_says()(monkeypatch)
    healthy = {check.name for check in doctor.examine().checks if not check.ok}
    plant(monkeypatch)
    report = doctor.examine()
    assert not report.ok
    (check,) = [one for one in report.checks if one.name == name and not one.ok]
    assert fix in check.fix
    # Nothing else than what the fault brings with it.
    assert {one.name for one in report.checks if not one.ok} - healthy <= {
        name,
        *(("current folder", "temporary folder") if "disk" in fault else ()),
    }


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise OSError('libcudart.so.12: cannot open shared object file')", "libcudart"),
        ("import os; os.abort()", "ended the process"),
    ],
)
def test_a_library_that_cannot_be_imported_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    (tmp_path / "torch.py").write_text(source, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = imports.imported(("torch", "json"))
    assert list(found.failed) == ["torch"]
    assert reason in found.failed["torch"]
    monkeypatch.setattr(doctor, "imported", lambda: found)
    (check,) = [one for one in doctor.examine(smoke=True).checks if one.name == "import torch"]
    assert check.fix == "pip install --force-reinstall --no-deps torch"


def test_the_command_prints_no_token_and_exits_by_what_it_found(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    torch_says(cuda=True, gpus=[GPU])(monkeypatch)
    result = invoke("doctor", "--json", code=None)
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["ok"] == (result.exit_code == 0)
    assert all(set(check) == {"name", "ok", "detail", "fix"} for check in report["checks"])
    assert "a token is set" in result.stderr
    assert "secretsecret" not in result.stderr + result.stdout
    assert "trains in float16, as it lacks bfloat16" in result.stderr
    torch_says(threads=999)(monkeypatch)
    assert "fix: export OMP_NUM_THREADS=" in invoke("doctor", code=5).stderr


def test_limits_of_a_container_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container(monkeypatch, tmp_path, memory_max="2147483648\n", cpu_max="150000 100000\n")
    assert (machine.container_memory(), machine.container_processors()) == (2**31, 1.5)
    assert machine.usable_memory() == 2**31
    container(monkeypatch, tmp_path, memory_max="max\n", cpu_max="max 100000\n")
    assert (machine.container_memory(), machine.container_processors()) == (None, None)


@pytest.mark.slow
def test_smoke_runs_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_says()(monkeypatch)
    (check,) = [one for one in doctor.examine(smoke=True).checks if "smoke" in one.name]
    assert check.ok, check.detail
    assert check.detail.startswith("trained, resumed, merged and decoded")
