"""What a Tab completes, for the scripts that ``--install-completion`` writes. Light to import.

Typer keeps what begins with the incomplete word. Where nothing does, the shells complete files.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import typer

from lora_s2s.console import write_out
from lora_s2s.recipe.shipped import DATA_SUFFIXES, SCHEMA, YAML, folder, shipped

VARIABLE = "_LORA_S2S_COMPLETE"
# A completed word becomes part of the command line as it is: a space, a quote or `$(…)` in a name
# would act there. The shells' own completion of files escapes such names.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
Items = list[tuple[str, str]]
"""Words and what they mean, which most shells show beside them."""
_Key = dict[str, object]  # its JSON Schema


def words(*choices: str) -> Callable[[], list[str]]:
    """Returns a completer of a closed list."""
    return lambda: [*choices]


def metrics() -> list[str]:
    """Completes the name of a metric."""
    return _values(_keys()["evaluation.metrics"])


def settings(incomplete: str) -> Items:
    """Completes ``SECTION.KEY=``; then the values of a closed list, or the default."""
    name, equals, _ = incomplete.partition("=")
    keys = {key: one for key, one in _keys().items() if f"{key}=".startswith(name + equals)}
    items = [(f"{key}=", str(one["description"])) for key, one in keys.items()]
    if len(keys) == 1:  # with more than one word, no shell adds a space after the sign
        items += [(f"{key}={value}", "") for key in keys for value in _values(keys[key])]
    return items


def recipes() -> Items:
    """Completes a shipped recipe."""
    texts = {name: path.read_text(encoding="utf-8") for name, path in shipped().items()}
    return [(name, text.partition("\n")[0].strip("# ")) for name, text in texts.items()]


def runs(incomplete: str) -> Items:
    """Completes a shipped recipe, a file of a recipe or of data, or a folder."""
    return _or_files(recipes(), incomplete, (*YAML, *DATA_SUFFIXES))


def models(context: typer.Context, incomplete: str) -> Items:
    """Completes an adapter in ``--dir``, where the command has it, the bundled base or a folder."""
    place = Path(context.params.get("folder") or "adapters")
    files = [*place.glob("*/adapter_config.json"), *place.glob("*/recipe.yaml")]
    names = sorted({path.parent.name for path in files})
    items = [(name, "") for name in (*names, "demo") if _PLAIN.fullmatch(name)]
    return _or_files(items, incomplete)


def answer(run: Callable[[], object], anywhere: tuple[str, ...]) -> int | str | None:
    """Writes what Typer completes to stdout; returns the exit code.

    Args:
        anywhere: the options that Typer does not know.
    """
    kept, code, text = _prepare(anywhere), None, io.StringIO()
    try:
        with redirect_stdout(text):
            run()
    except SystemExit as end:
        code = end.code
    write_out(re.sub(f"(?m)^{re.escape(kept)}", "", text.getvalue()).removesuffix("\n"))
    return code


def _prepare(anywhere: tuple[str, ...]) -> str:
    """Drops words that Typer does not know from the environment, and joins those that bash
    separates at ``=`` and ``:``; returns the beginning of the last one that bash keeps.
    """
    given, unknown = os.environ, re.compile(rf"(?<!\S)(?:{'|'.join(anywhere)})\s")
    given["_TYPER_COMPLETE_ARGS"] = unknown.sub("", given.get("_TYPER_COMPLETE_ARGS", ""))
    separate = given.get("COMP_WORDS", "").split("\n")[: int(given.get("COMP_CWORD", "0")) + 1]
    joined = re.sub(r"\n([=:]+)(?:\n(?=[^\n]))?", r"\1", "\n".join(separate))
    line = unknown.sub("", joined)
    given.update(COMP_WORDS=line, COMP_CWORD=str(line.count("\n")))
    kept = line.rpartition("\n")[2].removesuffix(separate[-1].strip("=:"))
    return re.sub("^--[a-z-]+=", "", kept)


def _keys() -> dict[str, _Key]:
    """The schema of every key of a recipe, by ``section.key``."""
    schema = json.loads((folder() / SCHEMA).read_text(encoding="utf-8"))
    return {
        f"{section}.{key}": details
        for section, place in schema["properties"].items()
        if "$ref" in place
        for key, details in schema["$defs"][Path(place["$ref"]).name]["properties"].items()
    }


def _values(details: _Key) -> list[str]:
    """The values that a key's schema lists, or else its default."""
    text = json.dumps(details)
    if '"boolean"' in text:
        return ["true", "false"]
    lists = re.findall(r'"(?:enum|examples)": (\[.*?])', text)
    values = [value for words in lists for value in json.loads(words)]
    return values or [json.dumps(details.get("default", "...")).strip('"')]


def _or_files(items: Items, incomplete: str, suffixes: tuple[str, ...] = ()) -> Items:
    """Adds the folders and files here to items, which a shell would not do; nothing if no item
    begins with the incomplete word.
    """
    if not any(name.startswith(incomplete) for name, _ in items):
        return []
    beside = sorted(f"{path}/" if path.is_dir() else path.name for path in Path().glob("*"))
    plain = [name for name in beside if name.endswith(("/", *suffixes)) and _PLAIN.fullmatch(name)]
    return [*items, *((name, "") for name in plain)]
