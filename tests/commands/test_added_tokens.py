"""A base with tokens of its owner's, from the data to a merged model: one id in targets, and shown
in every answer.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cli_parts import Invoke
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from lora_s2s.hub import DEMO_BASE

QUICK = (
    "training.max_steps=30",
    "training.batch_size=8",
    "training.learning_rate=0.005",
    "lora.target_modules=all-linear",
    "evaluation.max_new_tokens=12",
    "data.validation_fraction=0.2",
)
SETS = [part for word in QUICK for part in ("--set", word)]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled base, as if its owner had added ``<sep>`` and ``<turn>``, on rows that its
    embeddings have.
    """
    folder = tmp_path_factory.mktemp("grown")
    shutil.copytree(DEMO_BASE, folder, dirs_exist_ok=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<sep>", "<turn>"], special_tokens=True)
    assert len(tokenizer) <= 2560
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, target: str = "yes <sep> no") -> str:
    rows = [{"input": f"is it {number} <extra_id_0>", "output": target} for number in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path.name


def labels(folder: Path) -> list[list[int]]:
    table = pa.ipc.open_file(folder / "train.arrow").read_all()
    return [list(row) for row in table["labels"].to_pylist()]


@pytest.mark.parametrize(
    ("mode", "used"), [("auto", {"<sep>"}), ("use", {"<sep>", "<extra_id_0>"}), ("text", set())]
)
def test_what_the_data_has_of_them_is_told_and_used(
    invoke: Invoke, here: Path, grown: Path, mode: str, used: set[str]
) -> None:
    asked = (
        "prepare",
        "--data",
        write_rows(here / "t.jsonl"),
        "--model",
        str(grown),
        "--out",
        "p",
        "--json",
    )
    result = invoke(*asked, "--set", f"data.special_tokens={mode}")
    told = {line.split(" (")[0]: line for line in result.stderr.splitlines()}
    manifest = json.loads((here / "p" / "manifest.json").read_text())
    assert {*manifest["input"]["special_tokens"]} == used
    assert manifest["report"]["special_tokens"]["used"] == dict.fromkeys(sorted(used), 30)
    assert ("added tokens of the base, one id each" in told) is bool(used)
    assert ("added tokens of the base, read as text" in told) is (mode != "use")
    tokenizer: Any = AutoTokenizer.from_pretrained(grown)
    token = tokenizer.convert_tokens_to_ids("<sep>")
    assert {row.count(token) for row in labels(here / "p")} == {1 if used else 0}
    assert not {tokenizer.pad_token_id} & {id for row in labels(here / "p") for id in row}


def test_it_comes_back_in_answers_here_and_in_plain_transformers(
    invoke: Invoke, here: Path, grown: Path
) -> None:
    write_rows(here / "t.jsonl")
    sets = [
        "--set",
        f"model.name={grown}",
        "--set",
        "data.train=t.jsonl",
        "--set",
        "output.name=it",
        *SETS,
    ]
    invoke("train", "flan-t5-small", *sets)
    answer = invoke("predict", "adapters/it", "is it 3").stdout.rstrip("\n")
    assert answer.startswith("yes <sep>")
    # Of the training data, plain transformers reads `<extra_id_0>` as a sentinel, here it is text.
    plain = [json.dumps({"input": f"is it {number}", "output": "yes"}) for number in range(8)]
    (here / "plain.jsonl").write_text("\n".join(plain), encoding="utf-8")
    merged = ("merge", "adapters/it", "--data", "plain.jsonl", "--out", "whole", "--json")
    assert json.loads(invoke(*merged).stdout)["answers_changed"] == 0.0
    assert invoke("predict", "whole", "is it 3").stdout.rstrip("\n") == answer
    tokenizer: Any = AutoTokenizer.from_pretrained("whole")
    model: Any = AutoModelForSeq2SeqLM.from_pretrained("whole")
    ids = tokenizer("is it 3", return_tensors="pt").input_ids
    assert tokenizer.decode(model.generate(input_ids=ids)[0], skip_special_tokens=True) == answer
    # A base in its own right: the next adapter on it reads and writes the token too.
    shutil.rmtree("prepared", ignore_errors=True)
    invoke("prepare", "--data", "t.jsonl", "--model", "whole", "--out", "p")
    assert {row.count(tokenizer.convert_tokens_to_ids("<sep>")) for row in labels(here / "p")} == {
        1
    }


def test_lossless_text_and_used_tokens_exclude_each_other(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    asked = (
        "prepare",
        "--data",
        write_rows(here / "t.jsonl"),
        "--model",
        str(tiny_model),
        "--out",
        "p",
    )
    told = invoke(
        *asked, "--set", "data.special_tokens=use", "--set", "data.lossless_text=on", code=2
    ).stderr
    assert (
        "data.lossless_text=on excludes the use of the base's added tokens (<extra_id_0>)" in told
    )
    assert "hint: --set data.special_tokens=text" in told
    invoke(*asked, "--set", "data.lossless_text=on")
    assert json.loads((here / "p" / "manifest.json").read_text())["input"]["special_tokens"] == []
