"""The own loader gives what ``from_pretrained`` gives, for every kind of family: ties, buffers,
computed positions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from programs import environment
from safetensors.torch import load_file, save_file
from tiny_families import TINY, build
from tiny_inputs import logits

from lora_s2s.models import filling
from lora_s2s.models.loading import load_base


def checkpoint(row: str, folder: Path) -> Any:
    """Writes a family's tiny model, every trainable weight and bias away from its initial value;
    returns it.
    """
    model = build(TINY[row])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # not computed positions
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model


def tensors(model: Any) -> dict[str, torch.Tensor]:
    return dict((*model.named_parameters(remove_duplicate=False), *model.named_buffers()))


def from_pretrained(row: str, folder: Path, **settings: Any) -> Any:
    return getattr(transformers, TINY[row].model).from_pretrained(folder, **settings).eval()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("row", TINY)
def test_the_loader_gives_what_transformers_gives(tmp_path: Path, row: str, dtype: str) -> None:
    made = checkpoint(row, tmp_path)
    theirs = from_pretrained(row, tmp_path, dtype=getattr(torch, dtype))
    ours = load_base(str(tmp_path), dtype=dtype, device="cpu").model
    assert torch.equal(logits(ours), logits(theirs))
    found, trainable = (
        tensors(ours),
        {name: tensor.requires_grad for name, tensor in tensors(made).items()},
    )
    assert found.keys() == tensors(theirs).keys()
    for name, tensor in tensors(theirs).items():
        assert torch.equal(found[name], tensor), name
        assert (found[name].dtype, found[name].requires_grad) == (tensor.dtype, trainable[name]), (
            name
        )
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert ours.all_tied_weights_keys == theirs.all_tied_weights_keys
    assert ours.config._attn_implementation == theirs.config._attn_implementation


@pytest.mark.parametrize("row", ["T5 v1.0", "BART", "Marian", "T5Gemma"])
def test_equal_copies_in_a_checkpoint_are_one_matrix(tmp_path: Path, row: str) -> None:
    made = checkpoint(row, tmp_path)
    once = load_base(str(tmp_path), device="cpu").model
    save_file(
        {name: tensor.clone() for name, tensor in made.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    copied = load_base(str(tmp_path), device="cpu").model
    assert torch.equal(logits(copied), logits(once))
    assert len([*copied.parameters()]) == len([*once.parameters()])


def test_a_copy_of_its_own_stays_apart(tmp_path: Path) -> None:
    made = checkpoint("BART", tmp_path)
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    state["lm_head.weight"] += 1
    save_file(state, tmp_path / "model.safetensors")
    model = load_base(str(tmp_path), device="cpu").model
    assert torch.equal(model.lm_head.weight, state["lm_head.weight"])
    assert model.model.encoder.embed_tokens.weight is model.model.shared.weight
    assert "lm_head.weight" not in model.all_tied_weights_keys


def test_a_checkpoint_of_the_inner_model_alone(tmp_path: Path) -> None:
    made = checkpoint("BART", tmp_path)
    made.final_logits_bias.zero_()
    weights = load_file(tmp_path / "model.safetensors")
    inner = {
        name.removeprefix("model."): tensor
        for name, tensor in weights.items()
        if name.startswith("model.")
    }
    save_file(inner, tmp_path / "model.safetensors")
    assert torch.equal(logits(load_base(str(tmp_path), device="cpu").model), logits(made))


@pytest.mark.parametrize("own", [True, False], ids=["its own file", "in the config"])
def test_the_generation_config_is_the_checkpoints(tmp_path: Path, own: bool) -> None:
    checkpoint("BART", tmp_path)
    (tmp_path / "generation_config.json").unlink()
    file = tmp_path / ("generation_config.json" if own else "config.json")
    held = {} if own else json.loads(file.read_text())
    file.write_text(
        json.dumps({**held, "num_beams": 3, "forced_eos_token_id": 1, "decoder_start_token_id": 2})
    )
    ours, theirs = (
        model.generation_config
        for model in (
            load_base(str(tmp_path), device="cpu").model,
            from_pretrained("BART", tmp_path),
        )
    )
    assert ours.num_beams == 3
    assert ours.to_diff_dict() == theirs.to_diff_dict()


def test_each_weight_is_read_once_and_let_go_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint("T5 v1.0", tmp_path)
    read: list[tuple[str, weakref.ref[torch.Tensor]]] = []
    place = filling._place

    def watched(model: Any, name: str, tensor: torch.Tensor, path: Path) -> None:
        assert not [other for other, tensor in read if tensor() is not None]
        read.append((name, weakref.ref(tensor)))
        place(model, name, tensor, path)

    monkeypatch.setattr(filling, "_place", watched)
    load_base(str(tmp_path), dtype="bfloat16", device="cpu")
    assert sorted(name for name, _ in read) == sorted(load_file(tmp_path / "model.safetensors"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of a process's memory")
def test_memory_peaks_at_the_finished_model_and_one_weight(tmp_path: Path) -> None:
    whole, largest = large_checkpoint(tmp_path / "large", width=512, blocks=5)
    large_checkpoint(tmp_path / "small", width=64, blocks=1)
    program = str(Path(__file__).with_name("measure_load.py"))
    command = [
        sys.executable,
        program,
        str(tmp_path / "small"),
        str(tmp_path / "large"),
        "nf4",
        "int8",
        "none",
    ]
    pipes: dict[str, Any] = {"capture_output": True, "text": True, "env": environment()}
    found = json.loads(subprocess.run(command, check=True, **pipes).stdout)
    # Of the largest weight: 2 while it is cast, 3 to 6 while bitsandbytes quantises it, and 2 for
    # the allocator.
    for quantization, (share, weights) in {
        "nf4": (0.16, 8),
        "int8": (0.3, 5),
        "none": (0.55, 4),
    }.items():
        assert found[quantization]["model"] < whole * share
        assert found[quantization]["peak"] < found[quantization]["model"] + weights * largest, (
            quantization
        )


def large_checkpoint(folder: Path, *, width: int, blocks: int) -> tuple[int, int]:
    """Writes float32 weights in four shards, without ever holding a model; returns all bytes and
    the largest one's.
    """
    config = transformers.T5Config(
        vocab_size=1000,
        d_model=width,
        d_ff=4 * width,
        num_layers=blocks,
        num_heads=width // 64,
        d_kv=64,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        state = transformers.T5ForConditionalGeneration(config).state_dict()
    sizes = {
        name: tensor.shape
        for name, tensor in state.items()
        if "embed_tokens" not in name and name != "lm_head.weight"
    }
    shards = {f"model-{number}.safetensors": [*sizes][number::4] for number in range(4)}
    for file, names in shards.items():
        save_file(
            {name: torch.rand(sizes[name]) * 0.01 for name in names},
            folder / file,
            metadata={"format": "pt"},
        )
    index = {"weight_map": {name: file for file, names in shards.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    counts = [4 * size.numel() for size in sizes.values()]
    return sum(counts), max(counts)
