"""Bad input, word for word: the command, its exit code, what stderr says; and that nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

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


SHIPPED = "demo, disfl-qa, e2e-nlg, flan-t5-base, flan-t5-large, flan-t5-small, flan-t5-xl, flan-t5-xxl"
RECIPE_HINT = "hint: lora-s2s recipes schema lists every key; lora-s2s recipes show demo prints a working recipe\n"
NO_RECIPE_HINT = f"hint: give a YAML file or one of {SHIPPED}; see them with: lora-s2s recipes\n"
PATH_HINT = "hint: check the path; it is relative to the current folder\n"
COLUMNS = "the file has the columns 'question', 'answer'"

CASES = [
    Case("missing file", f"train flan-t5-small {BASE}nix.csv", 3, f"error: no such file: nix.csv\n{PATH_HINT}"),
    Case(
        "mistyped file",
        f"train flan-t5-small {BASE}god.csv",
        3,
        f"error: no such file: god.csv (did you mean 'good.csv'?)\n{PATH_HINT}",
    ),
    Case("missing file, eval", "eval BASE --data nix.csv", 3, f"error: no such file: nix.csv\n{PATH_HINT}"),
    Case("missing file, predict", "predict BASE --input nix.txt", 3, f"error: no such file: nix.txt\n{PATH_HINT}"),
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
        "  unknown.yaml:6: unknown key 'lora.rank'\n"
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
        "  --set lr=1: expected section.key=value\n"
        "  --set: training.epochs: expected a number, got 'three'\n"
        "  --set: lora.r: should be greater than or equal to 1; got 0\n" + RECIPE_HINT,
    ),
    Case(
        "unknown metric",
        "eval BASE --data good.csv --set evaluation.metrics=blue",
        2,
        "error: 1 problem in the recipe:\n"
        "  --set: evaluation.metrics: expected one of bleu, chrf, rouge1, rouge2, rougeL, rougeLsum, exact_match, "
        "token_f1; got 'blue' (did you mean 'bleu'?)\n" + RECIPE_HINT,
    ),
    Case(
        "unknown recipe",
        "train flan-t5-bse",
        2,
        f"error: no such recipe: 'flan-t5-bse' (did you mean 'flan-t5-base'?)\n{NO_RECIPE_HINT}",
    ),
    Case("missing recipe file", "train nix.yaml", 2, f"error: no such recipe: 'nix.yaml'\n{NO_RECIPE_HINT}"),
    Case(
        "unknown column",
        f"train flan-t5-small {BASE}good.csv --set data.source_column=qestion",
        3,
        f"error: there is no column 'qestion' (did you mean 'question'?); {COLUMNS}\n  at: good.csv\n"
        "hint: name one of them, or leave it out to have the columns found by their names\n",
    ),
    Case(
        "columns of no known name",
        f"prepare flan-t5-small {BASE}odd.csv",
        3,
        "error: no target column is known by its name; the file has the columns 'first', 'second'\n  at: odd.csv\n"
        "hint: name them: lora-s2s prepare … --set data.source_column=NAME --set data.target_column=NAME\n",
    ),
    Case(
        "empty file",
        f"train flan-t5-small {BASE}zero.csv",
        3,
        "error: zero.csv is empty: no row in it\nhint: give a file with a header or keys, and rows\n",
    ),
    Case(
        "a header alone",
        f"train flan-t5-small {BASE}header.csv",
        3,
        "error: header.csv is empty: no row in it\nhint: give a file with a header or keys, and rows\n",
    ),
    Case(
        "rows lack targets",
        "prepare --data no_targets.jsonl --model BASE --out prepared/x",
        3,
        "error: no row of no_targets.jsonl has a usable source and target: 2 × empty target, 1 × missing target\n"
        "hint: name the right column: lora-s2s prepare … --set data.target_column=NAME\n",
    ),
    Case(
        "unreadable kind",
        f"train flan-t5-small {BASE}picture.png",
        3,
        "error: no reader for picture.png; files end in .csv, .tsv, .json, .jsonl, .ndjson, .parquet, .tmx, each also "
        "with .gz, .zst, .zip\n  at: picture.png\nhint: two files of parallel lines: name both, [train.en, train.de]\n",
    ),
    Case(
        "not an adapter, merge",
        "merge notes --out merged",
        3,
        "error: not an adapter folder: adapter_config.json is missing\n  at: notes\n"
        "hint: an adapter folder is what 'lora-s2s train' writes; 'lora-s2s adapters' lists yours\n",
    ),
    Case(
        "no such adapter, merge",
        "merge nix --out merged",
        3,
        "error: no such adapter folder: nix\n"
        "hint: an adapter folder is what 'lora-s2s train' writes; 'lora-s2s adapters' lists yours\n",
    ),
    Case(
        "not an adapter, predict",
        "predict notes hello",
        3,
        "error: not a model folder: no config.json\n  at: notes\nhint: give the folder that holds config.json\n",
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
            "error: the adapter was trained on BASE (weights THEN); this is BASE (weights NOW)\n  at: FOREIGN\n"
            "hint: give the base it was trained on with --base, or train again on this one\n",
        )
        for verb in ("predict FOREIGN hello", "merge FOREIGN --out merged", "eval FOREIGN --data good.csv")
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
        "error: lora.target_modules is empty; groups: attention-qv, attention, cross-attention, encoder, decoder, "
        "all-linear; names: NAMES\n",
    ),
    Case(
        "unknown verb",
        "trian demo",
        2,
        "error: No such command 'trian'. Did you mean 'train'?\nhint: lora-s2s --help\n",
    ),
    Case("unknown option", "train demo --nope", 2, "error: No such option: --nope\nhint: lora-s2s train --help\n"),
    Case("missing argument", "train", 2, "error: Missing argument 'RECIPE'\nhint: lora-s2s train --help\n"),
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
        "  --set: model.quantization: expected one of none, nf4, int8; got 'fp4' (did you mean 'nf4'?)\n" + RECIPE_HINT,
    ),
]


def prepare_folder(folder: Path) -> None:
    """Makes every kind of bad input."""
    write_csv(folder / "good.csv")
    (folder / "zero.csv").write_text("", encoding="utf-8")
    (folder / "header.csv").write_text("question,answer\n", encoding="utf-8")
    (folder / "odd.csv").write_text("first,second\na,b\n", encoding="utf-8")
    rows = [{"question": f"what {number}", "answer": answer} for number, answer in enumerate(("", "  ", None))]
    (folder / "no_targets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("hello\n", encoding="utf-8")
    (folder / "broken.yaml").write_text("model:\n  nmae: demo\ndata:\n  train: [a\n", encoding="utf-8")
    (folder / "unknown.yaml").write_text(
        "model:\n  name: demo\ndata:\n  train: good.csv\nlora:\n  rank: 8\ntraining:\n  learning_rte: 1\n  lora: 2\n",
        encoding="utf-8",
    )


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An adapter whose manifest names a base with other weights than those now at that place."""
    from lora_s2s.lora.adapter import save_adapter
    from lora_s2s.lora.inject import inject_lora
    from lora_s2s.models.loading import load_base

    other = make_tiny_model(tmp_path_factory.mktemp("other"), seed=1)
    base = load_base(str(other))
    folder = tmp_path_factory.mktemp("adapters") / "foreign"
    folder.mkdir()
    save_adapter(inject_lora(base, r=2, alpha=4, dropout=0, target_modules="attention-qv", seed=0), folder)
    record = {"name": str(tiny_model), "revision": None, "weights_sha256": base.weights_sha256}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "base": record}), encoding="utf-8")
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
    said = re.sub(r"weights [0-9a-f]{12}\)(; |\n)", lambda found: f"weights {_ORDER[found[1]]}){found[1]}", said)
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
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert (run.returncode, run.stderr, run.stdout) == (case.code, case.stderr, "")
