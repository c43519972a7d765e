"""Constrained answers: valid without exception, nothing valid out of reach, and what they cost.

python benchmarks/constraints.py           about 5 minutes on one core; writes
benchmarks/results/constraints-cpu.json

Needs xgrammar (pip install 'lora-s2s[grammar]'). Three parts:

- random label sets, regular expressions and JSON Schemas, over tokenizers of five kinds: answers
  drawn token by token, each allowed token being as likely, are judged by slow references (Python's
  re, a validator of schemas written from the specification); texts that fit are looked for in the
  tokens that training would have them in.
- the demo's 250 test messages, answered by the base and by the adapter, freely and by a regular
  expression for its records.
- the same answers of the adapter timed with and without, in CPU seconds, in turns.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import string
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from train_and_score import RESULTS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from random_constraints import (  # type: ignore[import-not-found]
    LETTERS,
    drawn,
    fits,
    has_pattern,
    random_expression,
    random_schema,
    random_value,
    reached,
    writes,
    written,
)
from tiny_tokenizers import write_tokenizer  # type: ignore[import-not-found]

from lora_s2s.demo.task import examples
from lora_s2s.errors import UsageError
from lora_s2s.inference.constraint import Constraint, constraint_of
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.predictor import Predictor
from lora_s2s.tokens.loading import load_tokenizer
from lora_s2s.tokens.lossless import ALWAYS, lossless_tokenizer

KINDS = ("demo", "lossless", "byt5", "bart", "gemma")
DRAWS = 3
RECORD = (
    r"name: [A-Z][a-z]+ [A-Z][a-z]+ \| people: ([2-9]|10) \| day: (Mon|Tues|Wednes|Thurs|Fri|Satur|"
    r"Sun)day \| time: (1[7-9]|2[01]):(00|15|30|45) \| phone: ([0-9]{3}-[0-9]{4}|none)"
)
Case = tuple[Any, list[str], Callable[[str], bool]]


def tokenizers(folder: Path) -> dict[str, Any]:
    """A tokenizer of each kind: SentencePiece, the same with lossless text, bytes, byte-level
    pieces, byte fallback.
    """
    demo = load_tokenizer("demo")
    made = {"demo": demo, "lossless": lossless_tokenizer(demo, ALWAYS)}
    for kind in KINDS[2:]:
        made[kind] = load_tokenizer(write_tokenizer(kind, folder / kind))
    return made


def label_case(chosen: random.Random) -> Case:
    """A set of labels that begin, and contain, each other."""
    letters = chosen.sample(string.ascii_letters, 3)
    words = ["".join(chosen.choices(letters, k=chosen.randint(1, 5))) for _ in range(20)]
    made = {" ".join(chosen.choices(words, k=chosen.randint(1, 2))) for _ in range(10)}
    labels = tuple(sorted(made | {"yes", "no"}))
    return labels, list(labels), labels.__contains__


def expression_case(chosen: random.Random) -> Case:
    """A regular expression."""
    expression = random_expression(chosen, LETTERS + "\n{é")
    pattern = re.compile(expression.pattern)
    texts = [expression.sample(chosen) for _ in range(DRAWS)]
    return f"regex: {expression.pattern}", texts, lambda text: pattern.fullmatch(text) is not None


def schema_case(chosen: random.Random) -> Case:
    """A JSON Schema."""
    schema = random_schema(chosen)
    texts = [] if has_pattern(schema) else [random_value(chosen, schema) for _ in range(DRAWS)]
    made = [written(value, chosen) for value in texts]

    def is_valid(text: str) -> bool:
        try:
            return bool(fits(json.loads(text), schema))
        except ValueError:
            return False

    return f"json: {json.dumps(schema)}", made, is_valid


def judged(make: Callable[[random.Random], Case], count: int, folder: Path) -> dict[str, Any]:
    """How many answers and texts there were, and which of them were wrong."""
    counts, wrong = Counter[str](), []
    kinds = tokenizers(folder)
    for number in range(count):
        chosen = random.Random(number)
        value, texts, is_valid = make(chosen)
        kind = KINDS[number % len(KINDS)]
        tokenizer = kinds[kind]
        constraint = made(value, tokenizer)
        counts["constraints"] += 1
        if constraint is None:
            counts["refused: the vocabulary cannot write it"] += 1
            continue
        for text in texts:
            if text and writes(tokenizer, text):
                counts["valid texts"] += 1
                if not reached(constraint, tokenizer, text):
                    wrong.append({"kind": kind, "constraint": str(value), "not reached": text})
        for _ in range(DRAWS):
            answer = drawn(constraint, tokenizer, chosen)
            counts["answers" if answer is not None else "answers that did not end"] += 1
            if answer is not None and not is_valid(answer):
                wrong.append({"kind": kind, "constraint": str(value), "invalid": answer})
    return {**counts, "wrong": wrong}


def made(value: Any, tokenizer: Any) -> Constraint | None:
    """A compiled constraint; None where the vocabulary cannot write it, or only the empty text
    fits.
    """
    try:
        return constraint_of(DecodingSettings(400, constraint=value), tokenizer)
    except UsageError as error:
        if "cannot write" in error.message or "empty answer alone" in error.message:
            return None
        raise


def fields_of(record: str) -> list[str]:
    """The parts of a record."""
    return record.split(" | ")


def demo(predictor: Predictor, sources: list[str], records: list[str]) -> dict[str, Any]:
    """Answers to the demo's messages, freely and constrained."""
    outcome: dict[str, Any] = {}
    for name, one in {"base": predictor.baseline(), "adapter": predictor}.items():
        for how, value in {"free": None, "constrained": f"regex: {RECORD}"}.items():
            texts = [
                answer.text
                for answer in decode(one, sources, DecodingSettings(64, constraint=value))
            ]
            right = [
                sum(a == b for a, b in zip(fields_of(text), fields_of(record), strict=False))
                for text, record in zip(texts, records, strict=True)
            ]
            valid = sum(re.fullmatch(RECORD, text) is not None for text in texts)
            exact = sum(map(str.__eq__, texts, records))
            outcome[f"{name} {how}"] = {
                "fields right %": round(100 * sum(right) / (5 * len(records)), 1),
                "valid %": round(100 * valid / len(records), 1),
                "exact %": round(100 * exact / len(records), 1),
            }
    return outcome


