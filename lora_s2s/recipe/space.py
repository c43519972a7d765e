"""What a sweep varies: keys of a recipe, each with its values or its range, checked by the schema
before anything is trained.
"""

from __future__ import annotations

import itertools
import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Union, get_args, get_origin

from lora_s2s.errors import RecipeError, UsageError
from lora_s2s.recipe.load import with_overrides
from lora_s2s.recipe.schema import SECTIONS, Recipe

Setting = str | int | float
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(:log)?")
_MOST_COMBINATIONS = 500
_PREPARED = (
    "the data is prepared once for all trials, so this key cannot be varied",
    "train a recipe for each value, and compare them: lora-s2s eval A B",
)
_SCORED = ("it changes how answers are scored or kept, not what is trained", "omit it")
_PAIRED = (
    "all trials have the same seed and order of data, so that they can be compared",
    "train the best recipe again with other seeds: --set training.seed=1",
)
_REFUSED_SECTIONS = {"data": _PREPARED, "evaluation": _SCORED, "output": _SCORED}
_REFUSED = {
    "model.name": _PREPARED,
    "model.revision": _PREPARED,
    "training.seed": _PAIRED,
    **dict.fromkeys(
        (
            "training.save_every",
            "training.keep_checkpoints",
            "training.evaluate_every",
            "training.early_stopping",
            "training.best_metric",
            "training.scored_sources",
            "training.trackers",
            "training.on_nonfinite",
        ),
        _SCORED,
    ),
}


@dataclass(frozen=True)
class Varied:
    """A key, and either its values as they are written or the ends of its range.

    Attributes:
        log: the range is even on a logarithmic scale.
        whole: the range is of whole numbers.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def tried(self) -> tuple[Setting, ...]:
        """The values that the schema is asked about: all, or both ends."""
        return self.choices or (self.fitted(self.low), self.fitted(self.high))

    def fitted(self, value: float) -> Setting:
        """A number of the range as a recipe writes it: whole, or of three digits."""
        if self.whole:
            return round(value)
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(self.choices)
        scale = " on a logarithmic scale" if self.log else ""
        return f"{self.fitted(self.low)} to {self.fitted(self.high)}{scale}"


def read_space(recipe: Recipe, words: Sequence[str] | Mapping[str, object]) -> tuple[Varied, ...]:
    """Reads what is varied: ``KEY=A:B``, ``KEY=A:B:log`` or ``KEY=a,b,c`` words, or a mapping of
    keys to such ranges or to lists of values.

    Raises:
        RecipeError: everything that is wrong with the keys and values.
        UsageError: nothing is varied, or two of the values exclude each other.
    """
    pairs = _pairs(words)
    if not pairs:
        raise UsageError(
            "nothing to vary", hint="--vary training.learning_rate=1e-4:3e-3:log, for example"
        )
    space: list[Varied] = []
    problems: list[str] = []
    hints: list[str] = []
    for key, text in pairs:
        try:
            if any(one.key == key for one in space):
                raise _Refused("given twice", "")
            space.append(_varied(recipe, key, text))
        except _Refused as error:
            problems.append(f"--vary {key}: {error.problem}")
            hints.append(error.hint)
        except RecipeError as error:
            problems += [problem.replace("--set", "--vary", 1) for problem in error.problems]
            hints.append(error.hint or "")
    if problems:
        raise RecipeError(problems, hint=next(filter(None, hints), None))
    _check_together(recipe, space)
    return tuple(space)


def combinations(space: Sequence[Varied]) -> list[dict[str, Setting]] | None:
    """All combinations of values; None if a range has no end of them, or they are too many."""
    count = math.prod(len(one.choices) for one in space)
    return list(_products(space)) if 0 < count <= _MOST_COMBINATIONS else None


def words_of(settings: Mapping[str, Setting]) -> list[str]:
    """A trial's settings as ``--set`` takes them."""
    return [f"{key}={value}" for key, value in settings.items()]


class _Refused(Exception):
    """A key or its values cannot be varied."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.problem, self.hint = problem, hint


def _pairs(words: Sequence[str] | Mapping[str, object]) -> list[tuple[str, str]]:
    if isinstance(words, Mapping):
        return [(str(key), _text(value)) for key, value in words.items()]
    parts = (word.partition("=") for word in words)
    return [(key.strip(), text.strip()) for key, _, text in parts]


def _text(value: object) -> str:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ",".join(_text(one) for one in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _varied(recipe: Recipe, key: str, text: str) -> Varied:
    """Raises _Refused, or the schema's RecipeError for the key or its first wrong value."""
    match = _RANGE.fullmatch(text)
    choices = () if match else tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    first = match[1] if match else choices[0]
    section, _, field = key.partition(".")
    if field not in (SECTIONS[section].model_fields if section in SECTIONS else {}):
        with_overrides(recipe, [f"{key}={first}"])  # names the nearest key
    if refused := _REFUSED.get(key) or _REFUSED_SECTIONS.get(section):
        raise _Refused(*refused)
    if match:
        varied = _range(key, float(match[1]), float(match[2]), log=match[3] is not None)
    elif len(choices) < 2:
        example = f"{key}={first or 'a'},b for values, or {key}=1:8 for a range"
        raise _Refused(f"expected two or more values, or a range; got '{text}'", example)
    else:
        varied = Varied(key, choices)
    for value in varied.tried:
        with_overrides(recipe, [f"{key}={value}"])
    return varied


def _range(key: str, low: float, high: float, *, log: bool) -> Varied:
    kinds = _kinds(key)
    if not {int, float} & kinds:
        raise _Refused("not a number, so it has no range", f"name values: {key}=a,b")
    if low >= high:
        raise _Refused(f"the range begins at {low:g}, which is not below {high:g}", "")
    if log and low <= 0:
        raise _Refused(f"a logarithmic range begins above 0, not at {low:g}", "omit :log")
    whole = float not in kinds
    if whole and (low % 1 or high % 1):
        raise _Refused(f"expected whole numbers, got {low:g}:{high:g}", "")
    return Varied(key, low=low, high=high, log=log, whole=whole)


def _kinds(key: str) -> set[object]:
    """The types that a key's value may have."""
    section, _, field = key.partition(".")
    return set(_alternatives(SECTIONS[section].model_fields[field].annotation))


def _alternatives(annotation: object) -> Iterable[object]:
    if get_origin(annotation) in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from _alternatives(option)
    elif hasattr(annotation, "__metadata__"):
        yield from _alternatives(get_args(annotation)[0])
    else:
        yield annotation


def _check_together(recipe: Recipe, space: Sequence[Varied]) -> None:
    """Asks the schema about values that meet in a trial."""
    for settings in _products(space):
        try:
            with_overrides(recipe, words_of(settings))
        except RecipeError as error:
            together = " with ".join(words_of(settings))
            raise UsageError(
                f"--vary {together}: {'; '.join(error.problems)}",
                hint="omit one of the values, or sweep twice",
            ) from error


def _products(space: Sequence[Varied]) -> Iterable[dict[str, Setting]]:
    for values in itertools.islice(
        itertools.product(*(one.tried for one in space)), _MOST_COMBINATIONS
    ):
        yield dict(zip((one.key for one in space), values, strict=True))
