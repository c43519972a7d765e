"""Files made to fill the memory or to take very long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from case import Case
from rows_adapters import CONFIG, MANIFEST, WEIGHTS, adapter
from rows_models import M, model
from rows_recipes import LAUGHS, recipe
from spoiling import both, deep, file, patched, removed, sparse, tensors

HUGE = (2**31).to_bytes(8, "little")


def _million(folder: Path) -> None:
    made = json.loads((folder / "tokenizer.json").read_text())
    made["added_tokens"] = []
    text = json.dumps(made, separators=(",", ":"))
    added = ",".join(f'{{"id":{n},"content":"{n}"}}' for n in range(3000, 1_003_000))
    (folder / "tokenizer.json").write_text(
        text.replace('"added_tokens":[]', f'"added_tokens":[{added}]')
    )


def _many_tensors(header: dict[str, Any]) -> None:
    header.update(
        {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
    )


_HEAVY = [
    adapter("header of 2 GB", sparse(WEIGHTS, 2**31 + 8, HUGE), "a safetensors header of"),
    adapter("a hundred thousand tensors", tensors(WEIGHTS, _many_tensors), "weights"),
    adapter(
        "10,000 targets",
        patched(CONFIG, target_modules=[f"q{n}" for n in range(10_000)]),
        "does not have",
    ),
    adapter("manifest of 2 GB", sparse(MANIFEST, 2**31), "more than 8 MiB"),
    adapter("config of 2 GB", sparse(CONFIG, 2**31), "more than 1 MiB"),
    adapter("recipe of 2 GB", sparse("recipe.yaml", 2**31), "more than 1 MiB"),
    adapter(
        "template that loops",
        deep(
            MANIFEST,
            "input",
            value={
                "template": "{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% "
                "endfor %}"
            },
        ),
        "is refused",
    ),
    adapter(
        "template that grows",
        deep(
            MANIFEST,
            "input",
            value={"template": "{{source" + "|replace('','aaaaaaaaaa')" * 30 + "}}"},
        ),
        "no source can be made",
    ),
    adapter(
        "template that writes a large title",
        deep(
            MANIFEST,
            "input",
            value={
                "template": "{{source"
                + "|replace('','a ')" * 3
                + "|replace('a','a a a a a a ')" * 6
                + "|title" * 30
                + "}}"
            },
        ),
        "no source can be made",
    ),
    model("header of 2 GB", sparse(M, 2**31 + 8, HUGE), "a safetensors header of"),
    model(
        "512 layers",
        patched("config.json", num_layers=512, num_decoder_layers=512),
        "do not fit the config",
    ),
    model(
        "the largest sizes",
        patched(
            "config.json",
            d_model=65_536,
            d_ff=10**6,
            vocab_size=2 * 10**6,
            num_heads=1024,
            d_kv=4096,
        ),
        "do not fit the config",
    ),
    model("tokenizer of 500 MB", sparse("tokenizer.json", 500 * 10**6), "more than 64 MiB"),
    model("tokenizer with a million additions", _million, "1,000,000 added tokens"),
    model(
        "tokenizer of 60 MB of lists",
        file("tokenizer.json", b"[" + b"[]," * 20_000_000 + b"1]"),
        "tokenizer.json",
    ),
    model(
        "index of 60 MB of brackets",
        both(removed(M), file(f"{M}.index.json", b"[" * 60_000_000)),
        "not a JSON document",
    ),
    model("vocabulary of 500 MB", sparse("spiece.model", 500 * 10**6), "more than 64 MiB"),
    recipe("billion laughs", LAUGHS, "anchors, aliases and tags are not used"),
    recipe(
        "900 KB of keys", "".join(f"k{n}: 1\n" for n in range(100_000)), "too long, for a recipe"
    ),
    recipe("900 KB of brackets", "a: " + "[" * 900_000, "nested too deep"),
    recipe("900 KB of one key", "k" * 900_000 + ": 1\n", "r.yaml"),
    recipe("900 KB of question marks", "? " * 450_000, "r.yaml"),
    Case("recipe: 2 GB", "train r.yaml", 2, "larger than 1 MB", sparse("r.yaml", 2**31)),
]
HEAVY = [case._replace(name=f"heavy {case.name}", heavy=True) for case in _HEAVY]