def cost(predictor: Predictor, sources: list[str], rounds: int) -> dict[str, Any]:
    """CPU seconds of the adapter's answers, free and constrained in turns."""
    seconds: dict[str, list[float]] = {}
    for beams in (1, 4):
        for _ in range(rounds):
            for how, value in {"free": None, "constrained": f"regex: {RECORD}"}.items():
                settings = DecodingSettings(64, num_beams=beams, constraint=value)
                before = time.process_time()
                decode(predictor, sources, settings)
                spent = time.process_time() - before
                seconds.setdefault(f"{beams} beams {how}", []).append(round(spent, 3))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": seconds,
        "constrained / free": {
            f"{beams} beams": round(
                medians[f"{beams} beams constrained"] / medians[f"{beams} beams free"], 3
            )
            for beams in (1, 4)
        },
    }


PARTS: dict[str, Callable[[random.Random], Case]] = {
    "labels": label_case,
    "regex": expression_case,
    "json": schema_case,
}


def main() -> None:
    """Runs the parts asked for; the others stay as the file has them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=[*PARTS, "demo", "cost"])
    parser.add_argument("--count", type=int, default=1000, help="constraints of each kind")
    parser.add_argument("--limit", type=int, default=250, help="messages of the demo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--adapter", default="adapters/demo")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = asked.out / "constraints-cpu.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    result["what"] = "constrained answers; see benchmarks/constraints.py"
    names = ("xgrammar", "torch", "transformers")
    result["versions"] = {name: version(name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in PARTS.items():
            if name in asked.parts:
                result[name] = judged(make, asked.count, Path(folder) / name)
    if {"demo", "cost"} & {*asked.parts}:
        predictor = load_predictor(asked.adapter)
        pairs = examples("test")[: asked.limit]
        sources = [predictor.render(message) for message, _ in pairs]
        if "demo" in asked.parts:
            result["demo"] = demo(predictor, sources, [record for _, record in pairs])
        if "cost" in asked.parts:
            result["cost"] = cost(predictor, sources, asked.rounds)
    asked.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
