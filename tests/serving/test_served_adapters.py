"""Several adapters over one copy of their base: each answers as it does alone, in mixed batches
too.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import adapt
from fastapi.testclient import TestClient

from lora_s2s.errors import DataError, UsageError
from lora_s2s.inference.decode import Prediction, decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_predictor, load_sharing
from lora_s2s.lora.adapter import save_adapter
from lora_s2s.models.loading import load_base
from lora_s2s.pipeline.names import named_models
from lora_s2s.serving import batcher
from lora_s2s.serving.app import create_app
from lora_s2s.serving.batcher import Job, compute
from lora_s2s.serving.models import load_models
from lora_s2s.serving.service import Limits, Service

TEXTS = ["w1 w2 w3", "w9", "w7 w7 w20 w31 w4 w5", "w50 w60"]
Adapter = Callable[..., Path]


@pytest.fixture
def base(tiny_predictor: Callable[..., Any], tmp_path: Path) -> Path:
    return write_base(tiny_predictor(), tmp_path / "base")


def write_base(made: Any, folder: Path) -> Path:
    made.torch.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    # save_pretrained claims tied weights whatever the checkpoint holds.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    untied = {**config, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(untied), encoding="utf-8")
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Adapter:
    """``adapter(name, seed, method=)``: a folder of an adapter with weights of its own."""

    def write(name: str, seed: int, on: Path = base, **lora: Any) -> Path:
        loaded = load_base(str(on))
        settings = {"r": 4, "alpha": 32, "dropout": 0.0, "target_modules": "all-linear", **lora}
        model = adapt(loaded, seed=0, **settings)
        torch.manual_seed(seed)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_B" in key:
                    weight.normal_()
        folder = tmp_path / name
        folder.mkdir()
        save_adapter(model, folder)
        about = {"name": str(on), "revision": None, "weights_sha256": loaded.weights_sha256}
        template = {"input": {"template": f"w{seed} {{text}}", "max_source_tokens": 4 + seed}}
        manifest = json.dumps({"format": 1, "base": about, **template})
        (folder / "manifest.json").write_text(manifest, encoding="utf-8")
        return folder

    return write


def answers(predictor: Any, **settings: int) -> list[str]:
    sources = [predictor.render(text) for text in TEXTS]
    limits = DecodingSettings(max_new_tokens=8, **settings)
    return [answer.text for answer in decode(predictor, sources, limits)]


@pytest.mark.parametrize("with_base", [True, False])
def test_adapters_share_the_base_and_answer_as_alone(
    base: Path, adapter: Adapter, with_base: bool
) -> None:
    folders = [adapter("one", 1), adapter("two", 2, target_modules="attention-qv", r=2)]
    folders += [adapter("three", 3, method="rslora")]
    names = [*map(str, [base] * with_base + folders)]
    alone = [answers(load_predictor(name)) for name in names]
    assert len({*map(tuple, alone)}) == len(names)
    shared = load_sharing(names)
    assert len({id(predictor.torch.model) for predictor in shared}) == 1
    for _ in range(2):
        assert [answers(predictor) for predictor in shared] == alone
    assert [answers(predictor) for predictor in shared[::-1]] == alone[::-1]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_one_batch_mixes_adapters_and_the_base(
    base: Path, adapter: Adapter, num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(base), str(adapter("one", 1)), str(adapter("two", 2))]
    sets = [f"evaluation.num_beams={num_beams}", "evaluation.max_new_tokens=8"]
    served = load_models(named_models(names), sets)
    assert [model.name for model in served] == ["base", "one", "two"]
    expected = {
        model.name: answers(load_predictor(name), num_beams=num_beams)
        for model, name in zip(served, names, strict=True)
    }
    service = Service(served, Limits())
    batches: list[set[str]] = []
    go = threading.Event()

    def held(batch: Sequence[Job]) -> list[Prediction]:
        assert go.wait(120)
        batches.append({job.served.name for job in batch})
        return compute(batch)

    monkeypatch.setattr(batcher, "compute", held)
    with TestClient(create_app(service), base_url="http://localhost") as client:

        def asked(name: str) -> list[str]:
            body = client.post("/v1/completions", json={"model": name, "prompt": TEXTS}).json()
            return [choice["text"] for choice in body["choices"]]

        with ThreadPoolExecutor(6) as pool:
            futures = [(name, pool.submit(asked, name)) for name in [*expected, *expected]]
            deadline = time.monotonic() + 120
            # One batch is held; the others wait.
            while service.batcher.waiting < 16:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            go.set()
            for name, future in futures:
                assert future.result() == expected[name]
    assert {"base", "one", "two"} in batches


def test_what_cannot_share_a_base_is_refused(
    base: Path, adapter: Adapter, tiny_predictor: Callable[..., Any], tmp_path: Path
) -> None:
    one, dora = adapter("one", 1), adapter("dora", 2, method="dora")
    other = write_base(tiny_predictor(seed=5), tmp_path / "other")
    far = adapter("far", 3, on=other)
    for names, message in (
        ((one, dora), "another method than lora or rslora cannot share its base"),
        ((dora, one), "another method than lora or rslora cannot share its base"),
        ((one, far), "was trained on"),
        ((base, far), "was trained on"),
    ):
        with pytest.raises(DataError, match=message):
            load_sharing([*map(str, names)])
    for names in ((one, base), (base, base), (base, tmp_path / "gone")):
        with pytest.raises(UsageError, match="is not an adapter for"):
            load_sharing([*map(str, names)])
    # With its base alone, any method may be served.
    assert answers(load_sharing([str(base), str(dora)])[1]) == answers(load_predictor(str(dora)))
