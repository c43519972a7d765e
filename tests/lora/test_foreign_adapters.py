"""Adapters made with PEFT in every ordinary way answer here as in PEFT; no pattern of theirs is
ever run.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_adapters import stir
from tiny_inputs import logits
from transformers import AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration

from lora_s2s.errors import DataError
from lora_s2s.lora.adapter import load_adapter
from lora_s2s.lora.merge import folded_state

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ALL = r"(encoder|decoder)\.block\.\d+\.layer\.\d+\..*\.(q|k|v|o|wi_0|wo)"
ANSWERS = {"task_type": "SEQ_2_SEQ_LM"}
CONFIGS: dict[str, Any] = {
    "no task type": LoraConfig(r=3, target_modules=["q", "v"]),
    "causal": LoraConfig(r=3, target_modules=["q", "v"], task_type="CAUSAL_LM"),
    "bias all": LoraConfig(r=3, target_modules=["q", "wo"], bias="all", **ANSWERS),
    "bias lora_only": LoraConfig(r=3, target_modules=["q", "wo"], bias="lora_only", **ANSWERS),
    "names of several families": LoraConfig(
        r=3, target_modules=["q", "v", "q_proj", "v_proj"], **ANSWERS
    ),
    "pattern": LoraConfig(
        r=3, target_modules=r".*\.(SelfAttention|EncDecAttention)\.(q|v)$", **ANSWERS
    ),
    "pattern of one stack": LoraConfig(r=3, target_modules=r"decoder\.block\.[01]\..*\.(k|wi_1)"),
    "every linear": LoraConfig(r=3, target_modules="all-linear", **ANSWERS),
    "excluded": LoraConfig(
        r=3, target_modules=["q", "v"], exclude_modules=["EncDecAttention.q"], **ANSWERS
    ),
    "excluded by pattern": LoraConfig(
        r=3, target_modules=["q", "v"], exclude_modules=r"encoder\..*", **ANSWERS
    ),
    "both patterns": LoraConfig(r=3, target_modules=ALL, exclude_modules=r".*\.wo"),
    "one layer": LoraConfig(r=3, target_modules=["q", "v"], layers_to_transform=1, **ANSWERS),
    "layers": LoraConfig(
        r=3, target_modules=["q", "wo"], layers_to_transform=[0], layers_pattern="block"
    ),
    "inner layers": LoraConfig(
        r=3, target_modules=["q", "wo"], layers_to_transform=[1], layers_pattern=["layer"]
    ),
    "layers by pattern": LoraConfig(
        r=3, target_modules=["q"], layers_to_transform=[1], layers_pattern=r"bl.ck"
    ),
    "rank pattern": LoraConfig(
        r=3, target_modules=["q", "wo"], rank_pattern={r"encoder\.block\.\d+\..*q": 2}
    ),
    "ranks and scales": LoraConfig(
        r=3,
        target_modules=["q", "wo"],
        rank_pattern={r"decoder.*q": 5, r".*wo": 2},
        alpha_pattern={r"decoder.*q": 30, r".*wo": 7},
        use_rslora=True,
        **ANSWERS,
    ),
    "scales by simple patterns": LoraConfig(
        r=3,
        target_modules=["q", "v", "wo"],
        lora_alpha=4,
        alpha_pattern={
            r"^encoder\.block\.0\.layer\.0\.SelfAttention\.q$": 16,
            r".*\.wo": 9,
            "(q|v)": 2,
        },
    ),
    "dora": LoraConfig(r=3, target_modules=r".*\.wo", use_dora=True, rank_pattern={"deco.*wo": 4}),
    "ia3": peft.IA3Config(target_modules=r".*\.(k|wo)", feedforward_modules=r".*\.wo"),
    "ia3 excluded": peft.IA3Config(
        target_modules=["k", "wo"], feedforward_modules=["wo"], exclude_modules=["x"]
    ),
    "vera": peft.VeraConfig(r=8, target_modules=r"decoder\..*\.q", **ANSWERS),
    "vera layers": peft.VeraConfig(r=8, target_modules=["q"], layers_to_transform=[0], bias="all"),
    "loha": peft.LoHaConfig(r=3, target_modules=r".*\.q", rank_pattern={"enc.*q": 2}),
    "lokr": peft.LoKrConfig(r=3, target_modules=r".*\.q", rank_pattern={"(q|v)": 2}),
    "oft": peft.OFTConfig(oft_block_size=8, target_modules=r".*\.q", bias="oft_only"),
    "hira": peft.HiraConfig(
        r=3, target_modules=["q", "v"], layers_to_transform=[1], rank_pattern={r".*v": 2}
    ),
    "miss": peft.MissConfig(r=3, target_modules=r".*\.(q|o)", bias="MiSS_only"),
}


def foreign(base: Path, config: Any, out: Path) -> torch.Tensor:
    """Writes an adapter as PEFT does; returns what PEFT's own loading of it answers."""
    model = get_peft_model(
        AutoModelForSeq2SeqLM.from_pretrained(base), copy.deepcopy(config)
    ).eval()
    stir(model, only="")
    model.save_pretrained(out)
    return logits(
        PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), out).eval()
    )


