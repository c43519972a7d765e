"""Settings to suggest where columns cannot be guessed, and targets that are not the only possible
one.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from lora_s2s.readers.names import (
    KNOWN,
    ROW_NUMBERS,
    SPLIT_COLUMNS,
    TARGETS,
    is_identifier,
    normalised,
)
from lora_s2s.readers.rows import Fields

# Usual names of targets that are as usual for a property of a text that has another target.
_PROPERTIES = frozenset(
    "category categories class topic tag sentiment emotion intent title headline".split()
)
_NAMES = "name them: --set data.source_column=NAME --set data.target_column=NAME"
_FEWEST_WORDS, _FEWEST_DISTINCT = 4, 0.5
_FEWEST_WIDE, _FIRST_WIDE = 10, "\u2e80"  # characters of scripts without spaces
_MOST_JOINED = 4  # columns in a suggested template


def rivals(target: str, used: Collection[str], records: Sequence[Fields]) -> list[str]:
    """Columns that may be the target as well as a guessed one, whose name does not settle it.

    Args:
        used: the columns of the source.
    """
    if normalised(target) not in _PROPERTIES:
        return []
    return [name for name in _long(records) if name not in used and _may_be_target(name)]


def hint_on_columns(
    names: Sequence[str], records: Sequence[Fields], source: str | None, target: str | None
) -> str:
    """Settings that name both columns, with those of the file where its rows show which."""
    usual = [name for name in names if normalised(name) in TARGETS]
    clear = [name for name in usual if normalised(name) not in _PROPERTIES]
    texts = [name for name in _long(records) if name not in clear]
    source = source or next((name for name in texts if name != target), None)
    others = [name for name in texts if _may_be_target(name)]
    possible = [name for name in (*clear, *others, *usual) if name != source]
    target = target or next(iter(possible), None)
    if source is None or target is None:
        return _NAMES
    return f"name both: {_sets(f'data.source_column={source}', f'data.target_column={target}')}"


def joined_source(
    names: Sequence[str], records: Sequence[Fields], target: str | None
) -> str | None:
    """Settings for a source built from all columns but the target: the one that the user named, or
    the only one named like a target.
    """
    targets = [target] if target else [name for name in names if normalised(name) in TARGETS]
    about_row = (*TARGETS, *ROW_NUMBERS, *SPLIT_COLUMNS)
    texts = [name for name in names if normalised(name) not in about_row]
    others = [name for name in texts if name not in targets and not is_identifier(name)]
    few = len(targets) == 1 and 2 <= len(others) <= _MOST_JOINED
    # One text is the source: another may be the target.
    unclear = target is None and few and len(rivals(targets[0], (), records)) > 1
    if not few or unclear or set("{}") & set("".join(others)):
        return None
    template = f"data.template={' '.join(f'{{{name}}}' for name in others)}"
    return (
        "set data.source_column, or build the source from several columns: "
        f"{_sets(f'data.target_column={targets[0]}', template)}"
    )


def _sets(*words: str) -> str:
    return " ".join(f"--set {shlex.quote(word)}" for word in words)


def _may_be_target(name: str) -> bool:
    return normalised(name) in TARGETS or normalised(name) not in KNOWN


def _long(records: Sequence[Fields]) -> list[str]:
    """The columns whose rows hold different texts of several words."""
    names = dict.fromkeys(name for fields in records for name in fields)
    return [name for name in names if not is_identifier(name) and _is_long(name, records)]


def _is_long(name: str, records: Sequence[Fields]) -> bool:
    texts = [text for fields in records if isinstance(text := fields.get(name), str) and text]
    if len(set(texts)) <= _FEWEST_DISTINCT * len(texts):
        return False
    words = sum(len(text.split()) for text in texts)
    wide = sum(char >= _FIRST_WIDE for text in texts for char in text)
    return words >= _FEWEST_WORDS * len(texts) or wide >= _FEWEST_WIDE * len(texts)
