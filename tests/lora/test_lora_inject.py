"""Injecting: the right modules, nothing changed before training, only the adapter trains, the same
for one seed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import adapt
from safetensors.torch import load_file
from tiny_inputs import logits

from lora_s2s import limits
from lora_s2s.errors import UsageError
from lora_s2s.lora.adapter import adapter_state
from lora_s2s.lora.inject import (
    is_second_factor,
    total_parameters,
    trainable_parameters,
)
from lora_s2s.lora.targets import resolve_targets
from lora_s2s.models.loading import LoadedBase, load_base

# Two layers each; a decoder layer has two attentions; gated feed-forwards have three matrices.
EXPECTED = {
    "attention-qv": 12,
    "attention": 24,
    "cross-attention": 8,
    "decoder": 2 * (8 + 3),
    "all-linear": 24 + 12,
}


@pytest.fixture
def base(base_folder: Callable[..., Path]) -> LoadedBase:
    return load_base(str(base_folder()), device="cpu")


def inject(base: LoadedBase, target_modules: Any = "attention-qv", **changes: Any) -> Any:
    settings = {"r": 4, "alpha": 8, "dropout": 0.1, "seed": 3, **changes}
    return adapt(base, target_modules=target_modules, **settings)


@pytest.mark.parametrize("group", EXPECTED)
def test_a_group_is_exactly_its_modules_and_changes_nothing_yet(
    base: LoadedBase, group: str
) -> None:
    chosen = resolve_targets(base, group)
    assert len(chosen.shapes) == EXPECTED[group]
    assert not any("lm_head" in name or "shared" in name for name in chosen.shapes)
    if group in ("decoder", "cross-attention"):
        assert all(name.startswith("decoder.") for name in chosen.shapes)
    before = logits(base.model)
    model = inject(base, group)
    wrapped = {
        name.split(".lora_")[0].removeprefix("base_model.model.") for name in adapter_state(model)
    }
    assert wrapped == set(chosen.shapes)
    assert torch.equal(logits(model), before)
    assert not model.training


def test_names_are_endings_or_full_names(base: LoadedBase) -> None:
    full = "encoder.block.1.layer.0.SelfAttention.v"
    chosen = resolve_targets(base, ["EncDecAttention.q", full])
    assert set(chosen.shapes) == {
        full,
        *(f"decoder.block.{n}.layer.1.EncDecAttention.q" for n in (0, 1)),
    }
    assert chosen.shapes[full] == (24, 32)
    assert set(resolve_targets(base, "wo").shapes) == set(resolve_targets(base, ["wo"]).shapes)


def test_unknown_names_list_those_that_exist(base: LoadedBase) -> None:
    for wrong in ("atention-qv", ["q", "quarry"], ["lm_head"], ["shared"], [], [""], ["block"]):
        with pytest.raises(UsageError, match=r"groups: attention-qv.*names: .*EncDecAttention\.q"):
            resolve_targets(base, wrong)


def test_a_near_miss_is_named(base: LoadedBase) -> None:
    with pytest.raises(UsageError, match="did you mean 'attention-qv'"):
        resolve_targets(base, "atention-qv")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_adapter_trains_in_float32_and_the_base_stays(
    base_folder: Callable[..., Path], dtype: str
) -> None:
    folder = base_folder()
    base = load_base(str(folder), dtype=dtype, device="cpu")
    model = inject(base)
    training = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    assert all(
        ".lora_" in name and parameter.dtype is torch.float32
        for name, parameter in training.items()
    )
    per_module = 4 * (32 + 24)
    assert trainable_parameters(model) == 12 * per_module
    unwrapped = sum(p.numel() for p in load_base(str(folder), device="cpu").model.parameters())
    assert total_parameters(model) == unwrapped + 12 * per_module
    optimizer = torch.optim.SGD(training.values(), lr=0.1)
    for _ in range(2):
        model(input_ids=torch.tensor([[5, 9, 1]]), labels=torch.tensor([[4, 1]])).loss.backward()
        optimizer.step()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in training.values())
    saved = load_file(folder / "model.safetensors")
    for name, weight in base.model.state_dict().items():
        plain = name.replace(".base_layer.", ".")
        if plain in saved:
            assert torch.equal(weight, saved[plain].to(weight.dtype)), name
    head, shared = base.model.lm_head.weight, base.model.shared.weight
    assert torch.equal(head, saved["lm_head.weight"].to(head.dtype))
    assert head.data_ptr() != shared.data_ptr()


def test_the_seed_decides_and_the_callers_randomness_is_left_alone(
    base_folder: Callable[..., Path],
) -> None:
    folder = base_folder()

    def start(seed: int, torch_seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(torch_seed)
        expected = torch.random.get_rng_state()
        model = inject(load_base(str(folder), device="cpu"), seed=seed)
        assert torch.equal(torch.random.get_rng_state(), expected)
        return adapter_state(model)

    first, again, other = start(3, 0), start(3, 1), start(4, 0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_what_cannot_be_is_refused(base: LoadedBase) -> None:
    for changes, message in (
        ({"r": 0}, "may be 1 to 24"),
        ({"r": 10**9}, "may be 1 to 24"),
        ({"ranks": {"v": 25}}, "lora.rank_pattern is 25; on this base it may be 1 to 24"),
    ):
        with pytest.raises(UsageError, match=message):
            inject(base, **changes)
    inject(base)
    with pytest.raises(UsageError, match="already has an adapter"):
        inject(base)


def blocks_of(names: Any) -> set[str]:
    return {".".join(name.split(".")[:3]) for name in names}


def test_the_last_blocks_of_each_stack(base_folder: Callable[..., Path]) -> None:
    base = load_base(str(base_folder(num_layers=3, num_decoder_layers=2)), device="cpu")
    before = logits(base.model)
    kept = resolve_targets(base, "attention-qv", last_blocks=1).shapes
    assert blocks_of(kept) == {"encoder.block.2", "decoder.block.1"}
    assert len(kept) == 2 + 4
    assert blocks_of(resolve_targets(base, "decoder", last_blocks=1).shapes) == {"decoder.block.1"}
    # A shorter stack counts whole.
    everything = resolve_targets(base, "all-linear")
    assert resolve_targets(base, "all-linear", last_blocks=3).shapes == everything.shapes
    model = inject(base, "all-linear", last_blocks=2)
    adapted = {
        name.split(".lora_")[0].removeprefix("base_model.model.") for name in adapter_state(model)
    }
    assert blocks_of(adapted) == {
        "encoder.block.1",
        "encoder.block.2",
        "decoder.block.0",
        "decoder.block.1",
    }
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("last_blocks", [0, 3])
def test_blocks_that_do_not_exist_are_told_how_many_there_are(
    base: LoadedBase, last_blocks: int
) -> None:
    with pytest.raises(UsageError, match=r"encoder\.block has 2, decoder\.block has 2"):
        resolve_targets(base, "attention", last_blocks=last_blocks)


def test_names_outside_the_last_blocks_leave_nothing(base: LoadedBase) -> None:
    with pytest.raises(UsageError, match=r"none of lora\.target_modules is in the last 1 blocks"):
        resolve_targets(base, ["encoder.block.0.layer.0.SelfAttention.v"], last_blocks=1)


def test_a_rank_for_each_group_with_its_own_scale(base: LoadedBase) -> None:
    full = "decoder.block.0.layer.1.EncDecAttention.q"
    model = inject(
        base, "attention", r=4, alpha=8, ranks={"encoder": 2, "cross-attention": 8, "v": 4, full: 3}
    )
    layers = {
        name.removeprefix("base_model.model."): m
        for name, m in model.named_modules()
        if hasattr(m, "lora_A")
    }
    ranks = {name: (layer.r["default"], layer.scaling["default"]) for name, layer in layers.items()}
    assert ranks[full] == (3, pytest.approx(8 / 3))
    assert ranks["decoder.block.1.layer.1.EncDecAttention.o"] == (8, 1.0)
    assert ranks["encoder.block.1.layer.0.SelfAttention.k"] == (2, 4.0)
    # The later entry wins.
    assert (
        ranks["encoder.block.1.layer.0.SelfAttention.v"]
        == ranks["decoder.block.0.layer.0.SelfAttention.q"]
        == (4, 2)
    )
    assert set(model.peft_config["default"].rank_pattern) == {
        name for name, (rank, _) in ranks.items() if rank != 4
    }


def test_ranks_that_name_nothing_are_refused(base: LoadedBase) -> None:
    with pytest.raises(
        UsageError,
        match=r"lora\.rank_pattern: no module 'encodr'.*did you mean 'encoder'.*groups: ",
    ):
        inject(base, ranks={"encodr": 2})
    with pytest.raises(
        UsageError,
        match=r"lora\.rank_pattern names 'wo', which lora\.target_modules does not choose",
    ):
        inject(base, ranks={"wo": 2})


def test_more_ranks_than_peft_can_match_in_time_are_refused(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_RANKS", 5)
    with pytest.raises(UsageError, match="gives 12 modules a rank of their own, at most 5"):
        inject(base, ranks={"attention-qv": 2})
    inject(base, ranks={"attention-qv": 4, "encoder": 2})


def test_settings_without_effect_are_told(
    base: LoadedBase, capsys: pytest.CaptureFixture[str]
) -> None:
    inject(base, method="ia3", dropout=0.0)
    assert "ia3 ignores lora.r and lora.alpha" in capsys.readouterr().err


def test_the_second_factor_is_what_lora_plus_trains_faster(base: LoadedBase) -> None:
    names = [name for name, p in inject(base, method="dora").named_parameters() if p.requires_grad]
    assert {name.split(".")[-3] for name in names if is_second_factor(name)} == {"lora_B"}
    assert sum(map(is_second_factor, names)) * 3 == len(names)