def patch(folder: Path, **changes: object) -> None:
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**content, **changes}))


@pytest.fixture
def adapter(
    base_folder: Callable[..., Path], tmp_path: Path
) -> Callable[[Any], tuple[Path, Path, torch.Tensor]]:
    def make(config: Any) -> tuple[Path, Path, torch.Tensor]:
        base = base_folder()
        return base, tmp_path / "foreign", foreign(base, config, tmp_path / "foreign")

    return make


@pytest.mark.parametrize("name", CONFIGS)
def test_an_adapter_answers_as_in_peft(adapter: Callable[[Any], Any], name: str) -> None:
    base, folder, theirs = adapter(CONFIGS[name])
    loaded = load_adapter(folder, base_override=str(base), device="cpu")
    assert torch.equal(logits(loaded.model), theirs)
    with loaded.model.disable_adapter():
        assert not torch.allclose(logits(loaded.model), theirs, atol=1e-3)


BART: dict[str, Any] = {
    "pattern": LoraConfig(
        r=3, target_modules=r".*\.(q_proj|fc2)", rank_pattern={r".*decoder.*fc2": 2}
    ),
    "layers": LoraConfig(
        r=3, target_modules=["q_proj", "v_proj"], layers_to_transform=[1], task_type="CAUSAL_LM"
    ),
    "names of layers": LoraConfig(
        r=3, target_modules=["fc1"], layers_to_transform=[0, 1], layers_pattern="layers"
    ),
    "excluded": LoraConfig(r=3, target_modules=["out_proj"], exclude_modules=r"model\.decoder\..*"),
}


@pytest.mark.parametrize("name", BART)
def test_an_adapter_on_bart_answers_as_in_peft(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    sizes = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {"layers": 2, "ffn_dim": 24, "attention_heads": 2}.items()
    }
    BartForConditionalGeneration(
        BartConfig(vocab_size=64, d_model=16, init_std=0.2, **sizes)
    ).save_pretrained(tmp_path / "base")
    theirs = foreign(tmp_path / "base", BART[name], tmp_path / "foreign")
    loaded = load_adapter(tmp_path / "foreign", base_override=str(tmp_path / "base"), device="cpu")
    assert torch.equal(logits(loaded.model), theirs)
    patch(tmp_path / "foreign", bias="all")
    with pytest.raises(
        DataError, match=r"bias is 'all': it holds biases of .*base itself"
    ) as refused:
        load_adapter(tmp_path / "foreign", base_override=str(tmp_path / "base"), device="cpu")
    assert "merge_and_unload" in str(refused.value.hint)


def test_it_merges_as_in_peft(adapter: Callable[[Any], Any]) -> None:
    base, folder, _ = adapter(CONFIGS["ranks and scales"])
    theirs = PeftModel.from_pretrained(
        AutoModelForSeq2SeqLM.from_pretrained(base), folder
    ).merge_and_unload()
    ours = folded_state(load_adapter(folder, base_override=str(base), device="cpu"))
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.state_dict().items())


