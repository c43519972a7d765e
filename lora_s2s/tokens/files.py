"""A tokenizer's files, checked before anything else reads them: code, paths, sizes."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_s2s import limits
from lora_s2s.errors import DataError
from lora_s2s.files import mapping, read_object, read_whole
from lora_s2s.systems import is_plain_name

TOKENIZER_FILES = """
    tokenizer.json spiece.model sentencepiece.bpe.model vocab.json merges.txt tokenizer_config.json
    special_tokens_map.json added_tokens.json tokenizer.model source.spm target.spm
    target_vocab.json
""".split()
_VOCABULARIES = [
    name
    for name in TOKENIZER_FILES
    if not name.startswith(("tokenizer_config", "special", "added", "merges"))
]
NO_TOKENIZER = "name a model whose folder holds tokenizer.json or spiece.model"
_REPEATED_GROUP = re.compile(r"\)[*+{]")


def check_tokenizer_files(folder: Path) -> None:
    """Refuses what would run code, open files elsewhere, or take long; chat templates are never
    read.

    Raises:
        DataError: one of these, or a damaged file.
    """
    for name in ("config.json", "tokenizer_config.json"):
        settings = _object(folder / name)
        where = str(folder / name)
        if settings.get("auto_map"):
            raise DataError("auto_map names code of the model, which is never run", where=where)
        for key, value in settings.items():
            names_file = key.endswith(
                ("vocab_file", "merges_file", "tokenizer_file", "spm", "model_file")
            )
            if names_file and isinstance(value, str) and not is_plain_name(value):
                raise DataError(f"{key} points outside the folder", where=where)
        if settings.get("fast_tokenizer_files") not in (None, ["tokenizer.json"]):
            raise DataError(
                "fast_tokenizer_files names other files than tokenizer.json", where=where
            )
        for key in ("extra_ids", "offset"):
            if isinstance(settings.get(key), int) and settings[key] > limits.MOST_EXTRA_IDS:
                raise DataError(
                    f"{key} is {settings[key]:.4g}, at most {limits.MOST_EXTRA_IDS:,}", where=where
                )
    if not any((folder / name).is_file() for name in _VOCABULARIES) and "ByT5" not in str(settings):
        # Transformers would build an empty vocabulary.
        raise DataError("no tokenizer: no vocabulary file", hint=NO_TOKENIZER, where=str(folder))
    made = _object(folder / "tokenizer.json")
    added = [made.get("added_tokens"), _object(folder / "added_tokens.json"), *settings.values()]
    added += _object(folder / "special_tokens_map.json").values()
    if (
        most := max(len(tokens) for tokens in added if isinstance(tokens, (list, dict)))
    ) > limits.MOST_ADDED_TOKENS:
        raise DataError(
            f"a tokenizer with {most:,} added tokens, at most {limits.MOST_ADDED_TOKENS:,}",
            where=str(folder),
        )
    _check_pipeline(made, where=str(folder / "tokenizer.json"))


def _check_pipeline(made: Mapping[str, Any], *, where: str) -> None:
    """Refuses patterns that could take long, and rules that make a text grow without end, here for
    any text.
    """
    parts = {
        key: made.get(key) for key in ("normalizer", "pre_tokenizer", "decoder", "post_processor")
    }
    model = mapping(made.get("model"))
    settings = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    for name, part in {**parts, "model": settings}.items():
        for step in _objects(part):
            for key, value in step.items():
                if key == "Regex":
                    _check_pattern(value, where)
                elif key == "precompiled_charsmap":
                    _check_character_map(value, where)
                elif isinstance(value, str) and len(value) > limits.LONGEST_TOKEN:
                    raise DataError(
                        f"the {name}'s {key} has {len(value):,} characters", where=where
                    )
        growth = _growth(part)
        if growth > limits.MOST_GROWTH:
            problem = (
                f"the {name}'s rules make a text up to {growth:.3g} times as long, at most "
                f"{limits.MOST_GROWTH:,}"
            )
            raise DataError(problem, where=where)


def _check_pattern(pattern: object, where: str) -> None:
    if (
        not isinstance(pattern, str)
        or len(pattern) > limits.LONGEST_PATTERN
        or _REPEATED_GROUP.search(pattern)
    ):
        raise DataError(f"a pattern that could take long: {pattern!r:.60}", where=where)


def _growth(part: object) -> float:
    """Returns how many times longer a pipeline's rules can make a text, at most.

    From the last rule to the first, each character has the length that the rules behind make of it.
    A rule's content has the sum of its characters' lengths, and so has what it replaces. A
    character that no rule names has ``other``.
    """
    lengths: dict[str, float] = {}
    other, added = (
        1.0,
        0.0,
    )  # what is added to every length stands apart, so that a rule costs no more than its text
    for step in _objects(part):  # the last first
        content, pattern = step.get("content"), step.get("pattern")
        if step.get("type") != "Replace" or not isinstance(content, str):
            if step.get("type") not in (None, "Sequence"):  # may turn any character into any other
                other = max(other, *lengths.values(), 0.0)
                lengths.clear()
            continue
        made = sum(lengths.get(character, other) + added for character in content)
        replaced = pattern.get("String") if isinstance(pattern, dict) else None
        if isinstance(replaced, str) and replaced:
            for character in set(replaced):
                share = made / len(replaced) - added
                lengths[character] = max(lengths.get(character, other), share)
        # what a regular expression matches may be empty: then the content stands beside every
        # character
        else:
            added += made
    return max(other, *lengths.values(), 0.0) + added


def _check_character_map(value: object, where: str) -> None:
    """Refuses a character map whose parts do not fit it, or that makes long texts of single
    characters.
    """
    try:
        content = base64.b64decode(value or "", validate=True)  # type: ignore[arg-type]
    except (binascii.Error, TypeError, ValueError) as error:
        raise DataError("precompiled_charsmap is not base64", where=where) from error
    size = int.from_bytes(content[:4], "little")
    if content and (size % 4 or not 4 <= size <= len(content) - 4):
        raise DataError(f"precompiled_charsmap is damaged: a table of {size:,} bytes", where=where)
    longest = max(map(len, content[4 + size :].split(b"\0")))
    if longest > limits.LONGEST_REPLACEMENT:
        raise DataError(
            f"precompiled_charsmap makes {longest:,} bytes of one character", where=where
        )


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    text = read_whole(path)
    if (parts := text.count(b"[") + text.count(b"{")) > limits.MOST_JSON_PARTS:
        problem = f"{parts:,} lists and objects in one file, at most {limits.MOST_JSON_PARTS:,}"
        raise DataError(problem, where=str(path))
    return read_object(path)


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    """Yields every object in a part of a ``tokenizer.json``."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
        waiting += (
            part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        )
