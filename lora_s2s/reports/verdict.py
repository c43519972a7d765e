"""The answer that a report begins with: better or not, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lora_s2s.console import plain
from lora_s2s.files import mapping
from lora_s2s.reports.summary import (
    interval_of,
    is_number,
    number,
    p_text,
    shown,
)

Judgement = Literal["better", "worse", "unclear"]
_SURE = 0.05
_IN_WORDS = {"better": "better", "worse": "worse", "unclear": "no clear difference"}
# As they are written elsewhere; others are their recipe's name.
_NAMES = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "ter": "TER",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "macro_f1": "macro-F1",
    "token_f1": "token F1",
    "json_f1": "JSON F1",
    "json_valid": "valid JSON",
}


@dataclass(frozen=True)
class Verdict:
    """The first line of a report, and what goes with it; ``judgement`` is None without a
    comparison.
    """

    judgement: Judgement | None
    line: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Difference:
    """A difference to another system in points, its interval and p-value where they are known."""

    value: float
    ends: tuple[float, float] | None
    p_value: float | None
    lower_is_better: bool

    @property
    def judgement(self) -> Judgement:
        """Better or worse where the interval and the test agree that there is a difference."""
        apart = self.ends is not None and (self.ends[0] > 0 or self.ends[1] < 0)
        if not apart or (self.p_value is not None and self.p_value >= _SURE):
            return "unclear"
        return "better" if (self.value < 0) == self.lower_is_better else "worse"


def verdict(evaluation: str, entry: object, *, other: str = "its base") -> Verdict:
    """Judges by the first metric of an evaluation, and says what the others say.

    Args:
        entry: the evaluation's object in a manifest, which may hold anything.
        other: what the system is compared with.
    """
    scores, differences = mapping(mapping(entry).get("metrics")), mapping(entry).get("difference")
    if not scores:
        return Verdict(None, "Not evaluated yet", ("Run lora-s2s eval FOLDER --baseline.",))
    judged = {
        name: difference
        for name in scores
        if (difference := _difference(mapping(differences).get(name)))
    }
    sources = f"{number(mapping(entry).get('n'))} sources of {plain(evaluation)}"
    main = next(iter(scores))
    score = _value(scores[main])
    if main not in judged:
        interval = _interval(interval_of(mapping(scores[main])))
        line = f"{_text(score)} points of {in_words(main)}{interval}"
        hint = f"Not compared with {other}: lora-s2s eval FOLDER --baseline does."
        return Verdict(None, line, (f"On {sources}.", hint))
    base = _value(mapping(mapping(entry).get("baseline")).get(main))
    p_value = judged[main].p_value
    chance = "" if p_value is None else f", p {_p_text(p_value)}"
    compared = f"{in_words(main)} {_text(score)} against {_text(base)}{chance}"
    enough = mapping(entry).get("enough")
    details = [f"On {sources}: {compared}.", _others(main, judged)]
    details += [f"{shown(enough)}."] if isinstance(enough, str) else []
    line = _line(in_words(main), judged[main], other)
    return Verdict(judged[main].judgement, line, tuple(filter(None, details)))


def _line(metric: str, difference: _Difference, other: str) -> str:
    judgement, size = difference.judgement, abs(difference.value)
    if judgement == "unclear":
        points = f"{difference.value:+.{_digits(size)}f} points of {metric}"
        interval = _interval(difference.ends, signed=True)
        return f"No clear difference from {other}: {points}{interval}"
    ends = difference.ends and sorted(abs(end) for end in difference.ends)
    interval = _interval((ends[0], ends[1]) if ends else None)
    return f"{judgement.capitalize()} than {other} by {_text(size)} points of {metric}{interval}"


def _others(main: str, judged: Mapping[str, _Difference]) -> str:
    """What the other metrics say, grouped."""
    names: dict[Judgement, list[str]] = {}
    for name, difference in judged.items():
        if name != main:
            names.setdefault(difference.judgement, []).append(in_words(name))
    parts = [f"{_IN_WORDS[judgement]} by {', '.join(held)}" for judgement, held in names.items()]
    return f"Other metrics: {'; '.join(parts)}." if parts else ""


def in_words(metric: str) -> str:
    """A metric's name as words."""
    return _NAMES.get(metric, plain(str(metric)).replace("_", " "))


def _difference(value: object) -> _Difference | None:
    entry = mapping(value)
    size, p_value = _value(entry), entry.get("p_value")
    if size is None:
        return None
    chance = p_value if is_number(p_value) else None
    return _Difference(size, interval_of(entry), chance, entry.get("lower_is_better") is True)


def _value(entry: object) -> float | None:
    value = mapping(entry).get("value")
    return value if is_number(value) else None


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.{_digits(abs(value))}f}"


def _digits(size: float) -> int:
    return 1 if size >= 1 or size == 0 else 2


def _interval(ends: tuple[float, float] | None, *, signed: bool = False) -> str:
    if ends is None:
        return ""
    digits = _digits(max(map(abs, ends)))
    low, high = (f"{end:{'+' if signed else ''}.{digits}f}" for end in ends)
    return f" (95\u00a0% interval {low} to {high})"


def _p_text(value: float) -> str:
    text = p_text(value)
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"
