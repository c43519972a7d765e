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
from preloaded import Preloaded

from lora_s2s import machine
from lora_s2s.pipeline import doctor, imports, versions
from lora_s2s.pipeline.imports import Imported
from lora_s2s.pipeline.versions import Finding

HEALTHY = {"cuda_build": None, "threads": 1, "gpus": [], "cuda": False, "cuda_problem": ""}
GPU = {
    "name": "Tesla T4",
    "memory": 16 * 10**9,
    "capability": [7, 5],
    "bfloat16": False,
    "kernels": ["sm_75", "sm_90"],
}
PROCESSORS = machine.usable_processors()
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


def built_for(torch: str) -> Fault:
    def plant(patch: pytest.MonkeyPatch) -> None:
        version_is("torchvision", "0.20")(patch)
        real = metadata.requires
        needs = [f"torch=={torch}"]
        patch.setattr(
            metadata, "requires", lambda name: needs if name == "torchvision" else real(name)
        )

    return plant


def python_optimizes(level: int) -> Fault:
    flags = SimpleNamespace(optimize=level, utf8_mode=0, dev_mode=False)
    return lambda patch: patch.setattr(sys, "flags", flags)


def free_disk(size: int) -> Fault:
    usage = SimpleNamespace(total=10**12, used=9, free=size)
    return lambda patch: patch.setattr(shutil, "disk_usage", lambda _: usage)


def memory_is(size: int, *, allowed: int | None = None) -> Fault:
    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(machine, "physical_memory", lambda: size)
        patch.setattr(machine, "container_memory", lambda: allowed)

    return plant


def locked_cache(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("HF_HOME", "/none/of/these/exists")
    patch.setattr("os.access", lambda path, _: str(path) != "/")


def on_colab(**facts: object) -> Fault:
    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setenv("COLAB_RELEASE_TAG", "1")
        torch_says(**facts)(patch)

    return plant


def container(patch: pytest.MonkeyPatch, path: Path, **files: str) -> None:
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text, encoding="utf-8")
    patch.setattr(machine, "CGROUP", path)


