"""Secrets and paths of this machine in files that are to be published: where they are, without
quoting a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from lora_s2s import limits
from lora_s2s.console import plain
from lora_s2s.files import loads, open_regular
from lora_s2s.recipe.private import holds_secret, is_local_path, mentions_local_path

_CREDENTIAL = "a password or token"
_PATH = "a path of this machine"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "*_vocabulary.*")
_TEXTS = (".json", ".jsonl", ".yaml", ".md", ".html", ".txt", ".jinja")
_WORDS = re.compile(r"[\s,\[\]'\"{}]+")
_CHUNK, _OVERLAP = 1 << 20, 1 << 10
_LONGEST_SHOWN = 80


def is_text(name: str) -> bool:
    """Whether a file is read as a text, by its name."""
    return Path(name).suffix in _TEXTS or name.startswith(("LICENSE", "NOTICE"))


def private_in_text(name: str, content: bytes) -> Iterator[str]:
    """Yields ``FILE:LINE: what`` or ``FILE: KEY: what`` of every secret and path in a text.

    In vocabularies only secrets count, in JSON lines and pages, which quote data, secrets and paths
    below this user's home or the current folder.
    """
    text = content.decode("utf-8", "replace")
    short = name.rpartition("/")[2]
    if any(fnmatch(short, pattern) for pattern in _VOCABULARIES):
        yield from _in_lines(name, text, paths=False)
    elif name.endswith((".jsonl", ".html")):
        yield from _in_lines(name, text, paths=False)
        yield from _own_places(name, text)
    elif name.endswith(".json"):
        yield from _in_json(name, text)
    else:
        yield from _in_lines(name, text, paths=True)


def private_in_weights(name: str, path: Path) -> Iterator[str]:
    """Yields the same of a binary file: what safetensors and ONNX keep beside the weights."""
    if name.endswith(".safetensors"):
        with open_regular(path) as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = stream.read(min(size, limits.LARGEST_SAFETENSORS_HEADER))
        yield from _in_json(name, header.decode("utf-8", "replace"))
    elif name.endswith(".onnx"):
        with open_regular(path) as stream:
            before = b""
            while chunk := stream.read(_CHUNK):
                text = (before + chunk).decode("latin-1")
                if mentions_local_path(text) or holds_secret(text):
                    yield f"{name}: {_PATH} or a token, in the graph's notes"
                    return
                before = chunk[-_OVERLAP:]


def _in_json(name: str, text: str) -> Iterator[str]:
    try:
        document = loads(text)
    except (ValueError, RecursionError):
        yield f"{name}: not a JSON document"
        return
    for key, value in _leaves(document, ""):
        if holds_secret(value):
            yield f"{name}: {key}: {_CREDENTIAL}"
        elif is_local_path(value) or mentions_local_path(value):
            yield f"{name}: {key}: {_PATH}: {_shown(value)}"


def _leaves(value: object, key: str) -> Iterator[tuple[str, str]]:
    """Yields the texts of a document, keys included, each with the keys that lead to it."""
    if isinstance(value, str):
        yield key or "the document", value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield f"a key of {key or 'the document'}", name
            yield from _leaves(inner, f"{key}.{_shown(name)}" if key else _shown(name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{key}[{place}]")


def _in_lines(name: str, text: str, *, paths: bool) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if holds_secret(line):
            yield f"{name}:{number}: {_CREDENTIAL}"
        elif paths:
            local = [word for word in _WORDS.split(line) if is_local_path(word)]
            if local or mentions_local_path(line):
                yield f"{name}:{number}: {_PATH}: {_shown(local[0] if local else line.strip())}"


def _own_places(name: str, text: str) -> Iterator[str]:
    # Data may speak of paths; those of this user's own folders it should not.
    places = {str(Path.home()), str(Path.cwd())} - {"/"}
    forms = [form for place in places for form in (place, json.dumps(place)[1:-1])]
    for number, line in enumerate(text.split("\n"), start=1):
        if any(f"{form}/" in line or f"{form}\\" in line for form in forms):
            yield f"{name}:{number}: {_PATH}"


def _shown(text: str) -> str:
    text = plain(text)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
