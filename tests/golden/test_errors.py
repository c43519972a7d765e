"""Bad input, word for word: the command, its exit code, what stderr says; and that nothing is left
behind.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cli_parts import Invoke, listing, make_tiny_model, write_csv

_ORDER = {"; ": "THEN", "\n": "NOW"}
BASE = "--set model.name=BASE --set data.train="


class Case(NamedTuple):
    """``BASE`` in the command and in the text stands for the tiny base's folder."""

    name: str
    command: str
    code: int
    stderr: str


SHIPPED = (
    "demo, disfl-qa, e2e-nlg, flan-t5-base, flan-t5-large, flan-t5-small, flan-t5-xl, flan-t5-xxl, "
    "nl2bash"
)
RECIPE_HINT = (
    "hint: lora-s2s recipes schema lists every key; lora-s2s recipes show demo prints a working "
    "recipe\n"
)
NO_RECIPE_HINT = f"hint: give a YAML file or one of {SHIPPED}; see them with: lora-s2s recipes\n"
PATH_HINT = "hint: check the path; it is relative to the current folder\n"
COLUMNS = "the file has 'question', 'answer'"

CASES = [
    Case(
        "missing file",
        f"train flan-t5-small {BASE}nix.csv",
        3,
        f"error: no such file: nix.csv\n{PATH_HINT}",
    ),
    Case(
        "mistyped file",
        f"train flan-t5-small {BASE}god.csv",
        3,
        f"error: no such file: god.csv (did you mean 'good.csv'?)\n{PATH_HINT}",
    ),
    Case(
        "data file as a recipe",
        "train good.csv",
        2,
        "error: a data file, not a recipe: 'good.csv'\n"
        "hint: name it as data: --data good.csv --model google/flan-t5-base\n",
    ),
    Case(
        "missing file, eval",
        "eval BASE --data nix.csv",
        3,
        f"error: no such file: nix.csv\n{PATH_HINT}",
    ),
    Case(
        "missing file, predict",
        "predict BASE --input nix.txt",
        3,
        f"error: no such file: nix.txt\n{PATH_HINT}",
    ),
    Case(
        "no data named",
        "eval BASE",
        2,
        "error: BASE comes without a recipe that names data\nhint: give --data FILE\n",
    ),
    Case(
        "unknown key",
        "train unknown.yaml",
        2,
        "error: 3 problems in the recipe:\n"
        "  unknown.yaml:6: unknown key 'lora.rank' (did you mean 'lora.r'?)\n"
        "  unknown.yaml:8: unknown key 'training.learning_rte' (did you mean 'learning_rate'?)\n"
        "  unknown.yaml:9: unknown key 'training.lora'\n" + RECIPE_HINT,
    ),
    Case(
        "broken YAML",
        "train broken.yaml",
        2,
        "error: 1 problem in the recipe:\n"
        "  broken.yaml:5: not YAML: expected ',' or ']', but got '<stream end>'\n" + RECIPE_HINT,
    ),
    Case(
        "bad --set",
        "train demo --set training.epochs=three --set lora.r=0 --set lr=1",
        2,
        "error: 3 problems in the recipe:\n"
        "  --set lr=1: expected section.key=value (did you mean 'training.learning_rate'?)\n"
        "  --set: training.epochs: expected a number or auto, got 'three'\n"
        "  --set: lora.r: should be greater than or equal to 1; got 0\n" + RECIPE_HINT,
    ),
    Case(
        "unknown metric",
        "eval BASE --data good.csv --set evaluation.metrics=blue",
        2,
        "error: 1 problem in the recipe:\n"
        "  --set: evaluation.metrics: expected one of auto, bleu, chrf, rouge1, rouge2, rougeL, "
        "rougeLsum, "
        "exact_match, macro_f1, token_f1; got 'blue' (did you mean 'bleu'?)\n" + RECIPE_HINT,
    ),
    Case(
        "unknown recipe",
        "train flan-t5-bse",
        2,
        f"error: no such recipe: 'flan-t5-bse' (did you mean 'flan-t5-base'?)\n{NO_RECIPE_HINT}",
    ),
    Case(
        "missing recipe file",
        "train nix.yaml",
        2,
        f"error: no such recipe: 'nix.yaml'\n{NO_RECIPE_HINT}",
    ),
    Case(
        "unknown column",
        f"train flan-t5-small {BASE}good.csv --set data.source_column=qestion",
        3,
        f"error: there is no column 'qestion' (did you mean 'question'?); {COLUMNS}\n  at: "
        "good.csv\n"
        "hint: name one of them, or omit it to have the columns guessed by their names\n",
    ),
    Case(
        "columns of no known name",
        f"prepare flan-t5-small {BASE}odd.csv",
        3,
        "error: cannot guess the target column; the file has 'first', 'second', "
        "'third'\n"
        "  at: odd.csv\n"
        "hint: name them: lora-s2s prepare … --set data.source_column=NAME --set "
        "data.target_column=NAME; the first line was read as a header: where it is data, use "
        "data.source_column=column1 and data.target_column=column2\n",
    ),
    Case(
        "empty file",
        f"train flan-t5-small {BASE}zero.csv",
        3,
        "error: zero.csv is empty: no row in it\nhint: give a file with a header or keys, and "
        "rows\n",
    ),
    Case(
        "a header alone",
        f"train flan-t5-small {BASE}header.csv",
        3,
        "error: header.csv is empty: no row in it\nhint: give a file with a header or keys, and "
        "rows\n",
    ),
    Case(
        "rows lack targets",
        "prepare --data no_targets.jsonl --model BASE --out prepared/x",
        3,
        "error: no row of no_targets.jsonl has a usable source and target: 2 × empty target, 1 × "
        "missing target\n"
        "  at: no_targets.jsonl:1 empty target (what 0 |); no_targets.jsonl:2 empty target (what 1 "
        "|); "
        "no_targets.jsonl:3 missing target\n"
        "hint: name the right column: lora-s2s prepare … --set data.target_column=NAME\n",
    ),
    Case(
        "unreadable kind",
        f"train flan-t5-small {BASE}picture.png",
        3,
        "error: no reader for picture.png; files end in .csv, .tsv, .json, .jsonl, .ndjson, "
        ".parquet, .tmx, each also with .gz, .zst, .zip\n  at: picture.png\nhint: two files of "
        "parallel lines: name both, [train.en, train.de]\n",
    ),
    Case(
        "not an adapter, merge",
        "merge notes --out merged",
        3,
        "error: not an adapter folder: adapter_config.json is missing\n  at: notes\n"
        "hint: an adapter folder is what 'lora-s2s train' writes; 'lora-s2s adapters' lists "
        "yours\n",
    ),
    Case(
        "no such adapter, merge",
        "merge nix --out merged",
        3,
        "error: no such adapter folder: nix\n"
        "hint: an adapter folder is what 'lora-s2s train' writes; 'lora-s2s adapters' lists "
        "yours\n",
    ),
    Case(
        "not an adapter, predict",
        "predict notes hello",
        3,
        "error: not a model folder: no config.json\n  at: notes\nhint: give the folder that holds "
        "config.json\n",
    ),
    Case(
        "not an adapter, adapters",
        "adapters show notes",
        3,
        "error: notes is not an adapter: it has no adapter_config.json\nhint: lora-s2s adapters\n",
    ),
    Case(
        "no such adapter, predict",
        "predict notes/nix hello",
        2,
        "error: no such folder: notes/nix\nhint: lora-s2s adapters\n",
    ),
    *(
        Case(
            f"adapter for another base, {verb.split()[0]}",
            verb,
            3,
            "error: the adapter was trained on BASE (weights THEN); this is BASE (weights NOW)\n  "
            "at: FOREIGN\n"
            "hint: give the base it was trained on with --base, or train again on this one\n",
        )
        for verb in (
            "predict FOREIGN hello",
            "merge FOREIGN --out merged",
            "eval FOREIGN --data good.csv",
        )
    ),
    Case(
        "a whole model has no baseline",
        "eval BASE --data good.csv --baseline",
        2,
        "error: BASE is a whole model: nothing tells its base apart\n"
        "hint: evaluate the adapter folder with --baseline, or evaluate the base by its own name\n",
    ),
    Case(
        "unknown target modules",
        f"train flan-t5-small {BASE}good.csv --set lora.target_modules=[] --dry-run",
        2,
        "error: lora.target_modules is empty; groups: attention-qv, attention, cross-attention, "
        "encoder, decoder, all-linear; names: NAMES\n",
    ),
    Case(
        "unknown verb",
        "trian demo",
        2,
        "error: No such command 'trian'. Did you mean 'train'?\nhint: lora-s2s --help\n",
    ),
    Case(
        "unknown option",
        "train demo --nope",
        2,
        "error: No such option: --nope (Possible options: --model)\nhint: lora-s2s train --help\n",
    ),
    Case(
        "missing argument",
        "train",
        2,
        "error: expected a RECIPE, or --data and --model together\n"
        "hint: lora-s2s train --data FILE --model demo, or lora-s2s train demo\n",
    ),
    Case(
        "output in the way",
        f"train flan-t5-small {BASE}good.csv --set output.dir=good.csv",
        2,
        "error: cannot write into good.csv: it is a file\nhint: choose another folder\n",
    ),
    Case(
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

# File, what follows the command, exit code, message.
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
        f"1 of 4 {TOO_MANY} 1 × invalid UTF-8\n"
        f"  at: latin.jsonl:4 invalid UTF-8: byte 141 of the file\n"
        "hint: byte 0xE9 in line 4 reads 'café' in windows-1252: convert it (iconv -f "
        f"WINDOWS-1252 -t UTF-8 latin.jsonl > utf8-latin.jsonl) or save it as UTF-8{ALLOW}0.25\n",
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
        "two.zip is a zip of 2 files, expected one\n"
        "hint: unpack it and name the files; a spreadsheet: save it as CSV\n",
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
        f"hint: quote cells that contain the delimiter, or use another delimiter{ALLOW}0.5\n",
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
        "hint: give these rows a target, or remove them; or omit --strict to have such rows "
        "listed and dropped\n",
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
        "hint: fix these lines: each is one JSON object, its keys and texts in double "
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
        f"hint: allowed are names, if, one loop over turns, and the filters {FILTERS}; 200 of "
        "these at most\n",
    ),
]
CASES += [
    Case(f"{file} {more}".strip(), f"prepare --data {file} {TO} {more}", code, f"error: {said}")
    for file, more, code, said in DATA
]


