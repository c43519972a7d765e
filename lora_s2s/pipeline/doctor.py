"""What is wrong with this environment, each with the command that fixes it. Light to import: a
library that is missing or broken is a finding.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_s2s import machine
from lora_s2s.machine import sized
from lora_s2s.pipeline.imports import Imported, imported
from lora_s2s.pipeline.versions import Finding, version_findings

_LITTLE_DISK, _LITTLE_MEMORY = 5 * 10**9, 3 * 10**9
_OLDEST_GPU = (7, 0)  # older ones have no float16 products worth the name
_INSTALL_TORCH = "pip install --force-reinstall torch (https://pytorch.org/get-started names the "
_SMOKE_SECONDS = 300
_SMOKE = "import sys; from lora_s2s.pipeline.smoke import smoke; print(smoke(sys.argv[1]))"


@dataclass(frozen=True)
class Report:
    """All findings; ``ok`` if each is."""

    checks: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The object of ``doctor --json``."""
        return {"ok": self.ok, "checks": [asdict(check) for check in self.checks]}


def examine(*, smoke: bool = False) -> Report:
    """Checks the environment.

    Args:
        smoke: trains, resumes, merges and decodes a tiny model on each device.
    """
    libraries = imported()
    findings = [
        *_python(),
        *version_findings(),
        *_imports(libraries),
        *_gpus(libraries),
        *_processors(libraries.torch),
        *_memory(),
        *_disks(),
        *_hub(),
        *_places(libraries),
    ]
    if smoke and not libraries.failed:
        findings += _smoke(libraries)
    return Report(findings)


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.flags.optimize > 1:
        detail = "python -OO drops the docstrings that transformers cannot be imported without"
        yield Finding("python", False, detail, "unset PYTHONOPTIMIZE, and run python without -OO")
    else:
        yield Finding("python", True, version)


def _imports(libraries: Imported) -> Iterator[Finding]:
    for name, reason in libraries.failed.items():
        yield Finding(
            f"import {name}", False, reason, f"pip install --force-reinstall --no-deps {name}"
        )
    if not libraries.failed:
        yield Finding("imports", True, "every library can be imported")


