"""Data prepared, and rows answered, by two workers of a Ray cluster on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lora_s2s
from lora_s2s.errors import DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray, with a cluster of two workers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    paths = os.environ.get("PYTHONPATH", "")
    package = str(Path(lora_s2s.__file__).parents[1])
    ray.init(
        num_cpus=2,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": f"{package}:{paths}", "HF_HUB_OFFLINE": "1"}},
    )
    yield ray
    ray.shutdown()


def test_shards_made_by_workers_join_to_one_runs_folder(ray: Any, invoke: Any, here: Path) -> None:
    words = ("prepare", "--data", "demo:train", "--model", "demo")
    invoke(*words, "--out", "one")
    joined = invoke(*words, "--out", "many", "--ray", "3", "--json")
    assert json.loads(joined.stdout)["out"] == "many"
    for name in ("train.arrow", "validation.arrow", "rejected.jsonl", "report.html"):
        assert Path("one", name).read_bytes() == Path("many", name).read_bytes()
    Path("bad.jsonl").write_text('{"source": "a", "target": ""}\n' * 2000)
    from lora_s2s.pipeline.on_ray import prepare_on_ray

    recipe = lora_s2s.load_recipe({"model": {"name": "demo"}, "data": {"train": "bad.jsonl"}})
    with pytest.raises(DataError, match=r"bad\.jsonl"):
        prepare_on_ray(recipe, 2, None)
    assert not Path("prepared/bad").exists()


def test_rows_are_answered_in_order(ray: Any, here: Path) -> None:
    from lora_s2s.pipeline.on_ray import Answers

    texts = [f"table for {number} on friday" for number in range(1, 25)]
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    dataset = ray.data.from_items([{"text": text} for text in texts])
    answered = dataset.map_batches(
        Answers,
        fn_constructor_args=("demo",),
        fn_constructor_kwargs={"column": "text"},
        compute=ray.data.ActorPoolStrategy(size=2),
        batch_size=5,
    ).take_all()
    expected = lora_s2s.load("demo", progress=False)(texts)
    assert [row["prediction"] for row in answered] == expected
    assert [row["text"] for row in answered] == texts
