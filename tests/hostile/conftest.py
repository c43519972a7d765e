"""The command-line fixtures, a good adapter to spoil, and the bounds of every refusal."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_parts import here, invoke, tiny_model

_PROCESS = Path("/proc/self")
__all__ = ["good_adapter", "here", "invoke", "tiny_model"]


@pytest.fixture(scope="session")
def good_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An adapter on the tiny model, with its manifest."""
    from lora_s2s.lora.adapter import save_adapter
    from lora_s2s.lora.inject import inject_lora
    from lora_s2s.models.loading import load_base

    base = load_base(str(tiny_model), device="cpu")
    folder = tmp_path_factory.mktemp("adapters") / "good"
    folder.mkdir()
    save_adapter(inject_lora(base, r=2, alpha=4, dropout=0, target_modules=["q"], seed=0), folder)
    record = {"name": str(tiny_model), "revision": None, "weights_sha256": base.weights_sha256}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "base": record}), encoding="utf-8")
    return folder


def _resident(peak: bool) -> int:
    """Returns the resident bytes of this process: now, or at most since the peak was set back; 0 where unknown."""
    status = _PROCESS / "status"
    found = re.search(rf"Vm{'HWM' if peak else 'RSS'}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


def _late(*_signal: object) -> None:
    raise AssertionError("more than ten seconds")


@pytest.fixture
def bounded() -> Iterator[None]:
    """At most ten seconds and 1 GB."""
    if (_PROCESS / "clear_refs").exists():
        (_PROCESS / "clear_refs").write_text("5")  # sets the peak back
    before = _resident(peak=False)
    if hasattr(signal, "SIGALRM"):  # Windows has none
        signal.signal(signal.SIGALRM, _late)
        signal.alarm(10)
    yield
    if hasattr(signal, "SIGALRM"):
        signal.alarm(0)
    assert _resident(peak=True) - before < 10**9