def driver() -> str | None:
    """The version of the NVIDIA driver, and the GPU's name; None if there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(  # noqa: S603  (found in PATH, with fixed words)
            query, capture_output=True, encoding="utf-8", check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[0] if not done.returncode and done.stdout else None


def _gpus(libraries: Imported) -> Iterator[Finding]:
    torch, card = libraries.torch, driver()
    if not torch:
        return
    gpus = torch.get("gpus")
    if isinstance(gpus, list) and gpus:
        for gpu in gpus:
            yield _gpu(gpu)
    elif card and not torch.get("cuda_build"):
        detail = f"driver {card}, but this torch is a build for CPUs"
        yield Finding("gpu", False, detail, f"{_INSTALL_TORCH}command for your CUDA)")
    elif card:
        detail = f"driver {card}; torch for CUDA {torch.get('cuda_build')} cannot use it"
        problem = torch.get("cuda_problem")
        fix = "update the NVIDIA driver, or install torch for an older CUDA"
        yield Finding("gpu", False, f"{detail}: {problem}" if problem else detail, fix)
    else:
        yield Finding("gpu", True, "none: training runs on the CPU")


def _gpu(gpu: Mapping[str, Any]) -> Finding:
    major, minor = gpu["capability"]
    name = f"{gpu['name']}, {sized(gpu['memory'])}, compute capability {major}.{minor}"
    kernels = [str(word).removeprefix("sm_") for word in gpu["kernels"] if "sm_" in str(word)]
    same = [word for word in kernels if word[:-1] == str(major)]
    if kernels and not same:
        detail = f"{name}: this torch has kernels for {', '.join(kernels)} only"
        return Finding("gpu", False, detail, f"{_INSTALL_TORCH}one that supports this GPU)")
    if (major, minor) < _OLDEST_GPU:
        fix = "use another GPU, or the CPU: CUDA_VISIBLE_DEVICES= lora-s2s train …"
        return Finding("gpu", False, f"{name}: too old for fast products in 16 bits", fix)
    dtype = "bfloat16" if gpu["bfloat16"] else "float16, as it lacks bfloat16"
    return Finding("gpu", True, f"{name}: trains in {dtype}")


def _processors(torch: Mapping[str, object]) -> Iterator[Finding]:
    usable, threads = machine.usable_processors(), torch.get("threads")
    features = ", ".join(machine.processor_features()) or "no vector features known"
    detail = f"{usable} processors, {features}"
    if isinstance(threads, int) and threads > usable:
        detail = f"torch uses {threads} threads on {usable} processors, which slows each step"
        yield Finding("threads", False, detail, f"export OMP_NUM_THREADS={usable}")
    else:
        yield Finding("threads", True, detail + (f", {threads} threads" if threads else ""))


def _memory() -> Iterator[Finding]:
    size, limit = machine.usable_memory(), machine.container_memory()
    if size is None:
        return
    where = "the container allows" if limit == size else "this machine has"
    if size < _LITTLE_MEMORY:
        fix = (
            "start the container with more (docker run --memory 8g)"
            if limit == size
            else "train a small base (--set model.name=demo), or use a machine with more"
        )
        yield Finding("memory", False, f"{where} {sized(size)}: too little for most bases", fix)
    else:
        yield Finding("memory", True, f"{where} {sized(size)}")


def _disks() -> Iterator[Finding]:
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    for name, folder, variable in (
        ("current folder", Path.cwd(), "cd to a folder on another disk"),
        ("temporary folder", Path(tempfile.gettempdir()), "export TMPDIR=/path/with/space"),
        ("model cache", Path(home).expanduser(), "export HF_HOME=/path/with/space"),
    ):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(existing, os.W_OK):
            yield Finding(name, False, f"{folder} cannot be written", variable)
        elif (free := shutil.disk_usage(existing).free) < _LITTLE_DISK:
            detail = f"{sized(free)} free at {folder}; a base and its runs take gigabytes"
            yield Finding(name, False, detail, variable)
        else:
            yield Finding(name, True, f"{sized(free)} free at {folder}")


def _hub() -> Iterator[Finding]:
    try:
        from lora_s2s.hub import has_token, is_offline
    except ImportError:
        return  # reported with the versions
    token = "a token is set" if has_token() else "no token: public models only (hf auth login)"
    offline = "; offline: HF_HUB_OFFLINE is set" if is_offline() else ""
    yield Finding("hub", True, f"{token}{offline}")


def _places(libraries: Imported) -> Iterator[Finding]:
    gpu = bool(libraries.torch.get("cuda"))
    advice = {
        "Google Colab": "Runtime > Change runtime type > T4 GPU",
        "Kaggle": "Settings > Accelerator > GPU T4 x2, and Internet on",
    }
    for place in machine.surroundings():
        if place in advice and libraries.torch and not gpu:
            yield Finding(place, False, "no GPU in this notebook", advice[place])
        elif place == "WSL":
            yield Finding(place, True, "memory is limited by [wsl2] memory= in .wslconfig")
        elif place == "Apple silicon":
            yield Finding(place, True, "models run on the CPU; nf4 and int8 need bitsandbytes")
        else:
            yield Finding(place, True, "recognized")


def _smoke(libraries: Imported) -> Iterator[Finding]:
    """Trains a tiny model on each device, in a process of its own."""
    devices = {"cpu": {"CUDA_VISIBLE_DEVICES": ""}}
    if libraries.torch.get("cuda"):
        devices["cuda"] = {}
    for name, changes in devices.items():
        with tempfile.TemporaryDirectory(prefix="lora-s2s-") as folder:
            yield _smoked(name, folder, {**os.environ, **changes})


def _smoked(device: str, folder: str, environment: Mapping[str, str]) -> Finding:
    command = [sys.executable, "-c", _SMOKE, folder]
    try:
        done = subprocess.run(  # noqa: S603  (this interpreter)
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_SMOKE_SECONDS,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        detail = f"not done after {_SMOKE_SECONDS} seconds"
        return Finding(f"smoke on {device}", False, detail, "export OMP_NUM_THREADS=1, try again")
    said = (done.stdout if not done.returncode else done.stderr).strip().splitlines() or [""]
    fix = "" if not done.returncode else "lora-s2s demo --debug shows where it fails"
    return Finding(f"smoke on {device}", not done.returncode, said[-1][:300], fix)
