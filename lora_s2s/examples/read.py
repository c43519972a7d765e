"""Files to examples: rows of any format, by columns, a known format or a user function."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lora_s2s.errors import DataError
from lora_s2s.examples.causes import Causes
from lora_s2s.examples.choose import choose_reading
from lora_s2s.examples.columns import unwrapped
from lora_s2s.examples.example import Example, NotForThis, Unusable, hash64
from lora_s2s.examples.reading import Reading, agreed
from lora_s2s.examples.shapes import FORMATS
from lora_s2s.examples.shard import Blocks, Shard
from lora_s2s.examples.template import PromptTemplate
from lora_s2s.readers.names import SPLIT_OF, normalised
from lora_s2s.readers.origins import Origin, find_origins
from lora_s2s.readers.rows import Fields, Item, Items, Parsing, Rejected, Row, reject
from lora_s2s.recipe.schema import DataSection

TRAIN = "train"
COLUMNS = ("source_column", "target_column")
# The first rows decide how a file is read; reading ends after this many defective rows without a
# usable one.
_ROWS_LOOKED_AT, _CHARACTERS_LOOKED_AT = 1000, 1 << 25
_MOST_FAULTS = 1000


class Examples:
    """The examples of one split of a recipe's data, read once from the files, in their order.

    Iterating yields an example or a rejection per record; one example per text if the target is a
    list. Among several files of one folder or glob, those with unknown columns are omitted, with
    one rejection each. A column ``split``, ``fold`` or ``subset`` whose values name splits sets the
    examples' ``split``.

    Args:
        data: files, format, columns and template; among several templates, a hash of the row and
            ``seed`` chooses one.
        split: which of the section's files to read. If a table marks rows of this split, only those
            are validation or test data; training data yields all rows, with their marks.
        optional: ``source_column`` and ``target_column``, if a file may lack the columns that
            ``data`` names; they are guessed in a file that has none of them.
        shard: whose records to read; None reads all. A shard may have none.

    Raises:
        DataError: there is no such file or column, a file cannot be read, or no row is usable.
        UsageError: a function cannot be imported, or a template is invalid.
    """

    def __init__(
        self,
        data: DataSection,
        split: str = TRAIN,
        *,
        seed: int = 0,
        optional: Collection[str] = (),
        shard: Shard | None = None,
    ) -> None:
        self._data, self._split, self._seed, self._optional = data, split, seed, optional
        self._shard, self._blocks = shard, Blocks(shard)
        self._groups = _groups(data, split)
        self._columns = _columns_named(data, optional)
        self._readings: list[Reading] = []
        self.causes = Causes()  # of the rejections so far

    @property
    def reading(self) -> Reading:
        """How the files so far were read; what differs is unset (``auto``, None).

        Complete after iterating over all examples.
        """
        return agreed(self._readings)

    @property
    def block(self) -> int:
        """The block of records that the newest item is of, if a shard is read."""
        return self._blocks.block

    def decided(self) -> Reading:
        """How the files are read, by their first rows alone: what :attr:`reading` is at the end."""
        self._readings.clear()
        for origins in self._groups:
            for origin in origins:
                with suppress(DataError):  # a file of a folder that is omitted
                    self._begun(
                        origin,
                        Parsing(self._columns, self._data.encoding),
                        any_two=len(origins) == 1,
                    )
        return self.reading

    def __iter__(self) -> Iterator[Example | Rejected]:
        self._readings.clear()
        self._blocks = Blocks(self._shard)
        good, causes = 0, Causes()
        self.causes = causes
        for item in itertools.chain.from_iterable(map(self._of_group, self._groups)):
            if isinstance(item, Rejected):
                causes.add(item)
                if not good and causes.faults >= _MOST_FAULTS:
                    raise self.nothing_usable(causes, f"the first {causes.faults:,} of ")
            else:
                good += 1
            yield item
        if not good and self._shard is None:
            raise self.nothing_usable(causes)

    def nothing_usable(self, causes: Causes, part: str = "") -> DataError:
        """The error for files, or a part of them, without a usable row."""
        name = part + ", ".join(origin.name for group in self._groups for origin in group[:3])
        listed = causes.listed()
        if not listed:
            hint = "give a file with a header or keys, and rows"
            return DataError(f"{name} is empty: no row in it", hint=hint)
        if error := causes.wrong_encoding(f"none of {causes.faults:,} rows can be used"):
            return error
        message = f"no row of {name} has a usable source and target: {listed}"
        return DataError(message, hint=causes.hint(), where=causes.places())

    def _of_group(self, origins: Sequence[Origin]) -> Iterator[Example | Rejected]:
        refused: DataError | None = None
        usable = False
        for origin in origins:
            parsing = Parsing(self._columns, self._data.encoding)
            try:
                items, rows, reading = self._begun(origin, parsing, any_two=len(origins) == 1)
            except DataError as error:
                refused = refused or _about_header(error, parsing)
                if len(origins) > 1:
                    reason = f"no known columns in this file: {error.message}"
                    yield from self._blocks.owned([Rejected(origin.name, 0, reason, "")])
                continue
            usable = usable or reading is not None
            only = None
            if reading is not None and self._split != TRAIN:
                divided = _divided(origin, reading, rows, self._split, parsing)
                only = self._split if divided else None
            task = self._data.task_column
            yield from _converted(self._blocks.owned(items), reading, origin, only, task)
        if refused is not None and not usable:
            raise refused

    def _begun(
        self, origin: Origin, parsing: Parsing, *, any_two: bool
    ) -> tuple[Items, Sequence[Row], Reading | None]:
        """All items of a file, its first rows, and how these say to read it; None if it has no
        rows.
        """
        items = origin.rows(parsing)
        head, rows = _head(items)
        if not rows:
            return itertools.chain(head, items), rows, None
        data = _without_missing(self._data, rows, self._optional)
        try:
            reading = choose_reading(rows, origin.name, data, seed=self._seed, any_two=any_two)
        except DataError as error:
            # Other columns would not help where rows cannot be read.
            raise _unreadable(head).too_many(len(rows), self._data.max_rejected) or error from None
        self._readings.append(reading.with_notes(parsing.notes))
        return itertools.chain(head, items), rows, reading


def _groups(data: DataSection, split: str) -> list[list[Origin]]:
    """The origins of each path; those of one folder or glob form a group."""
    parallel = data.format == "parallel"
    origins = find_origins(data.named(split), parallel=parallel)
    if parallel:
        return [origins]
    return [list(group) for _, group in itertools.groupby(origins, key=lambda origin: origin.given)]


def _columns_named(data: DataSection, optional: Collection[str]) -> tuple[str, ...]:
    """The columns that a file must have; a first line with one of them is a header."""
    by_template = data.template is not None and data.format not in FORMATS
    columns = list(PromptTemplate.of(data.template).columns) if by_template else []
    named = [getattr(data, key) for key in COLUMNS if key not in optional]
    return tuple(name for name in (*named, *columns) if name)


def _without_missing(
    data: DataSection, rows: Sequence[Row], optional: Collection[str]
) -> DataSection:
    """The section without optional columns, if the rows lack all that it names.

    With the source named and there, a guessed target would be that of another task.
    """
    if not optional:
        return data
    names = {normalised(name) for row in rows for name in unwrapped(row.fields)}
    named = [column for key in COLUMNS if (column := getattr(data, key))]
    built = data.template is not None and data.format not in FORMATS
    if built or any(normalised(column) in names for column in named):
        return data
    return data.model_copy(update=dict.fromkeys(optional))


def _about_header(error: DataError, parsing: Parsing) -> DataError:
    """Adds to an error on columns how the first line was read, a possible cause."""
    if parsing.header and error.hint and "NAME" in error.hint:
        error.hint += (
            "; the first line was read as a header; if it is data, use "
            "data.source_column=column1 and data.target_column=column2"
        )
    elif parsing.notes and error.hint:
        error.hint = (
            f"{error.hint.replace('=NAME', '=column1', 1).replace('=NAME', '=column2')}; "
            f"{parsing.notes[0]}"
        )
    return error


def _divided(
    origin: Origin, reading: Reading, rows: Sequence[Row], split: str, parsing: Parsing
) -> bool:
    """Whether a table marks rows as belonging to this split."""
    if reading.split_column is None and not any(row.split for row in rows):
        return False
    others = (item for item in origin.rows(parsing) if isinstance(item, Row))
    return any(_mark(row, reading.split_column) == split for row in itertools.chain(rows, others))


def _mark(row: Row, column: str | None) -> str:
    """The split that a row is marked with; empty without a mark.

    Raises:
        Unusable: the mark is unknown.
    """
    if column is None:
        return row.split
    value = str(row.fields.get(column))
    mark = SPLIT_OF.get(normalised(value))
    if mark is None:
        raise Unusable(f"unknown split: {value.strip()[:40] or 'nothing'}")
    return mark


def _converted(
    items: Items,
    reading: Reading | None,
    origin: Origin,
    only: str | None,
    task: str | None,
) -> Iterator[Example | Rejected]:
    """Yields the examples of a file's rows, optionally ``only`` those of one split, with their
    task if a column names it.
    """
    unused = [] if reading is None else reading.distinguishing
    for item in items:
        if isinstance(item, Rejected):
            yield item
        elif reading is not None:
            where = f"{origin.name}:{item.line}"
            try:
                split = ""
                if reading.split_column or item.split:
                    split = _mark(item, reading.split_column)
                if only is not None and split != only:
                    raise NotForThis(f"row of another split: {split}")
                rest = _rest(item.fields, unused) if unused else 0
                for made in reading.convert(item.fields, where):
                    if isinstance(made, Example):
                        made.weight, made.rest, made.split = origin.weight, rest, split
                        made.task = "" if task is None else _task(item.fields, task, origin)
                    yield made
            except Unusable as error:
                fault = not isinstance(error, NotForThis)
                yield reject(where, str(error), _excerpt(item.fields), fault=fault)


def _task(fields: Fields, column: str, origin: Origin) -> str:
    """A row's task: what the column says, or the file's name."""
    if column == "file" and column not in fields:
        return Path(origin.name).name.split(".")[0]
    value = fields.get(column)
    return "" if value is None else str(value)


def _rest(fields: Fields, unused: Sequence[str]) -> int:
    """A hash of a row's unused columns, the same on every machine; see :class:`Example`."""
    return hash64(repr([fields.get(name) for name in unused])) or 1


def _head(items: Items) -> tuple[list[Item], list[Row]]:
    """Takes items until there are enough rows or enough text; returns all items, and the rows."""
    head: list[Item] = []
    rows: list[Row] = []
    characters = 0
    while (
        len(rows) < _ROWS_LOOKED_AT
        and len(head) < 2 * _ROWS_LOOKED_AT
        and characters < _CHARACTERS_LOOKED_AT
    ):
        item = next(items, None)
        if item is None:
            break
        head.append(item)
        if isinstance(item, Row):
            rows.append(item)
            characters += _size(item.fields)
    return head, rows


def _unreadable(items: Sequence[Item]) -> Causes:
    causes = Causes()
    for item in items:
        if isinstance(item, Rejected):
            causes.add(item)
    return causes


def _size(value: object) -> int:
    """The approximate size of a value in bytes."""
    if isinstance(value, str):
        return 50 + len(value)
    if isinstance(value, Mapping):
        return 50 + sum(map(_size, value.values()))
    return 50 + sum(map(_size, value)) if isinstance(value, (list, tuple)) else 50


def _excerpt(fields: Fields) -> str:
    texts = (
        value if isinstance(value, str) else f"({type(value).__name__})"
        for value in fields.values()
    )
    return " | ".join(texts)
