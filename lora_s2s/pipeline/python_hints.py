"""Hints as callers of the Python API read them: arguments in place of command-line options."""

from __future__ import annotations

import json
import re
import shlex

_FLAGS = ("baseline", "overwrite", "resume", "resume-anyway", "strict")
# Words that are Python's own.
_RENAMED = {"from": "predictions"}
_WORD = r"""(?:'[^']*'|"[^"]*"|[,;](?!\s|$)|[^\s'",;])+"""
_SETS = re.compile(rf"--set {_WORD}(?: --set {_WORD})*")
_OPTION = re.compile(r"--([a-z][a-z-]+)( (?!(?:and|names|or|to)\b)(?=\w))?")
_COMMAND = re.compile(r"(lora-s2s [^;,]+)")


def in_python(hint: str | None) -> str | None:
    """The hint of a command as one of a function; commands in it stay as they are.

    >>> in_python("add --resume to continue it")
    'add resume=True to continue it'
    >>> in_python("give --data FILE, or --set evaluation.num_beams=4 --set data.format=pairs")
    'give data=FILE, or overrides={"evaluation.num_beams": 4, "data.format": "pairs"}'
    """
    if hint is None or "--debug" in hint:  # an exception has its traceback
        return None
    parts = _COMMAND.split(hint.replace("the same command", "the same call"))
    return "".join(part if part.startswith("lora-s2s ") else _translated(part) for part in parts)


def _translated(text: str) -> str:
    return _OPTION.sub(_argument, _SETS.sub(_overrides, text))


def _overrides(match: re.Match[str]) -> str:
    settings = (word.partition("=") for word in shlex.split(match[0]) if word != "--set")
    items = ", ".join(f'"{key}": {_value(text)}' for key, _, text in settings)
    return f"overrides={{{items}}}"


def _value(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        return json.dumps([part.strip() for part in text[1:-1].split(",")], ensure_ascii=False)
    if text == "null":
        return "None"
    is_number = re.fullmatch(r"-?\d+(\.\d+)?", text)
    return text if is_number else json.dumps(text, ensure_ascii=False)


def _argument(match: re.Match[str]) -> str:
    name = _RENAMED.get(match[1], match[1].replace("-", "_"))
    if match[1] in _FLAGS:
        return f"{name}=True{match[2] or ''}"
    return f"{name}=" if match[2] else name
