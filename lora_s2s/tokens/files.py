"""A tokenizer's files, before anything else reads them: whose code, which files, how much they ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_s2s import limits
from lora_s2s.errors import DataError
from lora_s2s.files import read_json, read_whole

TOKENIZER_FILES = (
    "tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "source.spm", "target.spm", "target_vocab.json",
)  # fmt: skip
_VOCABULARIES = [
    name for name in TOKENIZER_FILES if not name.startswith(("tokenizer_config", "special", "added", "merges"))
]
NO_TOKENIZER = "name a model whose folder holds tokenizer.json or spiece.model"
# What a tokenizer's folder may ask for: Gemma adds 6,415 tokens, T5 counts its 100 sentinels.
_MOST_ADDED, _MOST_COUNTED, _LONGEST_PATTERN = 20_000, 10_000, 500
_REPEATED_GROUP = re.compile(r"\)[*+{]")


def check_tokenizer_files(folder: Path) -> None:
    """Refuses what would run code, open files elsewhere, or take long; chat templates are never read.

    Raises:
        DataError: it is there, or a file is damaged.
    """
    for name in ("config.json", "tokenizer_config.json"):
        settings = _object(folder / name)
        where = str(folder / name)
        if settings.get("auto_map"):
            raise DataError("auto_map names code of the model's own, which is never run", where=where)
        for key, value in settings.items():
            names_file = key.endswith(("vocab_file", "merges_file", "tokenizer_file", "spm", "model_file"))
            if names_file and isinstance(value, str) and Path(value).name != value:
                raise DataError(f"{key} leads out of the folder", where=where)
        for key in ("extra_ids", "offset"):
            if isinstance(settings.get(key), int) and settings[key] > _MOST_COUNTED:
                raise DataError(f"{key} is {settings[key]:.4g}, at most {_MOST_COUNTED:,}", where=where)
    if not any((folder / name).is_file() for name in _VOCABULARIES) and "ByT5" not in str(settings):
        # Transformers makes up a vocabulary of nothing.
        raise DataError("no tokenizer: none of its vocabularies is there", hint=NO_TOKENIZER, where=str(folder))
    made = _object(folder / "tokenizer.json")
    added = [made.get("added_tokens"), _object(folder / "added_tokens.json"), *settings.values()]
    added += _object(folder / "special_tokens_map.json").values()
    if (most := max(len(tokens) for tokens in added if isinstance(tokens, (list, dict)))) > _MOST_ADDED:
        raise DataError(f"a tokenizer with {most:,} added tokens, at most {_MOST_ADDED:,}", where=str(folder))
    for pattern in _patterns([made.get(key) for key in ("normalizer", "pre_tokenizer", "decoder", "post_processor")]):
        if not isinstance(pattern, str) or len(pattern) > _LONGEST_PATTERN or _REPEATED_GROUP.search(pattern):
            raise DataError(f"a pattern that could take long: {pattern!r:.60}", where=str(folder / "tokenizer.json"))


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    text = read_whole(path)
    if (parts := text.count(b"[") + text.count(b"{")) > limits.MOST_JSON_PARTS:
        problem = f"{parts:,} lists and objects in one file, at most {limits.MOST_JSON_PARTS:,}"
        raise DataError(problem, where=str(path))
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError("not a JSON object", where=str(path))
    return content


def _patterns(node: Any) -> Iterator[Any]:
    """Yields every regular expression in a part of a ``tokenizer.json``."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if key == "Regex":
            yield value
        elif isinstance(value, (dict, list)):
            yield from _patterns(value)
