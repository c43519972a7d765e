"""Merged models of every family, and lossless text, are the same in transformers 4.57, beside the
tested set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_family_battery import PAIRS, batch_of, folder_of, logits_of, trained_on
from tiny_families import TINY

from lora_s2s.lora.merge import merge_adapter
from lora_s2s.models.loading import load_base
from lora_s2s.tokens.loading import load_tokenizer
from lora_s2s.tokens.lossless import ALWAYS, lossless_tokenizer

# With what it needs and the tested set has in other versions.
PACKAGES = (
    "transformers==4.57.6",
    "huggingface-hub==0.36.0",
    "tokenizers==0.22.1",
    "requests",
    "urllib3",
    "idna",
    "charset-normalizer",
    "certifi",
)
# transformers 4.57 does not load a decoder vocabulary of another size, not even as transformers 5
# itself writes it.
ROWS = [name for name in TINY if name != "Marian (two vocabularies)"]
READER = """
import json, sys, torch, transformers
from safetensors.torch import load_file, save_file
assert transformers.__version__.startswith("4.57")
found = {}
for folder in json.loads(sys.argv[1]):
    given = load_file(folder + "/inputs.safetensors")
    model, told = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True)
    found[folder] = [name for name in told["missing_keys"] if "embed_positions" not in name]
    with torch.no_grad():
        save_file({"logits": model.eval()(**given).logits}, folder + "/logits.safetensors")
print(json.dumps(found))
"""


TEXTS = [
    "",
    " \n x",
    "if (a < b) {\n        c\n\n}\t",
    "a</s>b <pad>  <extra_id_5>",
    "é ²  ^\\~`",
    "the cat",
    " " * 17,
]
LOSSLESS_READER = """
import json, sys, transformers
assert transformers.__version__.startswith("4.57")
folder, texts = json.loads(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
made = tokenizer(texts)
assert list(made) == ["input_ids", "attention_mask"] and tokenizer.model_max_length == 512
ids = made["input_ids"]
print(json.dumps([ids, tokenizer.batch_decode(ids, skip_special_tokens=True)]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(target),
        *PACKAGES,
    ]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("no package index to install transformers 4.57 from")
    return target


def answer(installed: Path, reader: str, asked: list[Any]) -> Any:
    """What a script says, run in transformers 4.57."""
    done = subprocess.run(
        [sys.executable, "-c", reader, json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_lossless_text_is_the_same_in_transformers_4(
    tmp_path: Path, demo_base: Path, installed: Path
) -> None:
    tokenizer = lossless_tokenizer(load_tokenizer(str(demo_base)), [*ALWAYS, ">", "é", "²"])
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((demo_base / "config.json").read_text())
    ids, shown = answer(installed, LOSSLESS_READER, [str(tmp_path), TEXTS])
    assert ids == tokenizer(TEXTS)["input_ids"]
    assert shown == TEXTS


@pytest.mark.slow
def test_merged_models_are_the_same_in_transformers_4(tmp_path: Path, installed: Path) -> None:
    place = tmp_path / "families"
    merged: dict[str, str] = {}
    for name in ROWS:
        folder_of(name, place)
        out = tmp_path / str(TINY[name].family) / str(len(merged))
        out.parent.mkdir(exist_ok=True)
        merge_adapter(trained_on(name, place, steps=4).adapter, out, probe_texts=list(PAIRS))
        # Its window reaches other neighbours in an encoder of transformers 4: beyond 4096 tokens in
        # real models.
        config = json.loads((out / "config.json").read_text())
        for stack in ("encoder", "decoder") if name == "T5Gemma" else ():
            config[stack]["sliding_window"] = 64
        (out / "config.json").write_text(json.dumps(config))
        manifest = json.loads((out / "manifest.json").read_text())
        del manifest["files"]["config.json"]  # what somebody does who changes a file
        (out / "manifest.json").write_text(json.dumps(manifest))
        batch = batch_of(folder_of(name, place))
        inputs = {"input_ids": batch.input_ids_BS, "attention_mask": batch.attention_mask_BS}
        save_file(
            {**inputs, "decoder_input_ids": batch.labels_BT.clamp(min=0)},
            out / "inputs.safetensors",
        )
        merged[name] = str(out)
    assert set(map(tuple, answer(installed, READER, list(merged.values())).values())) == {()}
    for name, folder in merged.items():
        theirs = load_file(f"{folder}/logits.safetensors")["logits"]
        assert torch.allclose(theirs, ours(folder, name, place), atol=2e-5), name


def ours(folder: str, name: str, place: Path) -> torch.Tensor:
    model = load_base(folder, device="cpu").model
    model.set_attn_implementation("eager")
    return logits_of(model, batch_of(folder_of(name, place)))
