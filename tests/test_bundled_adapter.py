"""`adapters/demo` answers before anyone trains, here and in plain PEFT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from typer.testing import CliRunner

from lora_s2s.cli import app
from lora_s2s.demo.task import examples

ADAPTER = Path(__file__).parents[1] / "adapters" / "demo"
MESSAGE = "hiya its Marta Quillfeather, table for four on fri at 7.30pm? my number is 555-0142 thx"
RECORD = "name: Marta Quillfeather | people: 4 | day: Friday | time: 19:30 | phone: 555-0142"


def test_it_answers_from_the_command_line() -> None:
    done = CliRunner().invoke(app, ["predict", str(ADAPTER), MESSAGE])
    assert (done.exit_code, done.stdout) == (0, f"{RECORD}\n")


def test_plain_peft_gives_the_answers_on_record(demo_base: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(ADAPTER, tmp_path / "adapter"))
    base = AutoModelForSeq2SeqLM.from_pretrained(demo_base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, alone).eval()
    tokenizer = AutoTokenizer.from_pretrained(alone)
    with (ADAPTER / "evaluations" / "demo-test" / "predictions.jsonl").open(
        encoding="utf-8"
    ) as stream:
        rows = [json.loads(line) for line, _ in zip(stream, range(16), strict=False)]
    batch = tokenizer([row["source"] for row in rows], return_tensors="pt", padding=True)
    output = model.generate(**batch, max_new_tokens=64)
    assert tokenizer.batch_decode(output, skip_special_tokens=True) == [
        row["prediction"] for row in rows
    ]


def test_its_score_on_record_is_that_of_its_answers() -> None:
    manifest = json.loads((ADAPTER / "manifest.json").read_text(encoding="utf-8"))
    with (ADAPTER / "evaluations" / "demo-test" / "predictions.jsonl").open(
        encoding="utf-8"
    ) as stream:
        rows = [json.loads(line) for line in stream]
    assert [(row["source"], row["references"]) for row in rows] == [
        (s, [t]) for s, t in examples("test")
    ]
    right = sum(row["prediction"] in row["references"] for row in rows)
    score = manifest["scores"]["demo-test"]["metrics"]["exact_match"]["value"]
    assert score == pytest.approx(100 * right / len(rows))
    assert score >= 50


@pytest.mark.parametrize("path", sorted(ADAPTER.rglob("*")), ids=lambda path: path.name)
def test_it_holds_no_path_of_a_machine(path: Path) -> None:
    if path.suffix in (".json", ".jsonl", ".yaml", ".md", ".html"):
        text = path.read_text(encoding="utf-8")
        assert "/home/" not in text
        assert "/root/" not in text
        assert "/tmp/" not in text  # noqa: S108  looked for, not used
