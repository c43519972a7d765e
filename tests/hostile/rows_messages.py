"""Frequent mistakes, word for word."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import get_args

from case import Case
from cli_parts import write_csv
from spoiling import Spoil, file

from lora_s2s.recipe.fields import Metric

BASE = "--set model.name=BASE --set data.train="


def row(source: str = "a", target: str = "b") -> str:
    return f'{{"source": "{source}", "target": "{target}"}}\n'


def _two_files() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("a.jsonl", "b.jsonl"):
            archive.writestr(name, "".join(GOOD))
    return stream.getvalue()


def _good(folder: Path) -> None:
    write_csv(folder / "good.csv")


GOOD = [row(f"what {number}", f"it is {number}") for number in range(200)]
# Good rows first, where a bad one is to be counted among them.
CONTENTS: dict[str, str | bytes] = {
    "array.json": '[\n  {"source": "a", "target": "b"},\n  {"source": "c" "target": "d"}\n]\n',
    "bad.jsonl": "".join([*GOOD[:97], '{"source": "a"}\n', row(target=" "), "broken\n"]),
    "broken.yaml": "model:\n  nmae: demo\ndata:\n  train: [a\n",
    "cut.jsonl.gz": gzip.compress("".join(GOOD).encode(), mtime=0)[:-200],
    "deep.json": "[" * 100_000,
    "deep.jsonl": "".join([*GOOD[:9], f'{{"source": {"[" * 100_000}\n']),
    "header.csv": "question,answer\n",
    "keys.jsonl": "".join([*GOOD[:9], '{"source": "a", "source": "b", "target": "c"}\n']),
    "latin.jsonl": "".join(GOOD[:3]).encode() + row(source="café").encode("latin-1"),
    "lone.jsonl": "".join([*GOOD[:9], row(target="\\ud800")]),
    "no_targets.jsonl": "".join(
        json.dumps({"question": f"what {number}", "answer": answer}) + "\n"
        for number, answer in enumerate(("", "  ", None))
    ),
    "notes/a.txt": "hello\n",
    "nul.jsonl": "".join([*GOOD[:9], row(source="a\\u0000b")]),
    "odd.csv": "first,second,third\na,b,c\n",
    "page.jsonl": "<!DOCTYPE html>\n<html><body>Not found</body></html>\n",
    "picture.png": b"\x89PNG\r\n",
    "pointer.parquet": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "ragged.csv": "source,target\na,b\na,b,c\nx\nd,e\n",
    "same_names.csv": "source,target,source\na,b,c\n",
    "two.zip": _two_files(),
    "unknown.yaml": (
        "model:\n  name: demo\ndata:\n  train: good.csv\nlora:\n  rank: 8\ntraining:\n"
        "  learning_rte: 1\n  lora: 2\n"
    ),
    "zero.csv": "",
}


def _golden(name: str, command: str, code: int, message: str) -> Case:
    """A case whose whole message is known; the files that the command names are written."""
    names = [path for path in CONTENTS if path.partition("/")[0] in command]
    spoils: list[Spoil] = [_good, *(file(path, CONTENTS[path]) for path in names)]
    return Case(
        name, command, code, message, lambda folder: [spoil(folder) for spoil in spoils], exact=True
    )


RECIPE_HINT = (
    "hint: lora-s2s recipes schema lists every key; lora-s2s recipes show demo prints a working "
    "recipe\n"
)
NO_RECIPE_HINT = (
    "hint: give a YAML file or a shipped recipe such as flan-t5-base; list them: lora-s2s recipes\n"
)
PATH_HINT = "hint: check the path; it is relative to the current folder\n"
COLUMNS = "the file has 'question', 'answer'"

COMMANDS = [
    _golden(
        "missing file",
        f"train flan-t5-small {BASE}nix.csv",
        3,
        f"error: no such file: nix.csv\n{PATH_HINT}",
    ),
    _golden(
        "mistyped file",
        f"train flan-t5-small {BASE}god.csv",
        3,
        f"error: no such file: god.csv (did you mean 'good.csv'?)\n{PATH_HINT}",
    ),
    _golden(
        "data file as a recipe",
        "prepare good.csv",
        2,
        "error: a data file, not a recipe: 'good.csv'\n"
        "hint: write its recipe: lora-s2s init --data good.csv\n",
    ),
    _golden(
        "missing file, eval",
        "eval BASE --data nix.csv",
        3,
        f"error: no such file: nix.csv\n{PATH_HINT}",
    ),
    _golden(
        "missing file, predict",
        "predict BASE --input nix.txt",
        3,
        f"error: no such file: nix.txt\n{PATH_HINT}",
    ),
    _golden(
        "no data named",
        "eval BASE",
        2,
        "error: BASE has no recipe that names data\nhint: give --data FILE\n",
    ),
    _golden(
        "unknown key",
        "train unknown.yaml",
        2,
        "error: 3 problems in the recipe:\n"
        "  unknown.yaml:6: unknown key 'lora.rank' (did you mean 'lora.r'?)\n"
        "  unknown.yaml:8: unknown key 'training.learning_rte' "
        "(did you mean 'training.learning_rate'?)\n"
        "  unknown.yaml:9: unknown key 'training.lora'\n" + RECIPE_HINT,
    ),
    _golden(
        "broken YAML",
        "train broken.yaml",
        2,
        "error: 1 problem in the recipe:\n"
        "  broken.yaml:5: not YAML: expected ',' or ']', but got '<stream end>'\n" + RECIPE_HINT,
    ),
    _golden(
        "bad --set",
        "train demo --set training.epochs=three --set lora.r=0 --set lr=1",
        2,
        "error: 3 problems in the recipe:\n"
        "  --set lr=1: expected section.key=value (did you mean 'training.learning_rate'?)\n"
        "  --set: training.epochs: expected a number or auto, got 'three'\n"
        "  --set: lora.r: should be greater than or equal to 1; got 0\n" + RECIPE_HINT,
    ),
    _golden(
        "unknown metric",
        "eval BASE --data good.csv --set evaluation.metrics=blue",
        2,
        "error: 1 problem in the recipe:\n"
        f"  --set: evaluation.metrics: expected one of {', '.join(get_args(Metric))}, a "
        "combination such as sqrt(bleu*chrf++), or module:function: unknown metric 'blue' "
        "(did you mean "
        "'bleu'?); got ['blue']\n" + RECIPE_HINT,
    ),
    _golden(
        "unknown recipe",
        "train flan-t5-bse",
        2,
        f"error: no such recipe: 'flan-t5-bse' (did you mean 'flan-t5-base'?)\n{NO_RECIPE_HINT}",
    ),
    _golden(
        "missing recipe file",
        "train nix.yaml",
        2,
        f"error: no such recipe: 'nix.yaml'\n{NO_RECIPE_HINT}",
    ),
    _golden(
        "unknown column",
        f"train flan-t5-small {BASE}good.csv --set data.source_column=qestion",
        3,
        f"error: no column 'qestion' (did you mean 'question'?); {COLUMNS}\n  at: "
        "good.csv\n"
        f"hint: name one of them: lora-s2s train flan-t5-small {BASE}good.csv --set "
        "data.source_column=question, or have it guessed by name: --set data.source_column=null\n",
    ),
    _golden(
        "columns of no known name",
        f"prepare flan-t5-small {BASE}odd.csv",
        3,
        "error: cannot guess the target column; the file has 'first', 'second', "
        "'third'\n"
        "  at: odd.csv\n"
        "hint: name them: --set data.source_column=NAME --set "
        "data.target_column=NAME; the first line was read as a header; if it is data, use "
        "data.source_column=column1 and data.target_column=column2\n",
    ),
    _golden(
        "empty file",
        f"train flan-t5-small {BASE}zero.csv",
        3,
        "error: zero.csv is empty: no row in it\nhint: give a file with a header or keys, and "
        "rows\n",
    ),
    _golden(
        "a header alone",
        f"train flan-t5-small {BASE}header.csv",
        3,
        "error: header.csv is empty: no row in it\nhint: give a file with a header or keys, and "
        "rows\n",
    ),
    _golden(
        "rows lack targets",
        "prepare --data no_targets.jsonl --model BASE --out prepared/x",
        3,
        "error: no row of no_targets.jsonl has a usable source and target: 2 × empty target, 1 × "
        "missing target\n"
        "  at: no_targets.jsonl:1 empty target (what 0 |); no_targets.jsonl:2 empty target (what 1 "
        "|); "
        "no_targets.jsonl:3 missing target\n"
        "hint: name the right column: --set data.target_column=NAME\n",
    ),
    _golden(
        "unreadable kind",
        f"train flan-t5-small {BASE}picture.png",
        3,
        "error: no reader for picture.png; files end in .csv, .tsv, .json, .jsonl, .ndjson, "
        ".parquet, .tmx, each also with .gz, .zst, .zip\n  at: picture.png\nhint: two files of "
        "parallel lines: name both, [train.en, train.de]\n",
    ),
    _golden(
        "not an adapter, merge",
        "merge notes --out merged",
        3,
        "error: not an adapter folder: adapter_config.json is missing\n  at: notes\n"
        "hint: an adapter folder is what 'lora-s2s train' writes; 'lora-s2s adapters' lists "
        "yours\n",
    ),
    _golden(
        "no such adapter, merge",
        "merge nix --out merged",
        3,
        "error: no such adapter folder: nix\n"
        "hint: an adapter folder is what 'lora-s2s train' writes; 'lora-s2s adapters' lists "
        "yours\n",
    ),
    _golden(
        "not an adapter, predict",
        "predict notes hello",
        3,
        "error: not a model folder: no config.json\n  at: notes\nhint: give the folder that holds "
        "config.json\n",
    ),
    _golden(
        "not an adapter, adapters",
        "adapters show notes",
        3,
        "error: notes is not an adapter: it has no adapter_config.json\nhint: lora-s2s adapters\n",
    ),
    _golden(
        "no such adapter, predict",
        "predict notes/nix hello",
        2,
        "error: no such folder: notes/nix\nhint: lora-s2s adapters\n",
    ),
    _golden(
        "a whole model has no baseline",
        "eval BASE --data good.csv --baseline",
        2,
        "error: BASE is a whole model: nothing tells its base apart\n"
        "hint: evaluate the adapter folder with --baseline, or evaluate the base by its own name\n",
    ),
    _golden(
        "unknown target modules",
        f"train flan-t5-small {BASE}good.csv --set lora.target_modules=[] --dry-run",
        2,
        "error: lora.target_modules is empty; groups: attention-qv, attention, cross-attention, "
        "encoder, decoder, all-linear; names: DenseReluDense.wi_0, DenseReluDense.wi_1, "
        "DenseReluDense.wo, EncDecAttention.k, EncDecAttention.o, EncDecAttention.q, "
        "EncDecAttention.v, SelfAttention.k, SelfAttention.o, SelfAttention.q, SelfAttention.v, "
        "k, o, q, v, wi_0, wi_1, wo\n",
    ),
    _golden(
        "unknown verb",
        "trian demo",
        2,
        "error: No such command 'trian'. Did you mean 'train'?\nhint: lora-s2s train demo\n",
    ),
    _golden(
        "missing option",
        "merge adapters/x --base demo",
        2,
        "error: Missing option '--out'\nhint: lora-s2s merge adapters/x --base demo --out DIR\n",
    ),
    _golden(
        "unknown option",
        "train demo --nope",
        2,
        "error: No such option: --nope (Possible options: --model)\nhint: lora-s2s train --help\n",
    ),
    _golden(
        "a misspelt option",
        "train demo.csv --modl demo",
        2,
        "error: No such option: --modl (Possible options: --model)\n"
        "hint: lora-s2s train demo.csv --model demo\n",
    ),
    _golden(
        "a key as an option",
        "train demo.csv --epochs 3",
        2,
        "error: No such option: --epochs\nhint: lora-s2s train demo.csv --set training.epochs=3\n",
    ),
    _golden(
        "a key as an option, with its value",
        "eval a --num-beams=4 --json",
        2,
        "error: No such option: --num-beams\n"
        "hint: lora-s2s eval a --json --set evaluation.num_beams=4\n",
    ),
    _golden(
        "another tool's switch",
        "train --fp16 demo.csv",
        2,
        "error: No such option: --fp16\nhint: lora-s2s train demo.csv --set model.dtype=float16\n",
    ),
    _golden(
        "a setting alone",
        "train x.csv --set lora.r=4 model.name=demo",
        2,
        "error: Got unexpected extra argument(s) (model.name=demo)\n"
        "hint: lora-s2s train x.csv --set lora.r=4 --set model.name=demo\n",
    ),
    _golden(
        "a key as the last word",
        "predict a --epochs",
        2,
        "error: No such option: --epochs\nhint: lora-s2s predict a --set training.epochs=VALUE\n",
    ),
    _golden(
        "a key where no setting is taken",
        "merge a --epochs 3",
        2,
        "error: No such option: --epochs\nhint: lora-s2s merge --help\n",
    ),
    _golden(
        "option before the command",
        "--set lora.r=8 train demo",
        2,
        "error: No such option: --set\n"
        "hint: options come after the command: lora-s2s COMMAND --set …\n",
    ),
    _golden(
        "missing argument",
        "train",
        2,
        "error: expected a RECIPE, or --data and --model together\n"
        "hint: a data file suffices: lora-s2s train my.csv\n",
    ),
    _golden(
        "output in the way",
        f"train flan-t5-small {BASE}good.csv --set output.dir=good.csv",
        2,
        "error: cannot write into good.csv: it is a file\nhint: choose another folder\n",
    ),
    _golden(
        "not in this version",
        f"train flan-t5-small {BASE}good.csv --set model.quantization=fp4",
        2,
        "error: 1 problem in the recipe:\n"
        "  --set: model.quantization: expected one of none, nf4, int8; got 'fp4' (did you mean "
        "'nf4'?)\n" + RECIPE_HINT,
    ),
]

TO = "--model BASE --out prepared/x"
FIX = (
    "hint: fix it there, or write one object per line (.jsonl), so that only bad lines are "
    "omitted\n"
)
TOO_MANY = "rows cannot be used, more than data.max_rejected=0.01:"
ALLOW = "; or allow more: --set data.max_rejected="
FILTERS = (
    "capitalize, default, first, join, last, length, lower, replace, title, trim, truncate, upper"
)

# File, further options, exit code, message after "error: ".
DATA = [
    (
        "array.json",
        "",
        3,
        f"not valid JSON: Expecting ',' delimiter\n  at: array.json:3:18\n{FIX}",
    ),
    ("deep.json", "", 3, f"a value is nested too deeply\n  at: deep.json:1:2\n{FIX}"),
    (
        "latin.jsonl",
        "",
        3,
        "latin.jsonl is not UTF-8: 1 of 4 rows cannot be read\n"
        "  at: latin.jsonl:4 invalid UTF-8: byte 141 of the file\n"
        "hint: byte 0xE9 in line 4 reads 'café' in cp1252: lora-s2s prepare --data latin.jsonl "
        "--model BASE --out prepared/x --set data.encoding=cp1252\n",
    ),
    (
        "page.jsonl",
        "",
        3,
        "page.jsonl is a web page, not data\nhint: download the file itself\n",
    ),
    (
        "pointer.parquet",
        "",
        3,
        "pointer.parquet is a git-lfs pointer, not the data\nhint: git lfs pull\n",
    ),
    (
        "cut.jsonl.gz",
        "",
        3,
        "cut.jsonl.gz is a damaged gzip file (Compressed file ended before the end-of-stream "
        "marker was reached)\nhint: download or compress it again\n",
    ),
    (
        "two.zip",
        "",
        3,
        "two.zip is a zip of 2 files, expected one\nhint: unpack it and name the files\n",
    ),
    (
        "same_names.csv",
        "",
        3,
        "a column named twice: 'source' (columns 1 and 3)\n  at: same_names.csv:1\n"
        "hint: rename one of them\n",
    ),
    (
        "ragged.csv",
        "",
        3,
        f"2 of 4 {TOO_MANY} 1 × more fields than the header, 1 × fewer fields than the header\n"
        "  at: ragged.csv:3 more fields than the header: 3, expected 2 (is a text with the "
        "delimiter unquoted?) "
        "(a | b | c); ragged.csv:4 fewer fields than the header: 1, expected 2 (x)\n"
        "hint: quote cells that contain the delimiter, or use another delimiter\n",
    ),
    (
        "zero.csv",
        "",
        3,
        "zero.csv is empty: no row in it\nhint: give a file with a header or keys, and rows\n",
    ),
    (
        "bad.jsonl",
        "",
        3,
        f"3 of 100 {TOO_MANY} 1 × missing target, 1 × empty target, 1 × not valid JSON\n"
        "  at: bad.jsonl:98 missing target; bad.jsonl:99 empty target (a |); "
        "bad.jsonl:100 not valid JSON: Expecting value at column 1 (broken)\n"
        f"hint: give these rows a target, or remove them{ALLOW}0.03\n",
    ),
    (
        "bad.jsonl",
        "--strict",
        3,
        "a row cannot be used: missing target\n  at: bad.jsonl:98\n"
        "hint: give these rows a target, or remove them; or omit --strict: such rows are "
        "then listed and dropped\n",
    ),
    (
        "keys.jsonl",
        "",
        3,
        f"1 of 10 {TOO_MANY} 1 × duplicate key\n"
        f'  at: keys.jsonl:10 duplicate key: \'source\' ({{"source": "a", "source": "b", "target": '
        f'"c"}})\n'
        f"hint: use each key of an object once{ALLOW}0.1\n",
    ),
    (
        "deep.jsonl",
        "",
        3,
        f"1 of 10 {TOO_MANY} 1 × nested too deeply\n"
        f'  at: deep.jsonl:10 nested too deeply ({{"source": {"[" * 49}…)\n'
        "hint: fix these lines: one JSON object per line, with keys and texts in double "
        f"quotes{ALLOW}0.1\n",
    ),
    (
        "nul.jsonl",
        "",
        3,
        f"1 of 10 {TOO_MANY} 1 × NUL character in source\n  at: nul.jsonl:10 NUL character in "
        "source (a\\x00b | b)\nhint: remove the NUL characters: tr -d '\\000' < FILE > "
        f"NEW{ALLOW}0.1\n",
    ),
    (
        "lone.jsonl",
        "",
        3,
        f"1 of 10 {TOO_MANY} 1 × target is not valid Unicode\n"
        f"  at: lone.jsonl:10 target is not valid Unicode (a | \\ud800)\n"
        f"hint: write the text as UTF-8 again: it contains half of a surrogate pair{ALLOW}0.1\n",
    ),
    (
        "good.csv",
        "--set data.template={{question.__class__}}",
        2,
        "not allowed in a template: 'getattr __class__'\n  at: template:1\n"
        f"hint: allowed are names, if, one loop over turns, and the filters {FILTERS}; at "
        "most 200 nodes\n",
    ),
]

MESSAGES = [
    *COMMANDS,
    *(
        _golden(
            f"{file} {more}".strip(), f"prepare --data {file} {TO} {more}", code, f"error: {said}"
        )
        for file, more, code, said in DATA
    ),
]
