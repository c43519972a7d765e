"""Versions of libraries: what this package requires, and combinations known to fail. Imports none
of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

Version = tuple[int, ...]
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*([^;]*)(;.*)?")
_BOUND = re.compile(r"(>=|<=|==|!=|<|>)\s*([0-9][0-9.]*)")
_COMPARED: Mapping[str, Callable[[Version, Version], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a[: len(b)] == b,
    "!=": lambda a, b: a[: len(b)] != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}
# Built for one version of torch each; with another, transformers cannot be imported.
_BUILT_FOR_TORCH = ("torchvision", "torchaudio")


@dataclass(frozen=True)
class KnownBad:
    """A package that fails, or needs care, in some versions (``bounds`` as in requirements)."""

    package: str
    bounds: str
    problem: str
    fix: str
    fails: bool = True


KNOWN_BAD = (
    KnownBad(
        "optimum-onnx",
        "",
        "it needs transformers below 4.58, which this package does not run on",
        "pip uninstall -y optimum-onnx (lora-s2s export --format onnx does without it)",
    ),
    KnownBad(
        "peft",
        "<0.16",
        "it loads OFT adapters of newer versions without effect and without an error",
        'pip install -U "peft>=0.20"',
    ),
    KnownBad(
        "ctranslate2",
        "<4.8",
        "it does not load T5Gemma 2, and beam searches of Flan-T5 differ",
        'pip install -U "ctranslate2>=4.8"',
    ),
    KnownBad(
        "transformers",
        ">=5.0,<5.24",
        "plain transformers scales the logits of an untied UMT5 wrongly; this package corrects it",
        'for other programs: pip install -U "transformers>=5.24,<6"',
        fails=False,
    ),
    KnownBad(
        "bitsandbytes",
        ">=0.50,<0.51",
        "on a CPU, nf4 needs rows that are a multiple of 64; other bases are refused",
        "set model.quantization=int8 for such a base",
        fails=False,
    ),
)


@dataclass(frozen=True)
class Finding:
    """A check of ``doctor``: what was found, and the command that fixes it (empty if ``ok``)."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


def installed(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def number(text: str) -> Version:
    """The numbers of a version: ``2.13.0+cpu`` is (2, 13, 0)."""
    release = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def within(version: str, bounds: str) -> bool:
    """Whether a version meets every bound."""
    found = number(version)
    return all(_COMPARED[sign](found, number(bound)) for sign, bound in _BOUND.findall(bounds))


def requirements() -> Iterator[tuple[str, str]]:
    """This package's requirements as name and bounds, extras left out."""
    try:
        lines = metadata.requires("lora-s2s") or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        match = _REQUIREMENT.fullmatch(line)
        if match and not match[3]:
            yield match[1], match[2].strip()


def version_findings() -> Iterator[Finding]:
    """One finding for each requirement that is not met, and for each known-bad combination."""
    unmet = 0
    for name, bounds in requirements():
        version = installed(name)
        if version is None or not within(version, bounds):
            unmet += 1
            detail = f"{version}, expected {bounds}" if version else "not installed"
            yield Finding(name, False, detail, f'pip install -U "{name}{bounds}"')
    if not unmet:
        shown = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
        versions = ", ".join(f"{name} {installed(name)}" for name in shown)
        yield Finding("versions", True, versions)
    yield from _combinations()


def _combinations() -> Iterator[Finding]:
    for bad in KNOWN_BAD:
        version = installed(bad.package)
        if version is not None and within(version, bad.bounds):
            yield Finding(f"{bad.package} {version}", not bad.fails, bad.problem, bad.fix)
    torch = installed("torch")
    for name in _BUILT_FOR_TORCH:
        if torch is None or installed(name) is None:
            continue
        for line in metadata.requires(name) or []:
            match = _REQUIREMENT.fullmatch(line)
            if match and match[1] == "torch" and not within(torch, match[2]):
                detail = f"built for torch {match[2].lstrip('=')}, and torch is {torch}"
                fix = f"pip install -U {name} torch (or pip uninstall -y {name}: it is not needed)"
                yield Finding(name, False, detail, fix)
