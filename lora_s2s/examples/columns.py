"""Which columns are the source and the target: named by the user, or guessed by their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_s2s.errors import DataError, closest, nearest, with_settings
from lora_s2s.examples.example import Example, NotForThis, Unusable, as_json, checked
from lora_s2s.examples.suggested import hint_on_columns, joined_source, rivals
from lora_s2s.examples.template import TURNS, PromptTemplate
from lora_s2s.readers.names import (
    KNOWN_PAIRS,
    LANGUAGE_COLUMNS,
    ROW_NUMBERS,
    SOURCES,
    SPLIT_COLUMNS,
    TARGETS,
    language_of,
    normalised,
)
from lora_s2s.readers.rows import Fields
from lora_s2s.recipe.schema import DataSection

_ALPACA = {"instruction", "input", "output"}
TRANSLATION = "translation"
_GUESSED = ("data.source_column", "data.target_column")


def two_languages(source: str | None, target: str | None) -> bool:
    """Whether two columns or file extensions are languages, such as ``en`` and ``de-AT``."""
    names = [name.lower() for name in (source, target) if name and language_of(name)]
    return len(set(names)) == 2 and tuple(names) not in KNOWN_PAIRS


@dataclass(frozen=True)
class Columns:
    """The columns of one file: the source's (unless a template builds it) and the target's."""

    source: str | None
    target: str
    template: PromptTemplate | None = None

    def pairs(self, fields: Fields, where: str, *, seed: int = 0) -> Iterator[Example]:
        """Yields the row's example; one per text if the target is a list (several references).

        Args:
            seed: for the choice among several templates.

        Raises:
            NotForThis: a row in languages other than the columns' two.
            Unusable: a source or target is missing, empty or not text.
        """
        if fields.get(self.target) is None or (
            self.source is not None and self.source not in fields
        ):
            fields = _with_languages(fields, self.source, self.target)
        targets = references(fields.get(self.target))
        if self.template is not None:
            source = checked(self.template.render(texts_of(fields, self.template), seed), "source")
        elif self.source is not None:
            source = text_in(fields, self.source, "source")
        else:
            return
        for target in targets:
            yield Example(source, target, where)


def references(value: object) -> list[str]:
    """The distinct texts of a target: one, those of a list, or of SQuAD's ``{"text": [...]}``.

    Any other object is one text of JSON.

    Raises:
        Unusable: there is none, or one is empty or not text.
    """
    if isinstance(value, Mapping) and not is_record(value):
        value = value["text"]
    if not isinstance(value, list):
        return [target_text(value)]
    if not value:
        raise Unusable("empty target")
    if any(isinstance(item, (Mapping, list)) for item in value):
        raise Unusable("target is not text: a list of objects or lists")
    return list(dict.fromkeys(map(target_text, value)))


def is_record(value: object) -> bool:
    """Whether a target is an object that is the answer; SQuAD's answers are lists side by side."""
    if not isinstance(value, Mapping):
        return False
    squad = "answer_start" in value or all(isinstance(item, list) for item in value.values())
    return not (squad and isinstance(value.get("text"), list))


def target_text(value: object) -> str:
    """A target's text; an object's is JSON.

    Raises:
        Unusable: it is missing, empty or not text.
    """
    write = as_json if isinstance(value, Mapping) else text_of
    return checked(write(value, "target"), "target")


def _with_languages(fields: Fields, *columns: str | None) -> Fields:
    """A row with its languages under the columns' names: ``EN`` or ``en-US`` as ``en``.

    Raises:
        NotForThis: all columns of the row are languages, but others.
        Unusable: the row has two columns of one language.
    """
    required = [column for column in columns if column is not None and language_of(column)]
    languages = {name: language for name in fields if (language := language_of(name))}
    if len(required) < sum(column is not None for column in columns) or not languages:
        return fields
    renamed = dict(fields)
    for column in required:
        alike = [
            name
            for name in languages
            if languages[name] == language_of(column) and name not in required
        ]
        if column in fields or not alike:
            continue
        if len(alike) > 1:
            raise Unusable(f"several texts in one language: {', '.join(alike)}")
        renamed[column] = fields[alike[0]]
    if len(languages) == len(fields) and not all(column in renamed for column in required):
        raise NotForThis(f"another language pair: {', '.join(list(fields)[:4])}")
    return renamed


