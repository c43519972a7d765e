"""Adapter folders: plain PEFT loads ours, we load plain PEFT's, and nothing unchecked touches the
base.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapting import adapt
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_adapters import WHOLE_BLOCKS, stir
from tiny_inputs import logits
from transformers import AutoModelForSeq2SeqLM

from lora_s2s.errors import DataError, SetupError, UsageError
from lora_s2s.files import sha256_file
from lora_s2s.lora import adapter as adapters
from lora_s2s.lora.adapter import (
    adapter_state,
    is_adapter,
    load_adapter,
    load_adapter_state,
    save_adapter,
)
from lora_s2s.lora.schema import adapter_settings
from lora_s2s.models.loading import LoadedBase, load_base

GROUPS = ["attention-qv", "attention", "cross-attention", "encoder", "decoder", "all-linear"]
NAMES = ["EncDecAttention.q", "encoder.block.1.layer.0.SelfAttention.v"]


def patch(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("target_modules", "tied"),
    [*((group, False) for group in GROUPS), (NAMES, False), ("all-linear", True)],
    ids=str,
)
def test_save_and_load_give_the_same_model_here_and_in_plain_peft(
    adapter_folder: Callable[..., Path], target_modules: Any, tied: bool
) -> None:
    folder = adapter_folder(target_modules, tied=tied, gated=not tied)
    loaded = load_adapter(folder, device="cpu")
    ours = logits(loaded.model)
    base = load_base(loaded.base.name, device="cpu")
    assert not torch.allclose(ours, logits(base.model), atol=1e-3)
    assert torch.equal(ours, logits(loaded.model))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    plain = PeftModel.from_pretrained(
        AutoModelForSeq2SeqLM.from_pretrained(base.path), folder
    ).eval()
    assert torch.equal(logits(plain), ours)
    assert (folder / "adapter_config.json").stat().st_size < 4096


def test_an_adapter_folder_is_reproducible_and_names_no_machine(
    base_folder: Callable[..., Path], tmp_path: Path
) -> None:
    base_folder()
    hashes = set()
    for run in ("one", "two"):
        base = load_base(str(tmp_path / "base"), device="cpu")
        model = adapt(base, r=4, alpha=8, dropout=0.0, target_modules="all-linear", seed=3)
        object.__setattr__(base, "name", "demo")
        model.peft_config["default"].base_model_name_or_path = base.name
        (tmp_path / run).mkdir()
        save_adapter(model, tmp_path / run)
        hashes.add(sha256_file(tmp_path / run / "adapter_config.json"))
        text = (tmp_path / run / "adapter_config.json").read_text()
        assert str(tmp_path) not in text
        assert json.loads(text)["base_model_name_or_path"] == "demo"
        assert json.loads(text)["inference_mode"] is True
    assert len(hashes) == 1


def test_the_head_and_the_base_stay_as_the_checkpoint_has_them(
    adapter_folder: Callable[..., Path],
) -> None:
    loaded = load_adapter(adapter_folder("all-linear"), device="cpu")
    saved = load_file(loaded.base.path / "model.safetensors")
    for name, weight in loaded.base.model.state_dict().items():
        plain = name.replace(".base_layer.", ".")
        if plain in saved:
            assert torch.equal(weight, saved[plain]), name
    assert torch.equal(loaded.base.model.lm_head.weight, saved["lm_head.weight"])


FOREIGN = [
    LoraConfig(r=3, lora_alpha=7, target_modules=["q", "wo"], use_rslora=True, lora_dropout=0.05),
    LoraConfig(
        r=3,
        lora_alpha=7,
        target_modules=["q", "wo"],
        rank_pattern={"wo": 5},
        alpha_pattern={"q": 3},
    ),
    LoraConfig(r=3, target_modules=["q"], use_dora=True, init_lora_weights="gaussian"),
    peft.IA3Config(target_modules=["k", "wo"], feedforward_modules=["wo"]),
    peft.IA3Config(target_modules=["k", "wo"], feedforward_modules=[]),
    peft.IA3Config(target_modules=["k", "wo"]),
    peft.VeraConfig(r=40, target_modules=["q", "wo"], projection_prng_key=5),
    peft.VeraConfig(
        r=8, target_modules=["q", "wo"], projection_prng_key=5, save_projection=False, d_initial=0.2
    ),
    peft.LoHaConfig(
        r=3, alpha=5, target_modules=["q", "wo"], rank_dropout=0.1, rank_pattern={"q": 2}
    ),
    peft.LoKrConfig(
        r=3, alpha=5, target_modules=["q", "wo"], decompose_both=True, decompose_factor=4
    ),
    peft.OFTConfig(r=0, oft_block_size=8, target_modules=["q", "wo"], use_cayley_neumann=False),
    peft.OFTConfig(
        r=4, oft_block_size=0, target_modules=["q", "wo"], module_dropout=0.1, block_share=True
    ),
    peft.HiraConfig(r=3, target_modules=["q", "wo"]),
    peft.MissConfig(r=3, target_modules=["q", "wo"]),
]


@pytest.mark.parametrize("config", FOREIGN, ids=lambda config: type(config).__name__)
def test_an_adapter_made_by_plain_peft_loads(
    base_folder: Callable[..., Path], tmp_path: Path, config: Any
) -> None:
    path = base_folder()
    config = copy.deepcopy(config)
    config.task_type = "SEQ_2_SEQ_LM"
    model = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(path), config).eval()
    before = logits(model)
    stir(model, only="")
    model.save_pretrained(tmp_path / "foreign")
    with pytest.raises(
        DataError, match="a folder, and does not say which weights it holds"
    ) as refused:
        load_adapter(tmp_path / "foreign", device="cpu")
    assert refused.value.hint == f"if that is the base you want: --base {path}"
    loaded = load_adapter(tmp_path / "foreign", device="cpu", base_override=str(path))
    assert loaded.manifest.content == {}
    assert not torch.allclose(before, logits(model), atol=1e-3)
    assert torch.equal(logits(loaded.model), logits(model))


def test_a_bfloat16_base_keeps_float32_adapters(adapter_folder: Callable[..., Path]) -> None:
    loaded = load_adapter(adapter_folder(), dtype="bfloat16", device="cpu")
    assert {tensor.dtype for tensor in adapter_state(loaded.model).values()} == {torch.float32}
    assert loaded.base.model.lm_head.weight.dtype is torch.bfloat16


def test_states_for_checkpoints_go_back_exactly(adapter_folder: Callable[..., Path]) -> None:
    model = load_adapter(adapter_folder(), device="cpu").model
    before, state = (
        logits(model),
        {name: tensor.clone() for name, tensor in adapter_state(model).items()},
    )
    stir(model, seed=9)
    assert not torch.equal(logits(model), before)
    load_adapter_state(model, state)
    assert torch.equal(logits(model), before)
    state.pop(next(iter(state)))
    with pytest.raises(DataError, match="is missing"):
        load_adapter_state(model, state)


def test_an_adapter_for_another_base_is_refused(
    adapter_folder: Callable[..., Path], base_folder: Callable[..., Path]
) -> None:
    folder = adapter_folder()
    other = base_folder("other", seed=5)
    with pytest.raises(DataError, match=r"was trained on .*base .*; this is .*other") as refused:
        load_adapter(folder, base_override=str(other), device="cpu")
    assert refused.value.exit_code == 3
    with pytest.raises(DataError, match="was trained on"):
        load_adapter(folder, base=load_base(str(other), device="cpu"))
    smaller = base_folder("smaller", num_layers=1)
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="does not belong"):
        load_adapter(folder, base_override=str(smaller), device="cpu")


def test_a_base_that_moved_is_given_by_hand(
    adapter_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = adapter_folder()
    expected = logits(load_adapter(folder, device="cpu").model)
    shutil.move(tmp_path / "base", tmp_path / "moved")
    with pytest.raises(
        DataError, match="not on this machine; a base that only the adapter names is not downloaded"
    ):
        load_adapter(folder, device="cpu")
    assert torch.equal(
        logits(load_adapter(folder, base_override=str(tmp_path / "moved"), device="cpu").model),
        expected,
    )
    base = load_base(str(tmp_path / "moved"), device="cpu")
    assert load_adapter(folder, base=base).base is base


def test_folders_that_are_no_adapter(adapter_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such adapter folder"):
        load_adapter(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert not is_adapter(tmp_path / "empty")
    with pytest.raises(DataError, match=r"not an adapter folder: adapter_config\.json is missing"):
        load_adapter(tmp_path / "empty")
    folder = adapter_folder()
    assert is_adapter(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(DataError, match="is a pickle and is never opened"):
        load_adapter(folder)


PLAIN = {
    "peft_type": "LORA",
    "task_type": "SEQ_2_SEQ_LM",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "target_modules": ["q", "v"],
    "bias": "none",
}
REFUSED = [
    {"peft_type": "BOFT"},
    {"peft_type": None},
    {"peft_type": []},
    {"use_dora": 1},
    {"peft_type": "ADALORA"},
    {"peft_type": "PREFIX_TUNING"},
    {"r": 10**9},
    {"r": 0},
    {"r": 4.0},
    {"r": True},
    {"r": None},
    {"lora_alpha": float("nan")},
    {"lora_alpha": "8"},
    {"lora_alpha": -1},
    {"lora_dropout": 1},
    {"use_rslora": 1},
    {"target_modules": []},
    {"target_modules": ["q", "(x+x+)+y"]},
    {"target_modules": ["q" * 500]},
    {"target_modules": [7]},
    {"target_modules": 7},
    {"target_modules": {"q": 1}},
    {"modules_to_save": ["shared"]},
    {"rank_pattern": {"q": 10**9}},
    {"rank_pattern": {"q": 0}},
    {"rank_pattern": ["q"]},
    {"rank_pattern": {f"q{n}": 2 for n in range(501)}},
    {"rank_pattern": {"q": True}},
    {"alpha_pattern": {"q": float("nan")}},
    {"oft_block_size": 8},
    {"feedforward_modules": ["wo"]},
    {"r": 10**30},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": 1},
    {"trainable_token_indices": [1]},
    {"revision": 7},
    {"layer_replication": [[0, 4]]},
    {"something_new": 1},
    {"base_model_name_or_path": "a\u001bb"},
    {"fan_in_fan_out": True},
    {"bias": "some"},
    {"task_type": "TOKEN_CLS"},
    {"exclude_modules": [7]},
    {"layers_to_transform": "0"},
    {"layers_to_transform": [2**40]},
    {"layers_pattern": {"a": 1}},
    {"rank_pattern": {".*": 10**9}},
    {"alpha_pattern": {"(a+)+$": -1}},
]


def test_the_plain_config_passes_and_so_does_pefts_own_default() -> None:
    plain = adapter_settings(PLAIN, where="here")
    assert plain.values == {"r": 4, "lora_dropout": 0.1}  # lora_alpha 8 is PEFT's own default
    default = LoraConfig(
        r=4, target_modules=["q"], task_type="SEQ_2_SEQ_LM", use_rslora=True
    ).to_dict()
    settings = adapter_settings(
        {**default, "peft_type": "LORA", "target_modules": ["q"]}, where="here"
    )
    assert settings.values == {"r": 4, "use_rslora": True}


OTHER_REFUSED = [
    {"peft_type": "IA3", "feedforward_modules": [".*"]},
    {"peft_type": "IA3", "modules_to_save": ["shared"]},
    {"peft_type": "VERA", "r": 10**9},
    {"peft_type": "VERA", "projection_prng_key": -1},
    {"peft_type": "VERA", "save_projection": 0.0},
    {"peft_type": "OFT", "oft_block_size": 10**9},
    {"peft_type": "OFT", "r": -1},
    {"peft_type": "OFT", "coft": True},
    {"peft_type": "MISS", "init_weights": "bat"},
    {"peft_type": "LOHA", "alpha": float("inf")},
    {"peft_type": "LOKR", "decompose_factor": 1.5},
    {"peft_type": "HIRA", "lora_alpha": 8},
    {"peft_type": "LOKR", "layers_to_transform": [-1]},
    {"peft_type": "LOHA", "exclude_modules": {"q": 1}},
    {"peft_type": "IA3", "layers_to_transform": [0]},
    {"peft_type": "OFT", "rank_pattern": {"q": 2}},
]


@pytest.mark.parametrize("changes", OTHER_REFUSED, ids=lambda changes: str(changes)[:60])
def test_configs_of_other_methods_are_as_strict(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError) as refused:
        adapter_settings({"target_modules": ["q", "wo"], **changes}, where="adapter_config.json")
    assert list(changes)[1] in refused.value.message


@pytest.mark.parametrize("changes", REFUSED, ids=lambda changes: str(changes)[:50])
def test_a_config_beyond_the_schema_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError) as refused:
        adapter_settings({**PLAIN, **changes}, where="adapter_config.json")
    assert refused.value.where == "adapter_config.json"
    assert next(iter(changes)) in refused.value.message or "type" in refused.value.message


def test_a_config_that_does_not_fit_the_base_is_refused(
    adapter_folder: Callable[..., Path],
) -> None:
    folder = adapter_folder()
    base = load_base(str(folder.parent / "base"), device="cpu")
    for changes in (
        {"target_modules": ["nothing"]},
        {"target_modules": ["lm_head"]},
        {"r": 25},
        {"r": 3},
        {"use_dora": True},
        {"rank_pattern": {"q": 5}},
        {"peft_type": "VERA"},
        {"r": 4096},
    ):
        patch(folder, **{"r": 4, "target_modules": ["q", "v"], **changes})
        with pytest.raises(DataError):
            load_adapter(folder, base=base)


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "OFT", "r": 2, "oft_block_size": 8},
        {"peft_type": "OFT", "r": 0, "oft_block_size": 0},
        {"peft_type": "IA3", "feedforward_modules": ["k"]},
    ],
    ids=str,
)
def test_what_peft_itself_refuses_is_a_refused_file(
    adapter_folder: Callable[..., Path], config: Any
) -> None:
    folder = adapter_folder()
    content = {"task_type": "SEQ_2_SEQ_LM", "target_modules": ["q", "wo"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    base = load_base(str(folder.parent / "base"), device="cpu")
    with pytest.raises(DataError, match="PEFT refuses these settings"):
        load_adapter(folder, base=base)


def test_a_base_is_loaded_as_the_adapter_was_trained_on_it(
    adapter_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter_folder(**WHOLE_BLOCKS)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["base"].update(quantization="nf4", skip_quantization=["wo"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    asked = load_adapter(folder, device="cpu").base
    assert (asked.quantization, asked.skip_quantization) == ("nf4", ("wo",))
    assert load_adapter(folder, device="cpu", quantization="none").base.quantization == "none"

    def absent(*_: Any, **__: Any) -> LoadedBase:
        raise SetupError("bitsandbytes cannot be imported", hint="pip install bitsandbytes")

    monkeypatch.setattr(adapters, "load_base", absent)
    with pytest.raises(SetupError, match="bitsandbytes") as told:
        load_adapter(folder, device="cpu")
    assert "pip install bitsandbytes" in str(told.value.hint)
    assert "quantization none" in str(told.value.hint)
    for damage in ({"quantization": 4}, {"skip_quantization": "wo"}, {"skip_quantization": [1]}):
        (folder / "manifest.json").write_text(json.dumps({"base": {**manifest["base"], **damage}}))
        with pytest.raises(DataError, match=r"is damaged: base\."):
            load_adapter(folder, device="cpu")


def test_a_method_that_needs_whole_weights_is_not_loaded_onto_quantized_ones(
    base_folder: Callable[..., Path], tmp_path: Path
) -> None:
    path = base_folder(**WHOLE_BLOCKS)
    config = peft.LoKrConfig(r=3, target_modules=["q"], task_type="SEQ_2_SEQ_LM")
    get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(path), config).save_pretrained(
        tmp_path / "foreign"
    )
    with pytest.raises(UsageError, match="LoKr does not work on a base in nf4"):
        load_adapter(
            tmp_path / "foreign", device="cpu", quantization="nf4", base_override=str(path)
        )


def test_damaged_json_is_refused(adapter_folder: Callable[..., Path]) -> None:
    folder = adapter_folder()
    base = load_base(str(folder.parent / "base"), device="cpu")
    for name, texts in {
        "manifest.json": ["[]", "{", '{"base": 5}', '{"base": {"name": 7}}', '{"input": []}'],
        "adapter_config.json": ["[]", "{", "null", '{"peft_type": "LORA"}', "x" * (1 << 21)],
    }.items():
        for text in texts:
            (folder / name).write_text(text)
            with pytest.raises(DataError):
                load_adapter(folder, base=base)
        (folder / "manifest.json").unlink(missing_ok=True)


A_KEY = "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight"
WEIGHT_DAMAGE: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "overwrites the base": lambda w: w.update(
        {"base_model.model.shared.weight": torch.zeros(256, 32)}
    ),
    "overwrites a layer": lambda w: w.update(
        {A_KEY.replace("lora_A", "base_layer"): torch.zeros(24, 32)}
    ),
    "lost a half": lambda w: w.pop(A_KEY),
    "transposed": lambda w: w.update({A_KEY: w[A_KEY].T.contiguous()}),
    "not finite": lambda w: w[A_KEY].fill_(float("nan")),
    "infinite": lambda w: w[A_KEY][0, 0].fill_(float("inf")),
    "whole numbers": lambda w: w.update({A_KEY: w[A_KEY].to(torch.int8)}),
}


def test_weights_that_are_not_exactly_the_adapter_are_refused(
    adapter_folder: Callable[..., Path],
) -> None:
    folder = adapter_folder()
    base = load_base(str(folder.parent / "base"), device="cpu")
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    path = folder / "adapter_model.safetensors"
    whole = path.read_bytes()
    for change in WEIGHT_DAMAGE.values():
        rewrite(folder, change)
        with pytest.raises(DataError):
            load_adapter(folder, base=base)
        path.write_bytes(whole)
    path.write_bytes(whole[:-64])
    with pytest.raises(DataError, match="not a valid safetensors file"):
        load_adapter(folder, base=base)
    after = base.model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    path.write_bytes(whole)
    assert load_adapter(folder, base=base).base is base
