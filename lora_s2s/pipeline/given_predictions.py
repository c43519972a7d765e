"""Predictions made elsewhere: which columns they are in, and which source each belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_s2s.console import say, warn
from lora_s2s.errors import DataError
from lora_s2s.examples.columns import references as references_in
from lora_s2s.examples.columns import text_of
from lora_s2s.examples.example import Unusable
from lora_s2s.pipeline.recipes import run_name
from lora_s2s.pipeline.scored_data import ScoredData
from lora_s2s.readers.choose import is_lines
from lora_s2s.readers.encodings import checked_lines
from lora_s2s.readers.names import SOURCES, TARGETS, normalised
from lora_s2s.readers.origins import find_origins, reading
from lora_s2s.readers.rows import Row

# Columns as evaluation tools name them, in lower case; looked for in this order.
_PREDICTIONS = tuple(
    """
    prediction predictions predicted predicted_text pred preds hypothesis hypotheses hyp hyps
    generated generation generated_text generated_answer model_output model_answer model_prediction
    system_output system decoded predict mt candidate filtered_resps
""".split()
)
# Names of a prediction only where another column is the reference, or the data has it.
_PERHAPS = tuple("output response completion answer translation summary text".split())
_REFERENCES = (*"references reference refs ref golds gold ground_truth".split(), *TARGETS)
_MOST_NAMED = 20


@dataclass(frozen=True)
class GivenPredictions:
    """The rows of a file of predictions.

    Attributes:
        texts: one prediction a row.
        sources: the rows' sources, if there is such a column.
        references: the rows' references, if they were asked for.
    """

    name: str
    texts: Sequence[str]
    sources: Sequence[str] | None = None
    references: Sequence[Sequence[str]] | None = None

    def scored_data(self) -> ScoredData:
        """The data that the file itself holds; rows are grouped by source if it has sources.

        Raises:
            DataError: it has no references.
        """
        if self.references is None:
            raise DataError(f"{self.name} has no references", hint="give --data FILE")
        sources = self.sources
        keys = list(map(str, range(len(self.texts)))) if sources is None else list(sources)
        grouped: dict[str, dict[str, None]] = {}
        for key, texts in zip(keys, self.references, strict=True):
            grouped.setdefault(key, {}).update(dict.fromkeys(texts))
        places = {key: place for place, key in enumerate(grouped)}
        shown = [""] * len(grouped) if sources is None else list(grouped)
        return ScoredData(
            run_name(self.name),
            shown,
            [list(texts) for texts in grouped.values()],
            translation=False,
            rows=[places[key] for key in keys],
        )

    def by_source(self, data: ScoredData) -> dict[int, str]:
        """The prediction of each of the data's sources, by its place.

        By the sources' texts if the file has those, which may then be a part of the data; else by
        order: one for each row of the data, or for each unique source.

        Raises:
            DataError: there are more or fewer, or they belong to other sources.
        """
        if self.sources is not None and (found := self._by_text(self.sources, data)):
            return found
        count, rows, sources = len(self.texts), len(data.rows), len(data.sources)
        if count not in (rows, sources):
            unique = f" ({sources:,} different sources)" if rows != sources else ""
            raise DataError(
                f"{self.name} has {count:,} predictions, the data {rows:,} rows{unique}",
                hint="give the predictions of all rows, in their order, or a column with the "
                "sources",
            )
        places = list(data.rows) if count == rows else list(range(sources))
        self._check_order(places, data)
        return self._first(zip(places, self.texts, strict=True))

    def _by_text(self, sources: Sequence[str], data: ScoredData) -> dict[int, str] | None:
        """The predictions by source; None unless every row of the file is one of the data's."""
        places = {source: place for place, source in enumerate(data.sources) if source}
        if not all(source in places for source in sources):
            return None
        return self._first(
            (places[source], text) for source, text in zip(sources, self.texts, strict=True)
        )

    def _first(self, pairs: Iterator[tuple[int, str]]) -> dict[int, str]:
        found: dict[int, str] = {}
        differing = {
            place for place, text in pairs if place >= 0 and found.setdefault(place, text) != text
        }
        if differing:
            warn(
                f"{self.name}: {len(differing):,} sources have several different predictions; the "
                "first of each is scored"
            )
        return found

    def _check_order(self, places: Sequence[int], data: ScoredData) -> None:
        """Refuses rows whose source is not that of the data's row, apart from a template."""
        if self.sources is None or not any(data.sources):
            return
        for row, (place, source) in enumerate(zip(places, self.sources, strict=True), start=1):
            given, expected = (" ".join(text.split()) for text in (source, data.sources[place]))
            if place >= 0 and given not in expected and expected not in given:
                raise DataError(
                    f"{self.name}, row {row:,}: the source is {given[:60]!r}, but "
                    f"{expected[:60]!r} in the data",
                    hint="give the data that the predictions were made from",
                )