def unwrapped(fields: Fields) -> Fields:
    """The object under ``translation``, used by hub data sets for languages, else the row."""
    inner = fields.get(TRANSLATION)
    return inner if isinstance(inner, Mapping) else fields


def texts_of(fields: Fields, template: PromptTemplate) -> dict[str, Any]:
    """The texts of a template's columns, and the turns; optional ones may be missing.

    Raises:
        Unusable: a column is missing, null or not text.
    """
    texts: dict[str, Any] = {}
    for name, needed in template.columns.items():
        value = fields.get(name)
        if isinstance(value, tuple) and name == TURNS:
            texts[name] = value
        elif needed and value is None and name in fields:
            raise Unusable(f"empty cell in column '{name}'")
        elif needed or value is not None:
            texts[name] = text_of(value, f"column '{name}'")
    return texts


def text_in(fields: Fields, column: str, role: str) -> str:
    """A field's text, verbatim; ``role`` names the field in error messages."""
    return checked(text_of(fields.get(column), role), role)


def text_of(value: object, role: str) -> str:
    """A value's text, as written.

    Raises:
        Unusable: the value is missing, a list, an object or binary.
    """
    if value is None:
        raise Unusable(f"missing {role}")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (Mapping, list, tuple, bytes)):
        raise Unusable(f"{role} is not text: {type(value).__name__}")
    return str(value)


def find_columns(
    names: Sequence[str],
    data: DataSection,
    *,
    where: str,
    template: PromptTemplate | None = None,
    any_two: bool = True,
    records: Sequence[Fields] = (),
) -> Columns:
    """Chooses the source and target among a file's columns.

    Args:
        names: the file's columns, in order.
        data: ``source_column`` and ``target_column``, if named by the user.
        where: the file, for messages.
        template: builds the source instead of a column.
        any_two: accept two columns of any name as source and target.
        records: first rows, whose texts show which columns may be a target.

    Raises:
        DataError: a named column does not exist, or the columns cannot be guessed; the message
            lists the file's.
    """
    by_name = {
        **{normalised(name): name for name in reversed(names)},
        **{name: name for name in names},
    }
    if template is not None:
        check_columns(template.columns, names, where)
    source, target = (
        None if column is None else _named(column, by_name, names, where, setting)
        for setting, column in zip(_GUESSED, (data.source_column, data.target_column), strict=True)
    )
    needs_source = source is None and template is None
    if needs_source and target is None and (languages := _two_languages(names, where)):
        return Columns(*languages, template)
    if needs_source:
        _refuse_alpaca(by_name, where)
    if template is None and (needs_source or target is None):
        two = _two_columns(names, source, target, by_name) if any_two or source or target else None
        source, target = two or (source, target)
        needs_source = source is None
    if target is None:
        # First the usual counterpart of the source's name, then any usual name.
        partners = [
            last
            for first, last in KNOWN_PAIRS
            if source is not None and first == normalised(source)
        ]
        others = [last for first, last in KNOWN_PAIRS if not needs_source or first in by_name]
        # A column must remain for the source: with 'query' and 'sql', the target is 'sql'.
        free = [
            name
            for name in TARGETS
            if not needs_source or any(one in by_name and one != name for one in SOURCES)
        ]
        target = _first_known([*partners, *others, *free], by_name, source)
        if target is None:
            raise _unknown("target", names, records, where, source=source)
    if needs_source:
        partners = [first for first, last in KNOWN_PAIRS if last == normalised(target)]
        source = _first_known([*partners, *dict(KNOWN_PAIRS), *SOURCES], by_name, target)
        if source is None:
            raise _unknown("source", names, records, where, target=data.target_column and target)
    if data.target_column is None:
        used = {target, source, *(() if template is None else template.columns)}
        if others := rivals(target, used, records):
            listed = f": '{target}' or {_listed(others)}"
            raise _unknown("target", names, records, where, source=source, listed=listed)
    return Columns(source, target, template)


