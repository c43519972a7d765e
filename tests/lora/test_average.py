"""Averages of adapters: of updates exactly, by PEFT's methods, of the weights themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import adapt
from cli_parts import Invoke, write_csv
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from tiny_adapters import stir

import lora_s2s
from lora_s2s.errors import DataError, UsageError
from lora_s2s.files import write_json
from lora_s2s.lora.adapter import load_adapter, save_adapter
from lora_s2s.lora.average import How, Member, average
from lora_s2s.lora.several import add_adapter
from lora_s2s.models.loading import load_base
from lora_s2s.pipeline.average import average_adapters

Write = Callable[..., str]


@pytest.fixture
def written(tmp_path: Path, base_folder: Callable[..., Path]) -> Write:
    """Writes an adapter on the same tiny base: ``written("a", r=3, method="rslora")``."""
    places: dict[str, Path] = {}

    def write(name: str, *, base: str = "base", **how: Any) -> str:
        if base not in places:
            places[base] = base_folder(base, seed=len(places))
        place = places[base]
        loaded = load_base(str(place), dtype="float32", device="cpu")
        settings = {"r": 4, "alpha": 8, "target_modules": "attention-qv", **how}
        model = adapt(loaded, seed=len(name), **settings)
        stir(model, seed=sum(map(ord, name)), only="")
        folder = tmp_path / name
        folder.mkdir()
        save_adapter(model, folder)
        record = {"name": str(place), "weights_sha256": loaded.weights_sha256}
        write_json(folder / "manifest.json", {"format": 1, "base": record})
        return str(folder)

    return write


def updates(folder: str | Path) -> dict[str, torch.Tensor]:
    model = load_adapter(folder, device="cpu").model
    return {
        name: module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert {*one} == {*other}
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], atol=1e-5), name


def test_linear_is_the_exact_mean_of_updates_whatever_their_ranks(
    written: Write, tmp_path: Path
) -> None:
    names = [
        written("a", ranks={"o": 2}, target_modules=["q", "o"]),
        written("bb", r=3, method="rslora", target_modules=["q", "o"]),
    ]
    made = average_adapters(names, tmp_path / "mean", How(), weights=[3, 1])
    assert (made.rank, made.error, list(made.of.values())) == (7, 0.0, [0.75, 0.25])
    one, other = map(updates, names)
    mean = {name: 0.75 * one[name] + 0.25 * other[name] for name in one}
    close(updates(made.out), mean)
    whole = average_adapters(names, tmp_path / "svd", How("svd", rank=7), weights=[3, 1])
    close(updates(whole.out), mean)
    assert whole.error < 1e-5
    part = average_adapters(names, tmp_path / "low", How("svd", rank=1))
    assert (part.rank, 0.1 < part.error < 1) == (1, True)
    manifest = json.loads((part.out / "manifest.json").read_text())
    assert manifest["averaged"]["of"] == ["a", "bb"]
    assert "averaged method" in (part.out / "README.md").read_text()


def test_ties_is_pefts_and_dare_the_same_every_time(written: Write, tmp_path: Path) -> None:
    names = [written("a"), written("bb"), written("ccc")]
    how = How("ties", density=0.4, rank=24)
    made = average_adapters(names, tmp_path / "made", how, weights=[5, 3, 2])
    first = load_adapter(names[0], device="cpu")
    for name in names[1:]:
        add_adapter(first, Path(name), Path(name).name)
    first.model.base_model.add_weighted_adapter(
        ["default", "bb", "ccc"],
        [1.5, 0.9, 0.6],  # TIES takes the mean of those that agree by itself
        "mixed",
        combination_type="ties_svd",
        svd_rank=24,
        density=0.4,
    )
    theirs = {
        name: module.get_delta_weight("mixed").detach()
        for name, module in first.model.named_modules()
        if isinstance(module, LoraLayer)
    }
    close(updates(made.out), theirs)
    how = How("dare_linear", density=0.4)
    one, other = (average_adapters(names, tmp_path / name, how).out for name in ("one", "other"))
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (one, other)]
    assert weights[0] == weights[1]
    nothing = How("dare_linear", density=1 - 1e-7, rank=12)
    mean = average_adapters(names, tmp_path / "mean", How())
    close(updates(average_adapters(names, tmp_path / "all", nothing).out), updates(mean.out))


def test_dare_scales_what_it_keeps_and_its_ties_weigh_the_adapters() -> None:
    chance = torch.Generator().manual_seed(0)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    members = []
    for share in (0.75, 0.25):
        down, up = (torch.randn(shape, generator=chance) for shape in ((2, 40), (40, 2)))
        state = {"m.lora_A.weight": down, "m.lora_B.weight": up}
        members.append(Member("", share, config, state))

    def update(how: How) -> torch.Tensor:
        return product(average(members, how).state)

    def product(state: dict[str, torch.Tensor]) -> torch.Tensor:
        return state["m.lora_B.weight"] @ state["m.lora_A.weight"]

    parts = [product(member.state) for member in members]
    one, other = 2 * 0.75 * parts[0], 2 * 0.25 * parts[1]
    made = update(How("dare_linear", rank=40))  # keeps a half
    kept = torch.stack([torch.zeros_like(one), one, other, one + other])
    nearest = (made - kept).abs().argmin(dim=0)
    assert torch.allclose(made, kept.gather(0, nearest[None])[0], atol=1e-4)
    shares = torch.bincount(nearest.flatten(), minlength=4) / nearest.numel()
    assert torch.allclose(shares, torch.full((4,), 0.25), atol=0.05)
    assert not torch.allclose(update(How("dare_linear", rank=40, seed=1)), made, atol=1e-4)
    # TIES counts signs before it weighs, as PEFT does.
    made = update(How("dare_ties", density=1 - 1e-7, rank=40))
    agree = torch.stack(parts).sign() == (parts[0] + parts[1]).sign()
    weighted = torch.stack([1.5 * parts[0], 0.5 * parts[1]]) * agree
    assert torch.allclose(made, weighted.sum(dim=0) / agree.sum(dim=0).clamp(min=1), atol=1e-4)


def test_factors_are_the_mean_of_the_weights_of_any_method(written: Write, tmp_path: Path) -> None:
    names = [written("a", method="dora"), written("bb", method="dora")]
    with pytest.raises(UsageError, match="a is DoRA"):
        average_adapters(names, tmp_path / "out", How())
    made = average_adapters(names, tmp_path / "out", How("factors"))
    one, other, mean = (
        load_file(Path(name) / "adapter_model.safetensors") for name in [*names, str(made.out)]
    )
    close(mean, {name: (one[name] + other[name]) / 2 for name in one})
    load_adapter(made.out, device="cpu")


def test_what_does_not_belong_together_is_refused(written: Write, tmp_path: Path) -> None:
    first, out = written("a"), tmp_path / "out"
    wrong: list[tuple[list[str], How, str]] = [
        ([first], How(), "two adapters or more, got 1"),
        ([first, first], How(), "is named twice"),
        ([first, written("bb", base="other")], How(), "the adapter was trained on"),
        ([first, written("cc", target_modules=["q"])], How(), "adapt other modules"),
        ([first, written("dd", method="dora")], How(), "differ in their method"),
        ([first, written("ee", r=2)], How("factors"), "differ in the rank"),
        ([first, written("ff", alpha=4)], How("factors"), "lora_alpha is 8 and 4"),
        ([first, written("gg", method="ia3")], How("factors"), "differ in their method"),
    ]
    for names, how, problem in wrong:
        with pytest.raises((UsageError, DataError), match=problem):
            average_adapters(names, out, how)
    for weights in ([1.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(UsageError, match="weights"):
            average_adapters([first, str(tmp_path / "bb")], out, How(), weights=weights)
    for values in (
        {"kind": "mean"},
        {"density": 0.5},
        {"kind": "ties", "density": 1.0},
        {"rank": 2},
        {"kind": "svd", "rank": 0},
    ):
        with pytest.raises(UsageError):
            How(**values)  # type: ignore[arg-type]
    assert not out.exists()


def test_checkpoints_are_averaged_with_their_trained_tokens_and_answer(
    tiny_model: Path, here: Path, invoke: Invoke
) -> None:
    path = here / write_csv(here / "train.csv")
    path.write_text(path.read_text().replace("it is ", "it is {}"))
    recipe = {
        "model": {"name": str(tiny_model)},
        "data": {"train": "train.csv", "validation_fraction": 0.2},
        "training": {"max_steps": 4, "batch_size": 4, "save_every": 2, "ema": 0.5},
        "output": {"name": "run"},
    }
    lora_s2s.train(recipe, progress=False)
    last, before = (f"adapters/run/checkpoints/step-00000{step}" for step in (4, 2))
    invoke("adapters", "average", "run", last, "--out", "same", "--method", "factors")
    own, same = (
        load_file(f"{folder}/adapter_model.safetensors") for folder in ("adapters/run", "same")
    )
    assert any("trainable_tokens" in name for name in own)
    close(same, own)  # the checkpoint's averaged weights are those that the run kept
    words = ("--weights", "1,2", "--json")
    made = invoke("adapters", "average", before, last, "--out", "adapters/mean", *words)
    assert json.loads(made.stdout)["rank"] == 32
    assert list(json.loads(made.stdout)["of"]) == [before, last]
    scored = invoke("eval", "mean", "--limit", "2", "--set", "evaluation.max_new_tokens=4")
    assert "adapters/mean" in scored.stderr
    unfinished = "adapters/run.running"
    asked = invoke("adapters", "average", before, unfinished, "--out", "x", code=3).stderr
    assert f"hint: continue: lora-s2s train {unfinished}/recipe.yaml --resume\n" in asked
