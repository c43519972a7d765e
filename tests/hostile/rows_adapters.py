"""Adapters."""

from __future__ import annotations

from typing import Any

from case import Case
from cli_parts import write_csv
from rows_recipes import ESCAPE
from spoiling import (
    Spoil,
    both,
    cut,
    deep,
    fifo,
    file,
    linked,
    patched,
    removed,
    renamed,
    sparse,
    tensors,
    weights,
)

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"
QUERY = "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight"


def adapter(
    name: str, spoil: Spoil, said: str, *, command: str = "predict BAD hello", code: int = 3
) -> Case:
    """A copy of the good adapter, spoilt."""
    return Case(f"adapter: {name}", command, code, said, spoil, copy_of="adapter")


def config(name: str, said: str, **changes: Any) -> Case:
    """Other keys in ``adapter_config.json``."""
    return adapter(name, patched(CONFIG, **changes), said)


def manifest(name: str, keys: str, value: Any, said: str) -> Case:
    """Another value in ``manifest.json``."""
    return adapter(name, deep(MANIFEST, *keys.split("."), value=value), said)


def _nan(state: dict[str, Any]) -> None:
    next(iter(state.values()))[0, 0] = float("nan")


def _as(kind: str) -> Spoil:
    import torch

    return weights(
        WEIGHTS,
        lambda state: state.update({name: t.to(getattr(torch, kind)) for name, t in state.items()}),
    )


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in sorted(header.items()) if name != "__metadata__")