@pytest.mark.parametrize("label", ["default", "my_adapter", "q"])
@pytest.mark.parametrize("kind", ["pattern", "no task type", "ranks and scales", "vera", "ia3"])
def test_keys_with_the_adapters_name_are_read(
    adapter: Callable[[Any], Any], kind: str, label: str
) -> None:
    base, folder, theirs = adapter(CONFIGS[kind])
    weights = load_file(folder / WEIGHTS)
    ends = [
        (name.removesuffix(".weight"), ".weight" * name.endswith(".weight")) for name in weights
    ]
    save_file(
        {
            f"{stem}.{label}{end}": weight
            for (stem, end), weight in zip(ends, weights.values(), strict=True)
        },
        folder / WEIGHTS,
    )
    assert torch.equal(
        logits(load_adapter(folder, base_override=str(base), device="cpu").model), theirs
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": r"((a|aa|e|n|c|o|d|r)+)+\.$"},
        {"exclude_modules": "(([a-z.])+.)+[A-Z]([a-z])+$"},
        {"rank_pattern": {"(([a-zA-Z0-9.])+)+!": 2}},
        {"layers_to_transform": [0, 1], "layers_pattern": "(([a-z])+)+!"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_pattern_that_would_take_for_ever_is_never_run(
    adapter: Callable[[Any], Any], changes: dict[str, Any]
) -> None:
    base, folder, theirs = adapter(CONFIGS["no task type"])
    patch(folder, **changes)
    start = time.process_time()  # of CPU: the clock also counts what else the machine does
    loaded = load_adapter(folder, base_override=str(base), device="cpu")
    assert torch.equal(logits(loaded.model), theirs)
    assert time.process_time() - start < 30


def test_an_adapter_on_the_head_is_refused_with_what_to_do(adapter: Callable[[Any], Any]) -> None:
    base, folder, _ = adapter(LoraConfig(r=3, target_modules=["q", "lm_head"], **ANSWERS))
    with pytest.raises(DataError, match=r"lm_head\..*weight does not belong") as refused:
        load_adapter(folder, base_override=str(base), device="cpu")
    assert "merge_and_unload" in str(refused.value.hint)


@pytest.mark.parametrize("pattern", [r"enc.*q", r"(a+)+$", r"block\.[01]", "q("])
def test_a_scale_by_a_pattern_that_no_rank_tells_is_refused(
    adapter: Callable[[Any], Any], pattern: str
) -> None:
    base, folder, _ = adapter(CONFIGS["no task type"])
    patch(folder, alpha_pattern={"wo": 3, pattern: 5})
    with pytest.raises(
        DataError, match="alpha_pattern holds a pattern, which is not run"
    ) as refused:
        load_adapter(folder, base_override=str(base), device="cpu")
    assert pattern in refused.value.message
    assert "name the modules in it" in str(refused.value.hint)


def test_a_scale_is_not_told_by_a_rank_that_two_patterns_give(
    adapter: Callable[[Any], Any],
) -> None:
    base, folder, _ = adapter(
        LoraConfig(r=3, target_modules=["q", "v"], rank_pattern={"enc.*q": 2, "dec.*v": 2})
    )
    for usual, scales in (
        (3, {"enc.*q": 5, "dec.*v": 6}),
        (3, {"dec.*v": 6, "enc.*q": 5}),
        (2, {"enc.*q": 5}),
    ):
        patch(folder, r=usual, alpha_pattern=scales)
        with pytest.raises(DataError, match="alpha_pattern holds a pattern"):
            load_adapter(folder, base_override=str(base), device="cpu")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


def test_what_the_weights_say_is_still_checked(adapter: Callable[[Any], Any]) -> None:
    base, folder, _ = adapter(CONFIGS["pattern"])
    whole = load_file(folder / WEIGHTS)
    first = next(iter(whole))

    def refused(change: Callable[[dict[str, torch.Tensor]], object], match: str) -> DataError:
        save_file(whole, folder / WEIGHTS)
        rewrite(folder, change)
        with pytest.raises(DataError, match=match) as error:
            load_adapter(folder, base_override=str(base), device="cpu")
        return error.value

    refused(lambda weights: weights.pop(first), "is missing")
    refused(lambda weights: weights.update({first: torch.ones(5, 32)}), "has shape")
    refused(lambda weights: weights.update({first: weights[first] * torch.nan}), "not finite")
    grown = refused(
        lambda weights: weights.update({"base_model.model.shared.weight": torch.ones(300, 32)}),
        "does not belong",
    )
    assert "merge_and_unload" in str(grown.hint)
    elsewhere = {name.replace("encoder.", "tower."): weight for name, weight in whole.items()}
    save_file(
        {name: weight for name, weight in elsewhere.items() if "decoder" not in name},
        folder / WEIGHTS,
    )
    with pytest.raises(DataError, match="its weights name no module of this base"):
        load_adapter(folder, base_override=str(base), device="cpu")


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"modules_to_save": ["lm_head"]}, "merge_and_unload"),
        ({"peft_type": "BOFT"}, "merge_and_unload"),
        ({"init_lora_weights": "pissa"}, "merge_and_unload"),
        ({"layer_replication": [[0, 1]]}, "merge_and_unload"),
        ({"trainable_token_indices": [3]}, "merge_and_unload"),
        ({"peft_type": "PREFIX_TUNING"}, "cannot be merged"),
        ({"task_type": "SEQ_CLS"}, "models that write text"),
    ],
    ids=str,
)
def test_what_stays_refused_says_what_to_do(
    adapter: Callable[[Any], Any], changes: dict[str, Any], hint: str
) -> None:
    base, folder, _ = adapter(CONFIGS["no task type"])
    patch(folder, **changes)
    with pytest.raises(DataError) as refused:
        load_adapter(folder, base_override=str(base), device="cpu")
    assert hint in str(refused.value.hint)


def test_missing_and_unexpected_weights_are_named_together(adapter: Callable[[Any], Any]) -> None:
    base, folder, _ = adapter(CONFIGS["no task type"])
    weights = load_file(folder / WEIGHTS)
    save_file(
        {name.replace("lora_A", "lora_down"): weight for name, weight in weights.items()},
        folder / WEIGHTS,
    )
    with pytest.raises(
        DataError, match=r"lora_A\.weight is missing, and .*lora_down\.weight does not belong"
    ):
        load_adapter(folder, base_override=str(base), device="cpu")
