"""Fixtures of all tests: a tiny T5 in Flan's shape built in code, a tiny tokenizer, the bundled
base, the command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from preloaded import Preloaded

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["NO_COLOR"] = "1"
# With as many threads as a busy machine leaves free, two runs could differ in their last digits.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from lora_s2s import limits, machine, probe
from lora_s2s.hub import DEMO_BASE
from lora_s2s.models import host_memory
from lora_s2s.tokens import probe_child

pytest_plugins = ("cli_parts", "letter_tokenizer")


@pytest.fixture(scope="session", autouse=True)
def opened_in_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a child process would open first is opened in this one: a child for every tiny model
    takes a second. ``tests/hostile/test_probe.py`` starts real ones.

    No other program is looked for, and no freed memory returned.
    """

    def tried(folder: Path) -> probe.Failure | None:
        stages = ["start"]
        bounds = {"growth": limits.MOST_GROWTH_SEEN, "token": limits.LONGEST_TOKEN}
        end = probe_child.opened(folder, bounds, stages.append)
        return None if end is None else probe.Failure(stages[-1], end["kind"], end["reason"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "_tried", tried)
        patch.setattr(machine, "_processors_of_others", lambda: 0.0)
        patch.setattr(host_memory, "_glibc", lambda _: None)
        patch.setenv("LORA_S2S_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def preloaded() -> Iterator[Preloaded]:
    """Runs command lines in forks of one process."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("forks and the names of open files need Linux")
    from preloaded import Preloaded

    with Preloaded() as process:
        yield process


@pytest.fixture(scope="session")
def demo_base() -> Path:
    """The folder of the bundled base."""
    return DEMO_BASE


@pytest.fixture
def tiny_t5() -> Callable[..., object]:
    """Builds a seeded T5ForConditionalGeneration with random weights: ``tiny_t5(tied=False,
    gated=True, seed=0)``.
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    def build(
        *, tied: bool = False, gated: bool = True, seed: int = 0, **changes: object
    ) -> T5ForConditionalGeneration:
        torch.manual_seed(seed)
        settings = {
            "vocab_size": 256,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 3,
            "feed_forward_proj": "gated-gelu" if gated else "relu",
            "dropout_rate": 0.1,
            "tie_word_embeddings": tied,
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": 1,
        }
        model = T5ForConditionalGeneration(T5Config(**{**settings, **changes}))
        if not tied:
            # transformers 5 ties whatever the config says, and its initial head has std 1: give it
            # a head of its own.
            head_VD = (
                torch.randn(model.config.vocab_size, model.config.d_model)
                * model.config.d_model**-0.5
            )
            model.lm_head.weight = torch.nn.Parameter(head_VD)
            model.config.tie_word_embeddings = False
        return model.eval()

    return build


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Writes a text file, newlines as given, and returns its path."""

    def writer(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8"))
        return str(path)

    return writer