FAULTS: dict[str, tuple[Fault, str, str]] = {
    "a library is missing": (version_is("peft", None), "peft", "pip install -U"),
    "a library is too old": (version_is("transformers", "4.57.1"), "transformers", ">=5.3"),
    "a combination fails": (version_is("optimum-onnx", "0.1"), "optimum-onnx 0.1", "uninstall"),
    "torchvision for another torch": (built_for("2.5.0"), "torchvision", "pip install -U"),
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
    "an old GPU": (
        torch_says(cuda=True, gpus=[{**GPU, "capability": [6, 1], "kernels": ["sm_60"]}]),
        "gpu",
        "use another GPU",
    ),
    "more threads than processors": (
        torch_says(threads=999),
        "threads",
        f"OMP_NUM_THREADS={PROCESSORS}",
    ),
    "a full disk": (
        free_disk(5 * 10**9 - 1),
        "model cache",
        "export HF_HOME",
    ),
    "a cache that cannot be written": (locked_cache, "model cache", "export HF_HOME"),
    "a small container": (
        memory_is(10**11, allowed=3 * 10**9 - 1),
        "memory",
        "docker run --memory",
    ),
    "a small machine": (memory_is(10**9), "memory", "train a small base"),
    "a notebook without its GPU": (on_colab(), "Google Colab", "Change runtime type"),
    "python -OO": (python_optimizes(2), "python", "PYTHONOPTIMIZE"),
}
DETAILS = {
    "an old driver": "driver too old",
    "a small container": "the container allows 3.0 GB",
    "a small machine": "this machine has 1.0 GB",
}
# Close to a fault, and none.
FINE: dict[str, Fault] = {
    "python -O": python_optimizes(1),
    "kernels of the same generation": torch_says(cuda=True, gpus=[{**GPU, "kernels": ["sm_70"]}]),
    "the oldest GPU": torch_says(cuda=True, gpus=[{**GPU, "capability": [7, 0]}]),
    "a GPU with its driver": with_driver(cuda_build="12.9", cuda=True, gpus=[GPU]),
    "as many threads as processors": torch_says(threads=PROCESSORS),
    "a disk with space": free_disk(5 * 10**9),
    "a container of 3 GB": memory_is(10**11, allowed=3 * 10**9),
    "a notebook with its GPU": on_colab(cuda=True, gpus=[GPU]),
    "torchvision for this torch": built_for(str(versions.installed("torch")).partition("+")[0]),
    "the lowest version": version_is("transformers", "5.3"),
    "kernels unknown": torch_says(cuda=True, gpus=[{**GPU, "kernels": []}]),
    "memory unknown": lambda patch: patch.setattr(machine, "usable_memory", lambda: None),
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
    assert DETAILS.get(fault, "") in check.detail
    # Nothing else than what the fault brings with it.
    assert {one.name for one in report.checks if not one.ok} - healthy <= {
        name,
        *(("current folder", "temporary folder") if "disk" in fault else ()),
    }


@pytest.mark.parametrize("plant", FINE.values(), ids=FINE)
def test_what_is_just_enough_is_no_fault(plant: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "driver", lambda: None)
    torch_says()(monkeypatch)
    memory_is(10**11)(monkeypatch)
    free_disk(10**12)(monkeypatch)
    plant(monkeypatch)
    assert [check for check in doctor.examine().checks if not check.ok] == []


def test_what_a_place_allows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_says()(monkeypatch)
    monkeypatch.setattr(machine, "surroundings", lambda: ["WSL", "Apple silicon", "a container"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = {one.name: one.detail for one in doctor.examine().checks}
    assert ".wslconfig" in found["WSL"]
    assert "on the CPU" in found["Apple silicon"]
    assert found["a container"] == "recognized"
    assert "HF_HUB_OFFLINE is set" in found["hub"]


def test_combinations_are_known_by_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {
        "peft": {"0.15.2": False, "0.16": None, "0.20": None},
        "ctranslate2": {"4.7.1": False, "4.8.0": None},
        "transformers": {"4.57": None, "5.0.0": True, "5.23.1": True, "5.24.0": None},
        "bitsandbytes": {"0.49.2": None, "0.50.1": True, "0.51": None},
    }
    for package, outcomes in expected.items():
        for version, ok in outcomes.items():
            version_is(package, version)(monkeypatch)
            findings = {one.name: one.ok for one in versions.version_findings()}
            assert findings.get(f"{package} {version}") is ok, (package, version)
            monkeypatch.undo()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo '550.54, Tesla T4'; echo '550.54, another'", "550.54, Tesla T4"),
        ("echo 'NVIDIA-SMI has failed'; exit 9", None),
        ("exit 0", None),
    ],
)
def test_the_driver_is_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: str | None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    assert doctor.driver() == expected


def test_smoke_runs_on_each_device_and_a_failure_is_a_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch_says(cuda=True, gpus=[GPU])(monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    shown = "import os; shown = os.environ.get('CUDA_VISIBLE_DEVICES'); print([shown])"
    monkeypatch.setattr(doctor, "_SMOKE", f"{shown}; shown is None and 1 / 0")
    cpu, cuda = (one for one in doctor.examine(smoke=True).checks if "smoke" in one.name)
    assert cpu == Finding("smoke on cpu", True, "['']")
    assert (cuda.name, cuda.ok) == ("smoke on cuda", False)
    assert cuda.detail == "ZeroDivisionError: division by zero"
    assert "--debug" in cuda.fix


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
    checks = doctor.examine(smoke=True).checks
    (check,) = [one for one in checks if one.name == "import torch"]
    assert check.fix == "pip install --force-reinstall --no-deps torch"
    names = {one.name for one in checks}
    assert names.isdisjoint({"imports", "gpu", "smoke on cpu"})


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
def test_smoke_runs_every_step(tmp_path: Path, preloaded: Preloaded) -> None:
    script, folder = tmp_path / "smoke.py", tmp_path / "empty"
    script.write_text(doctor._SMOKE, encoding="utf-8")
    folder.mkdir()
    done = preloaded.run(tmp_path, str(folder), script=str(script))
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("trained, resumed, merged and decoded")
