"""A good adapter to spoil, and the bounds of every refusal."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from case import MEMORY, SECONDS, SECONDS_ON_THE_CLOCK
from resident_memory import rise


@pytest.fixture(scope="session")
def good_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An adapter on the tiny model, with its manifest."""
    from adapting import adapt

    from lora_s2s.lora.adapter import save_adapter
    from lora_s2s.models.loading import load_base

    base = load_base(str(tiny_model), device="cpu")
    folder = tmp_path_factory.mktemp("adapters") / "good"
    folder.mkdir()
    save_adapter(adapt(base, r=2, alpha=4, dropout=0, target_modules=["q"], seed=0), folder)
    record = {"name": str(tiny_model), "revision": None, "weights_sha256": base.weights_sha256}
    (folder / "manifest.json").write_text(
        json.dumps({"format": 1, "base": record}), encoding="utf-8"
    )
    return folder


def _late(*_signal: object) -> None:
    raise AssertionError(f"more than {SECONDS} seconds of CPU, or {SECONDS_ON_THE_CLOCK} in all")


@pytest.fixture
def bounded() -> Iterator[None]:
    """At most ``SECONDS`` and ``MEMORY``, on Linux."""
    if sys.platform != "linux":  # others have no such account, Windows no such alarm
        yield
        return
    risen = rise()
    handlers = {number: signal.signal(number, _late) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(SECONDS_ON_THE_CLOCK)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    yield
    signal.alarm(0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert risen() < MEMORY