def row(source: str = "a", target: str = "b") -> str:
    return f'{{"source": "{source}", "target": "{target}"}}\n'


def write_bad_data(folder: Path) -> None:
    """Makes the files of DATA: good rows first, where a bad one is to be counted among them."""
    good = [row(f"what {number}", f"it is {number}") for number in range(200)]
    texts = {
        "array.json": '[\n  {"source": "a", "target": "b"},\n  {"source": "c" "target": "d"}\n]\n',
        "deep.json": "[" * 100_000,
        "page.jsonl": "<!DOCTYPE html>\n<html><body>Not found</body></html>\n",
        "pointer.parquet": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        "same_names.csv": "source,target,source\na,b,c\n",
        "ragged.csv": "source,target\na,b\na,b,c\nx\nd,e\n",
        "bad.jsonl": "".join([*good[:97], '{"source": "a"}\n', row(target=" "), "broken\n"]),
        "keys.jsonl": "".join([*good[:9], '{"source": "a", "source": "b", "target": "c"}\n']),
        "deep.jsonl": "".join([*good[:9], f'{{"source": {"[" * 100_000}\n']),
        "nul.jsonl": "".join([*good[:9], row(source="a\\u0000b")]),
        "lone.jsonl": "".join([*good[:9], row(target="\\ud800")]),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "latin.jsonl").write_bytes(
        "".join(good[:3]).encode() + row(source="café").encode("latin-1")
    )
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress("".join(good).encode(), mtime=0)[:-200])
    with zipfile.ZipFile(folder / "two.zip", "w") as archive:
        for name in ("a.jsonl", "b.jsonl"):
            archive.writestr(name, "".join(good))