def read_predictions(
    name: str, *, with_references: bool, source: str | None = None, target: str | None = None
) -> GivenPredictions:
    """Reads a file of predictions, of any format that training data may have, or a line each, and
    reports the columns.

    Args:
        with_references: the file has to have references too.
        source, target: the columns of sources and references, if the user named them.

    Raises:
        DataError: the file is missing, empty, lacks a column, or a row lacks a value.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"no such file: {name}", hint="name a file of predictions")
    with reading(path):
        lines = is_lines(path)
    if lines:
        if with_references:
            hint = f"--from {path.name} --data FILE, with the references"
            raise DataError(f"{path.name} holds predictions alone, a line each", hint=hint)
        given = GivenPredictions(path.name, list(_lines(path)))
    else:
        given = _of_table(path, with_references, source, target)
    if not given.texts:
        raise DataError(f"{path.name} is empty: no prediction in it")
    return given


def _lines(path: Path) -> Iterator[str]:
    with reading(path):
        yield from checked_lines(path)


def _of_table(
    path: Path, with_references: bool, source: str | None, target: str | None
) -> GivenPredictions:
    rows = list(_rows(path))
    names = list(dict.fromkeys(name for row in rows for name in row.fields))
    columns = _columns(names, path, with_references, source, target)
    texts, sources, references = [], [], []
    several = 0
    for row in rows:
        where = f"{path}:{row.line}"
        try:
            value = row.fields.get(columns.prediction)
            several += isinstance(value, list) and len(value) > 1
            texts.append(_prediction(value))
            if columns.reference is not None:
                references.append(references_in(row.fields.get(columns.reference)))
            if columns.source is not None:
                sources.append(text_of(row.fields.get(columns.source), "source"))
        except Unusable as error:
            hint = f"columns: {columns.listed()}; every row needs them"
            raise DataError(f"{error}", hint=hint, where=where) from error
    say(f"{path.name}: {columns.listed()}")
    if several:
        say(f"{path.name}: {several:,} rows have several predictions; the first of each is scored")
    return GivenPredictions(
        path.name,
        texts,
        sources if columns.source is not None else None,
        references if columns.reference is not None else None,
    )


def _rows(path: Path) -> Iterator[Row]:
    for origin in find_origins(str(path)):
        for item in origin.rows():
            if not isinstance(item, Row):
                raise DataError(item.reason, where=f"{path}:{item.line}")
            yield item


@dataclass(frozen=True)
class _Columns:
    prediction: str
    reference: str | None
    source: str | None

    def listed(self) -> str:
        """The columns in words."""
        named = {
            "predictions": self.prediction,
            "references": self.reference,
            "sources": self.source,
        }
        return ", ".join(f"{what} in '{name:.60}'" for what, name in named.items() if name)


def _columns(
    names: Sequence[str], path: Path, with_references: bool, source: str | None, target: str | None
) -> _Columns:
    by_name = {normalised(name): name for name in reversed(names)}
    prediction = _first_of(_PREDICTIONS, by_name)
    if prediction is None:
        prediction = names[0] if len(names) == 1 else _guessed(by_name, with_references)
    if prediction is None:
        raise _unknown("prediction", names, path)
    others = {key: name for key, name in by_name.items() if name != prediction}
    chosen = _named(source, names, path), _named(target, names, path)
    reference = chosen[1] or _first_of(_REFERENCES, others)
    if with_references and reference is None:
        raise _unknown("reference", names, path)
    rest = {key: name for key, name in others.items() if name != reference}
    return _Columns(
        prediction, reference if with_references else None, chosen[0] or _first_of(SOURCES, rest)
    )


def _guessed(by_name: dict[str, str], with_references: bool) -> str | None:
    """A column that is a prediction only because another one is the reference."""
    for key in _PERHAPS:
        others = {other: name for other, name in by_name.items() if other != key}
        if key in by_name and (not with_references or _first_of(_REFERENCES[:7], others)):
            return by_name[key]
    return None


def _first_of(candidates: Sequence[str], by_name: dict[str, str]) -> str | None:
    return next((by_name[name] for name in candidates if name in by_name), None)


def _named(column: str | None, names: Sequence[str], path: Path) -> str | None:
    if column is not None and column not in names:
        raise _unknown(f"'{column}'", names, path)
    return column


def _unknown(what: str, names: Sequence[str], path: Path) -> DataError:
    columns = ", ".join(f"'{name:.60}'" for name in names[:_MOST_NAMED]) or "no columns"
    hint = "name it `prediction`" if what == "prediction" else "give --data FILE"
    if what == "reference":
        hint = "name it `references`, or give --data FILE with the references"
    return DataError(f"no {what} column; the file has {columns}", hint=hint, where=str(path))


def _prediction(value: object) -> str:
    """A prediction's text, which may be empty; the first of a list.

    Raises:
        Unusable: there is none, or it is not text.
    """
    while isinstance(value, list):
        if not value:
            raise Unusable("no prediction: an empty list")
        value = value[0]
    return text_of(value, "prediction")
