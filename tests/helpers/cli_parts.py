"""Fixtures for tests that speak to the command line: tiny bases in folders, a few rows of data, and
a way to run a command in process.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from typer.main import get_command
from typer.testing import CliRunner

from lora_s2s.cli import app
from lora_s2s.demo.task import examples
from lora_s2s.hub import DEMO_BASE

Invoke = Callable[..., Any]

# Typer reads every command's signature anew for each call, which takes most of many a test.
vars(typer.testing)["_get_command"] = cache(get_command)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def invoke(here: Path) -> Invoke:
    """Runs a command line in the empty folder; gives exit_code, stdout and stderr."""

    def run(*words: str, code: int | None = 0, **extra: Any) -> Any:
        result = CliRunner().invoke(app, list(words), catch_exceptions=False, **extra)
        assert code is None or result.exit_code == code, result.stderr
        return result

    return run


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A few rows of the demo task to compare models on: the usual 64 take seconds."""
    return write_bookings(tmp_path_factory.mktemp("few") / "few.csv", 4)


def write_bookings(path: Path, rows: int) -> str:
    """Writes rows of the demo task's test set as a CSV file and returns its path."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("source", "target"), *examples("test", rows)])
    return str(path)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random T5 of a few thousand weights and the bundled base's vocabulary."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), seed=0)


@pytest.fixture(scope="session")
def tiny_nf4_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, its rows whole blocks of nf4."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny-nf4"), seed=0, width=64, inner=128)


def make_tiny_model(folder: Path, *, seed: int, width: int = 16, inner: int = 24) -> Path:
    """Writes a seeded random T5 in Flan's shape, with the bundled base's tokenizer."""
    import torch
    from safetensors.torch import save_file
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=2560,
        d_model=width,
        d_kv=width // 2,
        d_ff=inner,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    weights = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        weights.pop(name, None)
    weights["lm_head.weight"] = torch.randn(2560, width) / 4
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.tie_word_embeddings = False
    config.architectures = ["T5ForConditionalGeneration"]
    config.save_pretrained(folder)
    for path in DEMO_BASE.iterdir():
        if "token" in path.name or path.suffix == ".model" or path.name == "generation_config.json":
            shutil.copyfile(path, folder / path.name)
    return folder


def write_csv(path: Path, rows: int = 40) -> str:
    """Writes a small CSV with the columns question and answer."""
    lines = [
        f"what is the number of house {number} of the street,it is {number}"
        for number in range(rows)
    ]
    path.write_text("\n".join(["question,answer", *lines, ""]), encoding="utf-8")
    return path.name


def listing(folder: Path) -> list[str]:
    """Every path under a folder, dot files included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