ADAPTERS = [
    *(
        adapter(
            f"weights as {suffix}",
            both(renamed(WEIGHTS, f"adapter_model{suffix}")),
            f"adapter_model{suffix} is "
            f"{'a pickle' if suffix not in ('.h5', '.msgpack') else 'no safetensors'}",
        )
        for suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npz", ".h5", ".msgpack")
    ),
    adapter(
        "a pickle under the name of safetensors",
        file(WEIGHTS, b"\x80\x04\x95cposix\nsystem\n"),
        "header of",
    ),
    adapter("no weights", removed(WEIGHTS), "adapter_model.safetensors is missing"),
    adapter("empty weights", file(WEIGHTS, b""), "not a valid safetensors file"),
    adapter("halved weights", cut(WEIGHTS, 0.5), "not a valid safetensors file"),
    adapter(
        "more bytes than said",
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"x"),
        "not a valid",
    ),
    adapter(
        "header of 2 GB",
        sparse(WEIGHTS, 2**31 + 8, (2**31).to_bytes(8, "little")),
        "a safetensors header of",
    ),
    adapter("header of all bytes", file(WEIGHTS, b"\xff" * 64), "a safetensors header of"),
    adapter(
        "header that is no JSON",
        tensors(WEIGHTS, lambda h: b"{" * 64),
        "not a valid safetensors file",
    ),
    adapter(
        "deep header", tensors(WEIGHTS, lambda h: b'{"a":' * 20_000), "not a valid safetensors file"
    ),
    adapter(
        "overlapping tensors",
        tensors(WEIGHTS, lambda h: _first(h).update(data_offsets=[0, 4])),
        "not a valid",
    ),
    adapter(
        "absurd shape",
        tensors(WEIGHTS, lambda h: _first(h).update(shape=[2**62, 2**62])),
        "not a valid",
    ),
    adapter(
        "negative shape", tensors(WEIGHTS, lambda h: _first(h).update(shape=[-1, 3])), "not a valid"
    ),
    adapter(
        "offsets beyond the end",
        tensors(WEIGHTS, lambda h: _first(h).update(data_offsets=[0, 2**40])),
        "not a valid",
    ),
    adapter(
        "unknown type", tensors(WEIGHTS, lambda h: _first(h).update(dtype="F33")), "not a valid"
    ),
    adapter(
        "a weight's other name", weights(WEIGHTS, lambda s: s.update(x=s.pop(QUERY))), "is missing"
    ),
    adapter(
        "weights of the base",
        weights(WEIGHTS, lambda s: s.update({"base_model.model.shared.weight": s[QUERY].clone()})),
        "does not belong in an adapter",
    ),
    adapter(
        "another shape",
        weights(WEIGHTS, lambda s: s.update({QUERY: s[QUERY][:1].clone()})),
        "has shape",
    ),
    adapter("NaN", weights(WEIGHTS, _nan), "not finite"),
    adapter("whole numbers", _as("int64"), "is of type int64"),
    adapter("truth values", _as("bool"), "is of type bool"),
    adapter("complex numbers", _as("complex64"), "is of type complex64"),
    adapter("8-bit floats", _as("float8_e4m3fn"), "is of type float8_e4m3fn"),
    adapter("weights link out", linked(WEIGHTS, "/etc/passwd"), "a link that leads out"),
    adapter("config links out", linked(CONFIG, "/etc/passwd"), "a link that leads out"),
    adapter(
        "manifest links to its parent",
        both(file("../secret.json", "{}"), linked(MANIFEST, "../secret.json")),
        "leads out",
    ),
    adapter(
        "tokenizer links out", linked("tokenizer.json", "/etc/hostname"), "a link that leads out"
    ),
    adapter("scores link out", linked("evaluations", "/etc"), "evaluations is a link that leads"),
    adapter("weights are a pipe", fifo(WEIGHTS), "is missing"),
    adapter("config is no JSON", file(CONFIG, "{"), "not a JSON document"),
    adapter("config is a list", file(CONFIG, "[]"), "not an object"),
    adapter("config is not UTF-8", file(CONFIG, b"\xff{}"), "not a JSON document"),
    adapter("deep config", file(CONFIG, "[" * 100_000), "not a JSON document"),
    adapter(
        "a number of 5,000 digits", file(CONFIG, '{"r": ' + "9" * 5000 + "}"), "not a JSON document"
    ),
    adapter("config of 2 MB", file(CONFIG, '{"a": "' + "x" * 2**21 + '"}'), "more than 1 MiB"),
    config("no type", "type None", peft_type=...),
    config("another type", "an adapter of type 'EVIL'", peft_type="EVIL"),
    config("type is a list", "an adapter of type", peft_type=["LORA"]),
    config("rank of a billion", "the adapter's r is 1000000000", r=10**9),
    config("rank is true", "the adapter's r is True", r=True),
    config("alpha is NaN", "lora_alpha", lora_alpha=float("nan")),
    config("targets that the base lacks", "does not have", target_modules=["nix"]),
    config("targets with a path", "target_modules", target_modules=["../q"]),
    config("100,000 targets", "target_modules", target_modules=["q"] * 100_000),
    config("weights of the base to save", "modules_to_save", modules_to_save=["lm_head"]),
    config("layers doubled", "layer_replication", layer_replication=[[0, 100_000]]),
    config("a start that changes the base", "init_lora_weights", init_lora_weights="pissa"),
    config("a switch nobody knows", "frobnicate", frobnicate=1),
    config("name of the base is a list", "base_model_name_or_path", base_model_name_or_path=["a"]),
    config("base with escapes", "base_model_name_or_path", base_model_name_or_path=ESCAPE),
    adapter(
        "another base, only in the config",
        both(removed(MANIFEST), patched(CONFIG, base_model_name_or_path="evil/base")),
        "is not downloaded",
    ),
    adapter(
        "a folder as base, of unknown weights", removed(MANIFEST), "does not say which weights"
    ),
    manifest("a hub's base that is not here", "base.name", "evil/base", "is not downloaded"),
    manifest("a base on the network", "base.name", "//host/share/base", "is not downloaded"),
    manifest("a base with ..", "base.name", "../../../../../nix", "is not downloaded"),
    manifest("a base with a long name", "base.name", "x" * 5000, "is not downloaded"),
    *(
        adapter(
            f"a base with other weights, {command.split()[0]}",
            both(
                deep(MANIFEST, "base", "weights_sha256", value="0" * 64),
                lambda folder: write_csv(folder / "good.csv"),
            ),
            "error: the adapter was trained on BASE (weights 000000000000); this is BASE "
            "(weights HASH)\n  at: BAD\n"
            "hint: name the base it was trained on (--base NAME), or train again on this one\n",
            command=command,
        )._replace(exact=True)
        for command in (
            "predict BAD hello",
            "merge BAD --out merged",
            "eval BAD --data bad/good.csv",
        )
    ),
    manifest("base is a list", "base", ["demo"], "is damaged: base should be"),
    manifest("base's name is a number", "base.name", 3, "is damaged: base.name should be"),
    manifest("input is a list", "input", [], "is damaged: input should be"),
    manifest(
        "input's template reaches attributes",
        "input",
        {"template": "{{source.__class__}}"},
        "is refused",
    ),
    manifest(
        "input's template loops",
        "input",
        {"template": "{% for i in range(10**9) %}x{% endfor %}"},
        "is refused",
    ),
    manifest("input's template is a number", "input", {"template": 3}, "input.template"),
    manifest(
        "input's tokens are 1e12", "input", {"max_source_tokens": 10**12}, "max_source_tokens"
    ),
    manifest("input's side", "input", {"truncate_source": "up"}, "truncate_source"),
    manifest(
        "quantized in an unknown way",
        "base.quantization",
        "evil",
        "is damaged: base.quantization should be",
    ),
    adapter("manifest is a list", file(MANIFEST, "[]"), "not a JSON object"),
    adapter("manifest of 9 MB", sparse(MANIFEST, 9 * 2**20), "more than 8 MiB"),
    adapter(
        "recipe with code of its own",
        file("recipe.yaml", "extends: demo\ndata:\n  format: os:getcwd\n"),
        "its own code",
        command="predict BAD hello",
    ),
    adapter(
        "recipe with code of its own, merged",
        file("recipe.yaml", "extends: demo\ndata:\n  format: os:getcwd\n"),
        "its own code",
        command="eval BAD",
    ),
    adapter("recipe of another kind", file("recipe.yaml", "- 1\n"), "expected sections", code=2),
    adapter(
        "a file in place of a folder",
        lambda f: None,
        "a file is not opened",
        command=f"merge bad/{WEIGHTS} --out m",
    ),
    adapter(
        "merged onto nothing",
        lambda f: None,
        "--onto",
        command="merge BAD --out m --onto nix",
        code=2,
    ),
    adapter(
        "merged as nothing",
        lambda f: None,
        "dtype",
        command="merge BAD --out m --dtype int3",
        code=2,
    ),
    adapter(
        "merged into what is there",
        lambda f: None,
        "exists already",
        command="merge BAD --out bad",
        code=2,
    ),
    adapter(
        "shown with a manifest that is none",
        file(MANIFEST, "{"),
        "not a JSON document",
        command="adapters show BAD",
    ),
    adapter(
        "a base that is none",
        lambda f: None,
        "no safetensors weights",
        command="predict BAD hello --base bad",
    ),
]