def prepare_folder(folder: Path) -> None:
    """Makes every kind of bad input."""
    write_bad_data(folder)
    write_csv(folder / "good.csv")
    (folder / "zero.csv").write_text("", encoding="utf-8")
    (folder / "header.csv").write_text("question,answer\n", encoding="utf-8")
    (folder / "odd.csv").write_text("first,second,third\na,b,c\n", encoding="utf-8")
    rows = [
        {"question": f"what {number}", "answer": answer}
        for number, answer in enumerate(("", "  ", None))
    ]
    (folder / "no_targets.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("hello\n", encoding="utf-8")
    (folder / "broken.yaml").write_text(
        "model:\n  nmae: demo\ndata:\n  train: [a\n", encoding="utf-8"
    )
    (folder / "unknown.yaml").write_text(
        "model:\n  name: demo\ndata:\n  train: good.csv\nlora:\n  rank: 8\ntraining:\n  "
        "learning_rte: 1\n  lora: 2\n",
        encoding="utf-8",
    )


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An adapter whose manifest names a base with other weights than those now at that place."""
    from adapting import adapt

    from lora_s2s.lora.adapter import save_adapter
    from lora_s2s.models.loading import load_base

    other = make_tiny_model(tmp_path_factory.mktemp("other"), seed=1)
    base = load_base(str(other))
    folder = tmp_path_factory.mktemp("adapters") / "foreign"
    folder.mkdir()
    save_adapter(
        adapt(base, r=2, alpha=4, dropout=0, target_modules="attention-qv", seed=0), folder
    )
    record = {"name": str(tiny_model), "revision": None, "weights_sha256": base.weights_sha256}
    (folder / "manifest.json").write_text(
        json.dumps({"format": 1, "base": record}), encoding="utf-8"
    )
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_word_for_word(
    case: Case, invoke: Invoke, here: Path, tiny_model: Path, request: pytest.FixtureRequest
) -> None:
    prepare_folder(here)
    places = {"BASE": str(tiny_model)}
    if "FOREIGN" in case.command:
        places["FOREIGN"] = str(request.getfixturevalue("foreign"))
    before = listing(here)
    result = invoke(*(filled(word, places) for word in case.command.split()), code=None)
    said = result.stderr[max(result.stderr.find("error: "), 0) :]  # progress comes before
    said = re.sub(
        r"weights [0-9a-f]{12}\)(; |\n)",
        lambda found: f"weights {_ORDER[found[1]]}){found[1]}",
        said,
    )
    said = re.sub(r"; names: .*", "; names: NAMES", said)
    assert (result.exit_code, said) == (case.code, filled(case.stderr, places))
    assert result.stdout == ""
    assert listing(here) == before


def filled(text: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        text = text.replace(name, place)
    return text


@pytest.mark.parametrize("case", [CASES[0]], ids=lambda case: case.name)
def test_the_console_script_ends_the_same_way(case: Case, here: Path, tiny_model: Path) -> None:
    words = [filled(word, {"BASE": str(tiny_model)}) for word in case.command.split()]
    root = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-m", "lora_s2s", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert (run.returncode, run.stderr, run.stdout) == (case.code, case.stderr, "")


def prepared(invoke: Invoke, data: str, out: str = "out") -> dict[str, Any]:
    """Runs ``prepare`` and returns what it printed."""
    found: dict[str, Any] = json.loads(
        invoke("prepare", "--data", data, "--model", "demo", "--out", out, "--json").stdout
    )
    return found


def rejected(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_one_bad_row_among_many_is_counted_and_listed(invoke: Invoke, here: Path) -> None:
    good = "".join(row(f"what {number}", f"it is {number}") for number in range(200)).encode()
    (here / "a.jsonl").write_bytes(good + row(source="café").encode("latin-1"))
    rows = prepared(invoke, "a.jsonl")["rows"]
    assert rows == {"read": 201, "kept": 200, "rejected": 1, "by_reason": {"invalid UTF-8": 1}}
    (item,) = rejected(here / "out")
    assert (item["file"], item["line"]) == ("a.jsonl", 201)
    assert item["reason"] == f"invalid UTF-8: byte {len(good) + 15} of the file"


def test_a_folder_of_different_columns_works_and_lists_the_file_left_out(
    invoke: Invoke, here: Path
) -> None:
    (here / "mixed").mkdir()
    (here / "mixed" / "a.jsonl").write_text(
        "".join(row(f"what {number}") for number in range(200)), encoding="utf-8"
    )
    (here / "mixed" / "b.csv").write_text("question,answer\nwho,me\n", encoding="utf-8")
    (here / "mixed" / "odd.csv").write_text("first,second\na,b\n", encoding="utf-8")
    rows = prepared(invoke, "mixed")["rows"]
    assert rows["kept"] == 201
    assert rows["by_reason"] == {"no columns known in this file": 1}
    (item,) = rejected(here / "out")
    assert item["file"] == "mixed/odd.csv"
    assert item["reason"].endswith("the file has 'first', 'second'")


def test_a_file_edited_within_the_second_and_of_the_same_size_is_prepared_again(
    invoke: Invoke, here: Path
) -> None:
    file = here / "a.jsonl"
    for number, answer in enumerate(("it is red", "it is tan")):
        file.write_text(
            "".join(row(f"what {place}", answer) for place in range(20)), encoding="utf-8"
        )
        os.utime(file, (1_700_000_000, 1_700_000_000))
        assert prepared(invoke, "a.jsonl")["classes"] == {answer: 19}, number
        page = (here / "out" / "report.html").read_text(encoding="utf-8")
        assert answer in page
