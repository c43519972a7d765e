"""Metrics of answers that programs read: JSON and numbers. Sources whose references have neither do
not count.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal

import numpy as np

from lora_s2s.errors import UsageError
from lora_s2s.evaluation.measured import RowScores, SumScores
from lora_s2s.evaluation.sums import f1_of_sums
from lora_s2s.evaluation.texts import References, Texts, mean, reference_count

# A text nested deeper counts as invalid: no program's record is.
_DEEPEST = 100
# A minus belongs to a number unless it joins two parts, as in dates.
_NUMBER = re.compile(r"(?:(?<!\w)-)?\d+(?:[.,]\d+)*")
_ONE_NUMBER = re.compile(r"-?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?")
Field = tuple[tuple[str, ...], str, object]


def json_valid(texts: Texts) -> RowScores:
    """The share of answers that are JSON (RFC 8259) of a reference's kind, object or list."""
    counted = json_sources(texts.references)
    values = [
        float(_record(text) in filter(None, map(_record, several))) if counts else math.nan
        for (text, several), counts in zip(texts.pairs, counted, strict=True)
    ]
    return mean(values, texts.references, "refs:any", "standard:rfc8259", "version:2")


def json_f1(texts: Texts) -> SumScores:
    """F1 of all fields (path and value) of answers and references.

    As Donut's (Kim et al. 2022): summed over sources, items of a list in any order, empty objects
    and lists have no field. Of several references the one with the highest F1 counts; an answer
    that is not JSON has no field.
    """
    counted = json_sources(texts.references)
    table = np.zeros((len(texts.predictions), 2))
    for row, (text, several) in enumerate(texts.pairs):
        if counted[row]:
            answer = _fields(text) or Counter()
            references = [fields for other in several if (fields := _fields(other)) is not None]
            table[row] = max((_shared(answer, fields) for fields in references), key=_quality)
    facts = ("refs:best", "average:micro", "fields:path,value", "lists:unordered", "version:1")
    return SumScores("|".join((reference_count(texts.references), *facts)), table, f1_of_sums)


def _shared(answer: Counter[Field], reference: Counter[Field]) -> tuple[int, int]:
    """Shared fields, and the fields of both."""
    return (answer & reference).total(), answer.total() + reference.total()


def _quality(counts: tuple[int, int]) -> float:
    shared, total = counts
    return 2 * shared / total if total else 1.0


def number_accuracy(texts: Texts) -> RowScores:
    """The share of answers with exactly the numbers of a reference, in any order: 1,000 equals
    1000, and 1.50 equals 1.5.
    """
    counted = number_sources(texts.references)
    values = [
        float(numbers(text) in map(numbers, several)) if counts else math.nan
        for (text, several), counts in zip(texts.pairs, counted, strict=True)
    ]
    return mean(values, texts.references, "refs:any", "order:any", "version:1")


def json_sources(references: References) -> list[bool]:
    """Whether a reference of each source is a JSON object or list.

    Raises:
        UsageError: none is.
    """
    problem = "no reference is a JSON object or list, which json_valid and json_f1 need"
    return _suited(references, lambda text: bool(_record(text)), problem)


def number_sources(references: References) -> list[bool]:
    """Whether a reference of each source has a number.

    Raises:
        UsageError: none has.
    """
    problem = "no reference has a number, which number_accuracy needs"
    return _suited(references, lambda text: bool(numbers(text)), problem)


def _suited(references: References, suits: Callable[[str], bool], problem: str) -> list[bool]:
    suited = [any(map(suits, several)) for several in references]
    if not any(suited):
        hint = "choose other metrics: --set evaluation.metrics=auto"
        raise UsageError(f"{problem} ({len(suited):,} sources)", hint=hint)
    return suited


def _record(text: str) -> str:
    """How a JSON object or list begins; empty if the text is neither."""
    first = text.lstrip()[:1]
    return first if first in ("{", "[") and _fields(text) is not None else ""


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _fields(text: str) -> Counter[Field] | None:
    """The fields of a JSON text, each as path, type and value; None if it is not JSON."""
    try:
        value = json.loads(
            text, parse_constant=_no_constant, parse_int=Decimal, parse_float=Decimal
        )
        return Counter(_leaves(value))
    except (ValueError, ArithmeticError, RecursionError):
        return None


def _leaves(value: object) -> Iterator[Field]:
    open_values: list[tuple[tuple[str, ...], object, int]] = [((), value, 0)]
    while open_values:
        path, inner, depth = open_values.pop()
        if depth > _DEEPEST:
            raise RecursionError("nested too deep")
        if isinstance(inner, dict):
            open_values += [((*path, key), item, depth + 1) for key, item in inner.items()]
        elif isinstance(inner, list):
            open_values += [(path, item, depth + 1) for item in inner]
        else:
            yield path, type(inner).__name__, inner


def numbers(text: str) -> Counter[str]:
    """The numbers in a text, each in its shortest form: digits of any script, a point before
    decimals, commas between thousands.

    >>> sorted(numbers("-1,000.50 on 2024-01-02").elements())
    ['-1000.5', '1', '2', '2024']
    """
    plain = "".join(str(unicodedata.decimal(char, char)) for char in text.replace("\u2212", "-"))
    parts: list[str] = []
    for written in _NUMBER.findall(plain):
        whole = _ONE_NUMBER.fullmatch(written)
        parts += [written.replace(",", "")] if whole else re.split("[.,]", written)
    return Counter(map(_shortest, parts))


def _shortest(number: str) -> str:
    whole, _, decimals = number.removeprefix("-").partition(".")
    decimals = decimals.rstrip("0")
    shortest = (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")
    return f"-{shortest}" if number.startswith("-") and shortest != "0" else shortest
