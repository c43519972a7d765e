"""Text that T5's vocabulary lacks, from a file to a merged model in plain transformers: braces,
newlines, tabs.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lora_s2s.cli import app

NAMES = "cat dog sun moon tree house river stone bird fish door".split()


def verb(*words: str) -> Any:
    result = CliRunner().invoke(app, [*words])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in words else result.stdout


def rows() -> list[dict[str, str]]:
    """Every pair of names in both kinds of text, in random order."""
    made = []
    for one, two in itertools.permutations(NAMES, 2):
        for kind, lines in {
            "block": (f"{one} {{", f"\t{two}~", "}"),
            "tag": (f"<{one}>", f"    `{two}", "\\"),
        }.items():
            made.append({"source": f"{kind} {one} {two}", "target": "\n".join(lines)})
    random.Random(0).shuffle(made)
    return made


@pytest.mark.slow
def test_a_model_learns_to_write_what_its_vocabulary_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = rows()
    for name, part in (("train", made[:-24]), ("test", made[-24:])):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in part), encoding="utf-8"
        )
    (tmp_path / "r.yaml").write_text(
        "model: {name: demo}\ndata: {train: train.jsonl, test: test.jsonl}\nlora: {target_modules: "
        "all-linear}\n"
        "training: {epochs: 8, tokens_per_batch: 1024, learning_rate: 5e-3}\noutput: {name: "
        "code}\n"
        "evaluation: {metrics: [exact_match], max_new_tokens: 48}\n",
        encoding="utf-8",
    )
    verb("train", "r.yaml")
    score = verb("eval", "adapters/code", "--json")
    assert score["metrics"]["exact_match"]["value"] > 60
    answers = [
        json.loads(line)["prediction"]
        for line in Path(score["predictions"]).read_text().splitlines()
    ]
    for text in ("{", "}", "~", "\n\t", "<", "\n    `", "\n\\"):
        assert any(text in answer for answer in answers), text

    verb("merge", "adapters/code", "--out", "merged")
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model, tokenizer = (
        kind.from_pretrained("merged") for kind in (AutoModelForSeq2SeqLM, AutoTokenizer)
    )
    sources = [
        json.loads(line)["source"] for line in Path(score["predictions"]).read_text().splitlines()
    ]
    for source, answer in list(zip(sources, answers, strict=True))[:8]:
        ids = model.generate(**tokenizer(source, return_tensors="pt"), max_new_tokens=48)
        assert tokenizer.decode(ids[0], skip_special_tokens=True) == answer
