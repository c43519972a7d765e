"""Files of lines that belong together by their names: a file of sources and one or several of its
targets.

dev.src  dev.ref0  dev.ref1       asset.test.orig  asset.test.simp.0  asset.test.simp.1
train.de  train.en
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lora_s2s.readers.names import is_language_code, language_of
from lora_s2s.readers.streams import COMPRESSED

_SOURCES = "src source orig original complex normal input".split()
_TARGETS = """
    tgt trg target ref refs reference simp simple simplified turk output
""".split()
_ROLE = re.compile(
    rf"(?<![^\W\d_])({'|'.join((*_SOURCES, *_TARGETS))})[._-]?([0-9]*)(?![^\W_])", re.IGNORECASE
)
_DIRECTION = re.compile(r"(?<![^\W_])([a-z]{2,3})[-_]([a-z]{2,3})(?![^\W_])", re.IGNORECASE)


def line_families(files: Iterable[Path]) -> list[list[Path]]:
    """Returns the families among files of lines, each with its sources first; files of no family
    are omitted.

    Of two languages the source is the first of the name (``corpus.en-de.en``), else the first by
    alphabet.
    """
    roles: dict[tuple[Path, str], dict[str, list[tuple[int, Path]]]] = {}
    languages: dict[tuple[Path, str], list[Path]] = {}
    for file in sorted(files):
        name = bare_name(file)
        found = _ROLE.search(name)
        if found:
            key = (file.parent, f"{name[: found.start()]}*{name[found.end() :]}")
            role = "source" if found[1].lower() in _SOURCES else "target"
            roles.setdefault(key, {}).setdefault(role, []).append((int(found[2] or 0), file))
        elif (suffix := Path(name).suffix) and is_language_code(suffix[1:]):
            languages.setdefault((file.parent, name.removesuffix(suffix)), []).append(file)
    families = [
        [sides["source"][0][1], *(file for _, file in sorted(sides["target"]))]
        for sides in roles.values()
        if len(sides.get("source", ())) == 1 and "target" in sides
    ]
    families += [
        _directed(stem, files) for (_, stem), files in languages.items() if len(files) == 2
    ]
    return sorted(families)


def bare_name(file: Path) -> str:
    """Returns a file's name without the ending of a compression."""
    return (file.with_suffix("") if file.suffix.lower() in COMPRESSED else file).name


def side_names(source: Path, targets: Sequence[Path], wanted: Sequence[str]) -> tuple[str, str]:
    """Returns the columns of a family's rows: source and target, or the languages of two files
    where one is wanted.
    """
    endings = [Path(bare_name(file)).suffix.removeprefix(".") for file in (source, *targets)]
    languages = {language_of(ending) for ending in endings} - {None}
    if len(languages) == len(endings) == 2 and not languages.isdisjoint(map(language_of, wanted)):
        return endings[0], endings[1]
    return "source", "target"


def _directed(stem: str, files: Sequence[Path]) -> list[Path]:
    found = _DIRECTION.search(stem)
    if found and bare_name(files[1]).endswith(f".{found[1]}"):
        return [files[1], files[0]]
    return list(files)
