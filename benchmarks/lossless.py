"""What a T5 vocabulary loses of a file's texts, and what spare rows bring back: unknown tokens,
round trips, length.

python benchmarks/lossless.py nl2bash/all.jsonl.gz t5-tokenizer      writes
benchmarks/results/lossless-NAME.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from train_and_score import RESULTS
from transformers import AutoTokenizer

from lora_s2s.examples.example import Example
from lora_s2s.examples.read import Examples
from lora_s2s.recipe.schema import DataSection
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.loading import embedding_rows, load_tokenizer
from lora_s2s.tokens.lossless import lossless_tokenizer, lossless_tokens


def measured(texts: list[str], tokenizer: Any) -> dict[str, int]:
    """Counts tokens, unknown ones, and the texts that come back byte for byte."""
    ids = encode_texts(texts, tokenizer)
    return {
        "tokens": sum(map(len, ids)),
        "unknown": sum(row.count(tokenizer.unk_token_id) for row in ids),
        "texts": len(texts),
        "come_back": sum(
            tokenizer.decode(row) == text for row, text in zip(ids, texts, strict=True)
        ),
    }


def main() -> None:
    """Measures both tokenizers, and the second as plain transformers loads it again; writes the
    result.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    plain = load_tokenizer(asked.model)
    rows = [row for row in Examples(DataSection(train=asked.data)) if isinstance(row, Example)]
    counts = Counter(char for row in rows for char in f"{row.source}{row.target}")
    lossless = lossless_tokenizer(
        plain, lossless_tokens(plain, embedding_rows(plain, asked.model, None), counts)
    )
    with tempfile.TemporaryDirectory() as folder:
        lossless.save_pretrained(folder)
        again = AutoTokenizer.from_pretrained(folder)
    kinds = {
        "plain": plain,
        "lossless": lossless,
        "lossless, saved and loaded by transformers": again,
    }
    sides = {"targets": [row.target for row in rows], "sources": [row.source for row in rows]}
    result = {
        "command": " ".join(["python", "benchmarks/lossless.py", *sys.argv[1:]]),
        **{
            side: {kind: measured(texts, one) for kind, one in kinds.items()}
            for side, texts in sides.items()
        },
    }
    print(json.dumps(result, indent=2))
    name = Path(asked.data).parent.name or Path(asked.data).stem
    (asked.out / f"lossless-{name}.json").write_text(
        json.dumps(result, indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
