"""Imports the heavy libraries in a child process and says what they see of the devices: a broken
library can end a process without an exception.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

LIBRARIES = "numpy", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "pyarrow"
_SECONDS = 180
_CHILD = """
import importlib, json, logging, sys, warnings
warnings.simplefilter("ignore"); logging.disable(logging.CRITICAL)
sys.modules["kernels"] = None
for name in sys.argv[1:]:
    print(json.dumps({"trying": name}), flush=True)
    try:
        importlib.import_module(name)
    except BaseException as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(json.dumps({"failed": name, "reason": reason}), flush=True)
        continue
    facts = {"imported": name}
    if name == "torch":
        import torch
        facts["cuda_build"] = torch.version.cuda
        facts["threads"] = torch.get_num_threads()
        facts["gpus"] = []
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                facts["cuda"] = torch.cuda.is_available()
            facts["cuda_problem"] = " ".join(str(one.message) for one in said)[:300]
            for place in range(torch.cuda.device_count() if facts["cuda"] else 0):
                about = torch.cuda.get_device_properties(place)
                facts["gpus"].append({
                    "name": about.name, "memory": about.total_memory,
                    "capability": [about.major, about.minor],
                    "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
                    "kernels": torch.cuda.get_arch_list()})
        except Exception as error:
            facts["cuda_problem"] = str(error)[:300]
    print(json.dumps(facts), flush=True)
"""


@dataclass
class Imported:
    """What a child process could import.

    Attributes:
        failed: library → why it could not be imported.
        torch: what torch says of its build and the GPUs; empty if it could not be imported.
    """

    failed: dict[str, str] = field(default_factory=dict)
    torch: Mapping[str, object] = field(default_factory=dict)


def imported(libraries: tuple[str, ...] = LIBRARIES) -> Imported:
    """Imports the libraries in a child process; one that ends it is tried no further."""
    found, left = Imported(), list(libraries)
    while left:
        trying, end = _in_child(left, found)
        if trying is None:
            break
        found.failed[trying] = end
        left = left[left.index(trying) + 1 :]
    return found


def _in_child(libraries: list[str], found: Imported) -> tuple[str | None, str]:
    """The library whose import ended the child, and how; None if the child came to its end."""
    command = [sys.executable, "-c", _CHILD, *libraries]
    try:
        done = subprocess.run(  # noqa: S603  (this interpreter)
            command, capture_output=True, encoding="utf-8", check=False, timeout=_SECONDS
        )
        text, end = done.stdout, f"the import ended the process with code {done.returncode}"
    except subprocess.TimeoutExpired as error:
        text = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        end = f"the import takes longer than {_SECONDS} seconds"
    trying: str | None = None
    for line in text.splitlines():
        facts = json.loads(line) if line.startswith("{") else {}
        trying = facts.get("trying", None if facts else trying)
        if "failed" in facts:
            found.failed[facts["failed"]] = facts["reason"]
        elif facts.get("imported") == "torch":
            found.torch = facts
    return trying, end
