"""The command-line fixtures, and a good adapter to spoil."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_parts import here, invoke, tiny_model

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