def _two_languages(names: Sequence[str], where: str) -> tuple[str, str] | None:
    """The first column of each language, if all columns are languages and there are two of them.

    Raises:
        DataError: there are more than two.
    """
    first: dict[str, str] = {}
    for name in names:
        if (language := language_of(name)) is None:
            return None
        first.setdefault(language, name)
    if len(names) == 2 and tuple(normalised(name) for name in names) not in KNOWN_PAIRS:
        return names[0], names[1]
    if len(first) > 2:
        source, target = list(first)[:2]
        raise DataError(
            f"cannot guess the target column; the file has the languages "
            f"{', '.join(list(first)[:20])}",
            hint=f"name two: --set data.source_column={source} --set data.target_column={target}",
            where=where,
        )
    return tuple(first.values()) if len(first) == 2 else None  # type: ignore[return-value]


def _two_columns(
    names: Sequence[str], source: str | None, target: str | None, by_name: Mapping[str, str]
) -> tuple[str, str] | None:
    """Both columns of a table that has two, not counting row numbers, splits and languages."""
    about_row = {
        *ROW_NUMBERS,
        *SPLIT_COLUMNS,
        *(name for pair in LANGUAGE_COLUMNS for name in pair),
    }
    named = {name for name in (source, target) if name is not None}
    left = [name for name in names if name in named or normalised(name) not in about_row]
    left = left if len(left) == 2 else list(names)
    free = [name for name in left if not any(_same_column(name, other) for other in named)]
    if len(left) != 2 or len(free) + len(named) != 2:
        return None
    if named:
        # The other column is the other side.
        return (source, free[0]) if source is not None else (free[0], target)  # type: ignore[return-value]
    first, second = left
    if any(one in by_name and other in by_name for one, other in KNOWN_PAIRS):
        return None
    if any(normalised(name) in ROW_NUMBERS or name.isdigit() for name in left):
        return None
    one, other = normalised(first), normalised(second)
    swapped = (one in TARGETS and other not in TARGETS) or (other in SOURCES and one not in SOURCES)
    return (second, first) if swapped else (first, second)


def check_columns(columns: Iterable[str], names: Sequence[str], where: str) -> None:
    """Raises DataError if the file lacks one of a template's columns; lists the file's columns."""
    for column in columns:
        _named(column, {name: name for name in names}, names, where, "data.template")


def _first_known(
    candidates: Sequence[str], by_name: Mapping[str, str], taken: str | None
) -> str | None:
    columns = (by_name[name] for name in candidates if name in by_name)
    return next((column for column in columns if column != taken), None)


def _unknown(
    role: str,
    names: Sequence[str],
    records: Sequence[Fields],
    where: str,
    *,
    source: str | None = None,
    target: str | None = None,
    listed: str = "",
) -> DataError:
    """The error for a column that cannot be guessed, with settings that name both."""
    hint = None if listed or source else joined_source(names, records, target)
    role, hint = (
        ("source", hint) if hint else (role, hint_on_columns(names, records, source, target))
    )
    return DataError(
        f"cannot guess the {role} column{listed}; the file has {_listed(names)}",
        hint=hint,
        where=where,
    )


def _same_column(name: str, other: str) -> bool:
    """Whether two names mean the same column: equal, or codes of one language."""
    return name == other or (
        language_of(name) is not None and language_of(name) == language_of(other)
    )


def _named(
    column: str, by_name: Mapping[str, str], names: Sequence[str], where: str, setting: str
) -> str:
    name = by_name.get(column) or by_name.get(normalised(column))
    if name is not None:
        return name
    language = language_of(column)
    if language and any(language_of(name) == language for name in names):
        return column  # looked up in each row
    command = with_settings(f"{setting}={closest(column, names) or 'NAME'}")
    guessed = f", or have it guessed by name: --set {setting}=null"
    raise DataError(
        f"no column '{column}'{nearest(column, names)}; the file has {_listed(names)}",
        hint=f"name one of them: {command}{guessed if setting in _GUESSED else ''}",
        where=where,
    )


def _refuse_alpaca(by_name: Mapping[str, str], where: str) -> None:
    # Taking (input, output) here would silently drop every instruction.
    if by_name.keys() >= _ALPACA:
        raise DataError(
            "the columns 'instruction', 'input' and 'output' need a template that joins the "
            "first two",
            hint="--set data.format=alpaca, or --set data.template='{instruction} {input}'",
            where=where,
        )


def _listed(names: Sequence[str]) -> str:
    columns = ", ".join(f"'{name:.60}'" for name in names[:20])
    more = ", …" if len(names) > 20 else ""
    return f"{columns}{more}" if names else "no columns"
