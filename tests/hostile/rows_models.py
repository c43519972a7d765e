"""Models and tokenizers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from case import Case
from spoiling import (
    Spoil,
    both,
    cut,
    deep,
    file,
    linked,
    patched,
    removed,
    renamed,
    sparse,
    weights,
)

HEAD = "lm_head.weight"
MANIFEST = "manifest.json"


def model(
    name: str, spoil: Spoil, said: str, *, command: str = "predict BAD hello", code: int = 3
) -> Case:
    """A copy of the good model, spoilt."""
    return Case(f"model: {name}", command, code, said, spoil, copy_of="model")


M = "model.safetensors"
TOKENS = {
    "id": 9999,
    "content": "x",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": False,
}


def _added(count: int) -> Spoil:
    return deep(
        "tokenizer.json",
        "added_tokens",
        value=[{**TOKENS, "id": 2560 + n, "content": f"<{n}>"} for n in range(count)],
    )


def _replacing(
    pattern: dict[str, str], content: str, times: int, key: str = "normalizers"
) -> dict[str, Any]:
    steps = [{"type": "Replace", "pattern": pattern, "content": content} for _ in range(times)]
    return {"type": "Sequence", key: steps}


def _long_token(folder: Path) -> None:
    made = json.loads((folder / "tokenizer.json").read_text())
    made["model"]["vocab"][300][0] = "x" * 2000
    (folder / "tokenizer.json").write_text(json.dumps(made))


def _nested(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = {"type": "Evil"}
    for _ in range(depth // 2):
        node = {"type": "Sequence", "normalizers": [node]}
    return node


LONG_MAP = base64.b64encode((4).to_bytes(4, "little") + bytes(4) + b"x" * 1000 + b"\0").decode()
PICKLED = [
    model(f"weights as {name}", renamed(M, name), f"{name} is", command="predict BAD hello")
    for name in (
        "pytorch_model.bin",
        "model.pt",
        "model.ckpt",
        "weights.npz",
        "tf_model.h5",
        "flax_model.msgpack",
    )
]
MODELS = [
    *PICKLED,
    model("no config", removed("config.json"), "no config.json"),
    model("config is a list", file("config.json", "[]"), "not a"),
    model("config of 2 MB", file("config.json", '{"a": "' + "x" * 2**21 + '"}'), "more than 1 MiB"),
    model("deep config", file("config.json", "[" * 100_000), "not a JSON document"),
    model(
        "config with code",
        patched("config.json", auto_map={"AutoConfig": "evil.Evil"}),
        "never run",
    ),
    model(
        "no encoder",
        patched("config.json", model_type="gpt2", is_encoder_decoder=False),
        "not an encoder-decoder",
        code=2,
    ),
    model(
        "unknown type", patched("config.json", model_type="evil"), "unknown model family", code=2
    ),
    model("type is a list", patched("config.json", model_type=["t5"]), "", code=2),
    model("size is 2**60", patched("config.json", d_model=2**60), "d_model"),
    model("size is 0", patched("config.json", d_ff=0), "d_ff"),
    model("size is negative", patched("config.json", num_heads=-1), "num_heads"),
    model("size is a word", patched("config.json", num_layers="many"), "num_layers"),
    model("size is true", patched("config.json", vocab_size=True), "vocab_size"),
    model("dropout is a word", patched("config.json", dropout_rate="much"), "config"),
    model(
        "activation is unknown",
        patched("config.json", feed_forward_proj="gated-evil", dense_act_fn="evil"),
        "config",
    ),
    model("activation is a number", patched("config.json", feed_forward_proj=3), "config"),
    model(
        "more layers than weights", patched("config.json", num_layers=60), "do not fit the config"
    ),
    model(
        "quantized",
        patched("config.json", quantization_config={"quant_method": "gptq"}),
        "quantized checkpoint",
        code=2,
    ),
    model(
        "header of 2 GB",
        sparse(M, 2**31 + 8, (2**31).to_bytes(8, "little")),
        "a safetensors header of",
    ),
    model("halved", cut(M, 0.5), "not a valid safetensors file"),
    model("NaN", weights(M, lambda s: s[HEAD].fill_(float("nan"))), "not finite"),
    model(
        "whole numbers", weights(M, lambda s: s.update({HEAD: s[HEAD].long()})), "is of type int64"
    ),
    model(
        "a weight too many",
        weights(M, lambda s: s.update(evil=s[HEAD].clone())),
        "is not part of this model",
    ),
    model("a weight too few", weights(M, lambda s: s.pop("shared.weight")), "is missing"),
    model("weights link out", linked(M, "/etc/passwd"), "a link that leads out"),
    model(
        "index leads out",
        both(removed(M), file(f"{M}.index.json", '{"weight_map": {"a": "../x.safetensors"}}')),
        "own folder",
    ),
    model(
        "index names pickles",
        both(removed(M), file(f"{M}.index.json", '{"weight_map": {"a": "x.bin"}}')),
        "own folder",
    ),
    model(
        "index is damaged", both(removed(M), file(f"{M}.index.json", '{"weight_map": []}')), "index"
    ),
    model(
        "a shard is missing",
        both(removed(M), file(f"{M}.index.json", '{"weight_map": {"a": "x.safetensors"}}')),
        "is missing",
    ),
    model(
        "generation config is a list",
        file("generation_config.json", "[]"),
        "generation_config.json",
    ),
    model(
        "generation config is no JSON",
        file("generation_config.json", "{"),
        "generation_config.json",
    ),
    model(
        "answers must not say a word",
        patched("generation_config.json", bad_words_ids="evil"),
        "generation_config.json",
    ),
    model(
        "answers must not say -1",
        patched("generation_config.json", bad_words_ids=[[-10]]),
        "generation_config.json",
    ),
    model(
        "answers must not say 10**9",
        patched("generation_config.json", bad_words_ids=[[10**9]]),
        "generation_config.json",
    ),
    model(
        "start is a word",
        patched("generation_config.json", decoder_start_token_id="evil"),
        "names the token 'evil'",
    ),
    model(
        "start is beyond",
        patched("config.json", decoder_start_token_id=10**9),
        "names the token 1000000000",
    ),
    model("manifest is a list", file(MANIFEST, "[]"), "not a JSON object"),
    model(
        "no tokenizer",
        removed(
            "tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json"
        ),
        "no tokenizer",
    ),
    model("tokenizer is no JSON", file("tokenizer.json", "{"), "not a JSON document"),
    model(
        "tokenizer is an empty object", file("tokenizer.json", "{}"), "no tokenizer can be loaded"
    ),
    model("tokenizer is a list", file("tokenizer.json", "[]"), "not a JSON object"),
    model("deep tokenizer", file("tokenizer.json", "[" * 100_000), "not a JSON document"),
    model(
        "tokenizer of another model",
        deep("tokenizer.json", "model", value={"type": "Evil"}),
        "no tokenizer can be loaded",
    ),
    model("tokenizer of 65 MB", sparse("tokenizer.json", 65 * 2**20), "more than 64 MiB"),
    model("30,000 added tokens", _added(30_000), "30,000 added tokens"),
    model(
        "a pattern without end",
        deep(
            "tokenizer.json",
            "normalizer",
            value={"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""},
        ),
        "could take long",
    ),
    model(
        "tokenizer config with code",
        patched("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}),
        "never run",
    ),
    model("a token of 2,000 characters", _long_token, "a token of 2,000 characters"),
    model(
        "a normalizer that grows",
        deep("tokenizer.json", "normalizer", value=_replacing({"String": "a"}, "aaaaaaaa", 4)),
        "the normalizer's rules make a text up to",
    ),
    model(
        "a decoder that grows on nothing",
        deep(
            "tokenizer.json",
            "decoder",
            value=_replacing({"Regex": "x?"}, "aaaaaaaa", 4, "decoders"),
        ),
        "the decoder's rules make a text up to",
    ),
    model(
        "a long replacement",
        deep("tokenizer.json", "normalizer", value=_replacing({"String": "a"}, "a" * 10_000, 1)),
        "the normalizer's content has 10,000 characters",
    ),
    model(
        "a character map that is cut",
        deep(
            "tokenizer.json",
            "normalizer",
            value={"type": "Precompiled", "precompiled_charsmap": "//////////8="},
        ),
        "precompiled_charsmap is damaged",
    ),
    model(
        "a character map that is none",
        deep(
            "tokenizer.json",
            "normalizer",
            value={"type": "Precompiled", "precompiled_charsmap": "*"},
        ),
        "precompiled_charsmap is not base64",
    ),
    model(
        "a character map with long replacements",
        deep(
            "tokenizer.json",
            "normalizer",
            value={"type": "Precompiled", "precompiled_charsmap": LONG_MAP},
        ),
        "bytes of one character",
    ),
    model(
        "a normalizer nested without end",
        deep("tokenizer.json", "normalizer", value=_nested(90)),
        "tokenizer",
    ),
    model(
        "tokenizer files elsewhere",
        patched("tokenizer_config.json", fast_tokenizer_files=["../../tokenizer.4.0.json"]),
        "fast_tokenizer_files",
    ),
    model(
        "labels without end",
        patched("config.json", num_labels=20_000_000),
        "num_labels is 20000000",
    ),
    model("a billion extra ids", patched("tokenizer_config.json", extra_ids=10**9), "extra_ids"),
    model(
        "vocabulary elsewhere",
        patched("tokenizer_config.json", vocab_file="/etc/passwd"),
        "points outside the folder",
    ),
    model("tokenizer config is a list", file("tokenizer_config.json", "[]"), "not a JSON object"),
    model(
        "a file in its place",
        lambda f: None,
        "is a file, expected a folder",
        command=f"predict bad/{M} hello",
    ),
    model(
        "a recipe in its place",
        file("m.yaml", "x"),
        "lora-s2s train bad/m.yaml",
        command="predict bad/m.yaml hello",
    ),
    model(
        "a pickle in its place",
        file("m.bin", "x"),
        "convert it in a container",
        command="predict bad/m.bin hello",
    ),
]
