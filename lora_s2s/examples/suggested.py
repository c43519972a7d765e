"""Settings to suggest where columns cannot be guessed, and targets that are not the only possible
one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from lora_s2s.errors import quoted, with_settings
from lora_s2s.readers.names import (
    KNOWN,
    ROW_NUMBERS,
    SOURCES,
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
_LONGEST_LABEL, _RECURRING = 40, 1 / 3  # distinct labels, as a fraction of the rows
_IN_TEMPLATE = re.compile("[^{}%][^{}]*")  # {% begins a statement of Jinja


def rivals(target: str, used: Collection[str], records: Sequence[Fields]) -> list[str]:
    """Columns that may be the target as well as a guessed one, whose name does not settle it.

    Args:
        used: the columns of the source.
    """
    if normalised(target) not in _PROPERTIES:
        return []
    return [name for name in _long(records) if name not in used and _may_be_target(name)]


def may_replace(name: str, column: str, role: str, records: Sequence[Fields]) -> bool:
    """Whether an unused column has a usual name of a role, and holds other values than the column
    that was guessed, such as the role has.
    """
    values, guessed = ([repr(fields.get(one)) for fields in records] for one in (name, column))
    usual = SOURCES if role == "source" else TARGETS
    if normalised(name) not in usual or values == guessed or len(set(values)) == 1:
        return False
    if role == "source":
        # Where a text came from, such as web or email, recurs.
        recurs = len(set(values)) <= _RECURRING * len(set(guessed))
        return is_joined(name, records) and not recurs
    # What may be a property of a text replaces labels only.
    recur = all(2 * len(set(one)) <= len(records) for one in (values, guessed))
    return recur or normalised(name) not in _PROPERTIES


def hint_on_columns(
    names: Sequence[str], records: Sequence[Fields], source: str | None, target: str | None
) -> str:
    """Settings that name both columns, with those of the file where its rows show which."""
    usual = [name for name in names if normalised(name) in TARGETS]
    clear = [name for name in usual if normalised(name) not in _PROPERTIES]
    if not (usual or source or target):
        target = next((name for name in reversed(names) if _is_label(name, records)), None)
        texts = [name for name in names if name != target and is_joined(name, records)]
        settings = target and _joined(target, texts)
        if settings:
            why = f"'{target:.60}' may be the target, as its values recur"
            return f"{why}: {settings}; the template joins columns; name others likewise"
    texts = [name for name in _long(records) if name not in clear]
    source = source or next((name for name in texts if name != target), None)
    others = [name for name in texts if _may_be_target(name)]
    possible = [name for name in (*clear, *others, *usual) if name != source]
    target = target or next(iter(possible), None)
    if source is None or target is None:
        return _NAMES
    command = with_settings(f"data.source_column={source}", f"data.target_column={target}")
    template = joined_template([name for name in texts if name not in (source, target)][:1])
    join = template and f"; or join: --set {quoted(f'data.template={{{source}}} {template}')}"
    return f"name both: {command}{join or ''}"


def joined_source(
    names: Sequence[str], records: Sequence[Fields], target: str | None
) -> str | None:
    """Settings for a source built from all columns but the target: the one that the user named, or
    the only one named like a target.
    """
    targets = [target] if target else [name for name in names if normalised(name) in TARGETS]
    about_row = (*TARGETS, *ROW_NUMBERS, *SPLIT_COLUMNS)
    others = [
        name
        for name in names
        if normalised(name) not in about_row and name not in targets and not is_identifier(name)
    ]
    # One text is the source: another may be the target.
    if len(targets) != 1 or (target is None and len(rivals(targets[0], (), records)) > 1):
        return None
    settings = _joined(targets[0], others)
    start = "set data.source_column, or build the source from several columns: "
    return settings and f"{start}{settings}"


def _joined(target: str, others: Sequence[str]) -> str | None:
    """Settings for a target and a source built from some other columns."""
    template = joined_template(others)
    if template is None or not 2 <= len(others) <= _MOST_JOINED:
        return None
    return with_settings(f"data.target_column={target}", f"data.template={template}")


def joined_template(columns: Sequence[str]) -> str | None:
    """The template ``{a} {b}``; None if a template cannot contain one of the names."""
    written = all(_IN_TEMPLATE.fullmatch(name) and name.isprintable() for name in columns)
    return " ".join(f"{{{name}}}" for name in columns) if written else None


def settings_named(answer: str) -> dict[str, str] | None:
    """The settings of ``SOURCE > TARGET``, or of ``A, B > TARGET``, whose source a template joins;
    None if the answer has another form.
    """
    source, _, target = (part.strip() for part in answer.partition(">"))
    sources = [name.strip() for name in source.split(",")]
    template = joined_template(sources)
    if not target or not source or (len(sources) > 1 and template is None):
        return None
    key, value = ("source_column", source) if len(sources) == 1 else ("template", template or "")
    return {f"data.{key}": value, "data.target_column": target}


def _may_be_target(name: str) -> bool:
    return normalised(name) in TARGETS or normalised(name) not in KNOWN


def _is_label(name: str, records: Sequence[Fields]) -> bool:
    """Whether a column holds objects, or few short texts that recur."""
    values = [value for fields in records if (value := fields.get(name))]
    if any(isinstance(value, Mapping) for value in values):
        return True
    texts = {value for value in values if isinstance(value, str) and value[0].isalpha()}
    short = all(len(text) <= _LONGEST_LABEL for text in texts)
    return _may_be_target(name) and short and 1 < len(texts) <= _RECURRING * len(values)


def is_joined(name: str, records: Sequence[Fields], words: float = 2) -> bool:
    """Whether most rows of a column have a text, which may recur, with mostly letters (a date has
    others), of some words on average, or characters of scripts without spaces.
    """
    texts = _texts(name, records)
    lettered = sum(2 * sum(map(str.isalpha, text)) > len(text) for text in texts)
    if 2 * lettered <= len(records) or is_identifier(name):
        return False
    found = sum(len(text.split()) for text in texts)
    wide = sum(char >= _FIRST_WIDE for text in texts for char in text)
    return found >= words * len(texts) or wide >= _FEWEST_WIDE * len(texts)


def _long(records: Sequence[Fields]) -> list[str]:
    """The columns whose rows hold different texts of several words."""
    names = dict.fromkeys(name for fields in records for name in fields)
    long = [name for name in names if is_joined(name, records, _FEWEST_WORDS)]
    return [name for name in long if _distinct(name, records) > _FEWEST_DISTINCT]


def _distinct(name: str, records: Sequence[Fields]) -> float:
    texts = _texts(name, records)
    return len(set(texts)) / len(texts)


def _texts(name: str, records: Sequence[Fields]) -> list[str]:
    return [text for fields in records if isinstance(text := fields.get(name), str) and text]
