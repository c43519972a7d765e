"""A tiny base on disk, and an adapter trained (well, stirred) on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapting import adapt
from tiny_adapters import stir, write_tokenizer

from lora_s2s.files import write_json
from lora_s2s.lora.adapter import save_adapter
from lora_s2s.models.loading import load_base


@pytest.fixture
def base_folder(tmp_path: Path, tiny_t5: Callable[..., Any]) -> Callable[..., Path]:
    """Writes a tiny base with its tokenizer: ``base_folder(name, tied=…, gated=…, seed=…)``."""

    def write(name: str = "base", **shape: Any) -> Path:
        folder = tmp_path / name
        tiny_t5(**shape).save_pretrained(folder)
        write_tokenizer(folder)
        return folder

    return write


@pytest.fixture
def adapter_folder(tmp_path: Path, base_folder: Callable[..., Path]) -> Callable[..., Path]:
    """Writes an adapter with its manifest: ``adapter_folder(target_modules=…, tied=…)``; its base
    is ``base/``.
    """

    def write(
        target_modules: Any = "attention-qv", *, dtype: str = "float32", **shape: Any
    ) -> Path:
        base = load_base(str(base_folder(**shape)), dtype=dtype, device="cpu")
        model = adapt(base, r=4, alpha=8, dropout=0.1, target_modules=target_modules, seed=3)
        stir(model)
        folder = tmp_path / "adapter"
        folder.mkdir()
        save_adapter(model, folder)
        record = {
            "name": base.name,
            "revision": None,
            "weights_sha256": base.weights_sha256,
            "dtype": dtype,
        }
        write_json(
            folder / "manifest.json",
            {"format": 1, "base": record, "input": {"max_source_tokens": 6}},
        )
        return folder

    return write
