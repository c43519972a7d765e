"""Why rows are unusable: counts by reason, with places and a hint for the most frequent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lora_s2s.data_report import listed
from lora_s2s.errors import DataError
from lora_s2s.readers.encodings import WrongEncoding, guess_of
from lora_s2s.readers.rows import Rejected, Skipped

_PLACES = 3
MOST_SUGGESTED = 0.1  # of the rows, for data.max_rejected
_VALUE = 60
_PYTHON = re.compile(r"^\s*[\[{(]\s*(u?'|\(|\{\s*u?')|:\s*(None|True|False|u?')")


class Causes:
    """Counts rejections by reason, and keeps the first of each."""

    def __init__(self) -> None:
        self.reasons = Counter[str]()
        self.skipped = Counter[str]()
        self._first: dict[str, list[Rejected]] = {}

    def add(self, item: Rejected) -> None:
        """Counts a rejection; records skipped on purpose are counted separately."""
        if isinstance(item, Skipped):
            self.skipped[item.kind] += 1
        else:
            self.reasons[item.kind] += 1
        first = self._first.setdefault(item.kind, [])
        if len(first) < _PLACES:
            first.append(item)

    @property
    def faults(self) -> int:
        """The number of defective records, without skipped ones."""
        return self.reasons.total()

    @property
    def only_empty(self) -> bool:
        """Whether every defective record lacks a text, and has no other fault."""
        return all(reason.startswith(("empty", "missing")) for reason in self.reasons)

    def too_many(self, good: int, most: float) -> DataError | None:
        """The error if more than a fraction of the records is defective; None if not.

        Args:
            good: the number of examples; skipped records do not count.
        """
        total = self.faults + good
        if self.faults / max(1, total) <= most:
            return None
        if error := self.wrong_encoding(f"{self.faults:,} of {total:,} rows cannot be read"):
            return error
        hint = self.hint(others_are_right=good > 0) or "fix them"
        allowed = enough(self.faults, total)
        if allowed <= MOST_SUGGESTED:
            hint += f"; or allow more: --set data.max_rejected={allowed:g}"
        return DataError(
            f"{self.faults:,} of {total:,} rows cannot be used, more than "
            f"data.max_rejected={most:g}: {self.listed()}",
            hint=hint,
            where=self.places(),
        )

    def wrong_encoding(self, what: str) -> WrongEncoding | None:
        """The error for lines that are not in the data's encoding; None without any."""
        for kind in self.reasons:
            if kind.startswith("invalid "):
                first = self._first[kind][0]
                return WrongEncoding(first.file, first.reason, what, self.places())
        return None

    def listed(self) -> str:
        """The most frequent reasons with their counts: ``3 × empty target, 1 × invalid UTF-8``."""
        both = self.reasons or self.skipped
        return listed(both.most_common(4))

    def places(self) -> str:
        """Three places, most frequent reason first, each with details and an excerpt."""
        both = self.reasons or self.skipped
        items = [item for reason, _ in both.most_common(_PLACES) for item in self._first[reason]][
            :_PLACES
        ]
        return "; ".join(f"{item.file}:{item.line} {item.reason}{_value(item)}" for item in items)

    def hint(self, *, others_are_right: bool = False) -> str | None:
        """What to do about the most frequent reason.

        Args:
            others_are_right: other rows are usable, so columns and format are correct.
        """
        both = self.reasons or self.skipped
        leading = [self._first[reason][0] for reason, _ in both.most_common(1)]
        return hint_for(*leading, others_are_right=others_are_right) if leading else None


def enough(count: int, total: int) -> float:
    """A fraction, in hundredths, that ``count`` of ``total`` rows do not exceed."""
    return -(-100 * count // total) / 100


def _value(item: Rejected) -> str:
    text = " ".join(item.text[: 2 * _VALUE].split())
    if not text or item.kind.startswith(("missing", "an unknown role")) or "\ufffd" in text:
        return ""
    return f" ({text[:_VALUE]}{'…' if len(text) > _VALUE else ''})"


def hint_for(item: Rejected, *, others_are_right: bool = False) -> str | None:
    """What to do about a rejection; see :meth:`Causes.hint`."""
    for pattern, hint in _HINTS.items():
        if re.search(pattern, item.reason):
            if others_are_right and pattern in _FOR_SINGLE_ROWS:
                return _FOR_SINGLE_ROWS[pattern]
            return hint(item) if callable(hint) else hint
    return None


def _json(item: Rejected) -> str:
    if _PYTHON.search(item.text):
        program = (
            "import ast,json,sys; [print(json.dumps(ast.literal_eval(row))) for row in sys.stdin]"
        )
        return (
            "the lines are Python dicts (single quotes, None, True), not JSON; convert them: "
            f'python -c "{program}" < {item.file} > json-{Path(item.file).name}'
        )
    if not item.text.lstrip().startswith(("{", "[")):
        return "the lines are not JSON objects: rename the file if it is .csv, .tsv or .txt"
    return "write one JSON object per line, with keys and texts in double quotes"


def _quoting(item: Rejected) -> str:
    if '\\"' in item.text:
        return 'quotes inside cells are escaped as \\" in some rows only: double them ("")'
    return 'double quotes inside quoted cells (""), and close every quoted cell'


def _role(item: Rejected) -> str:
    return (
        f"{item.reason}: use user, assistant, system or tool (or human, gpt, …), "
        "or convert the rows with data.format=module:function"
    )


def _nested(item: Rejected) -> str:
    if not item.reason.startswith("target"):
        return "a source must be a text; flatten nested rows with data.format=module:function"
    return (
        "a target is a text, an object (written as JSON) or a list of texts (several references); "
        'a list that is one answer goes into an object, {"items": [...]}, or into a text '
        "(json.dumps)"
    )


def _column(role: str) -> Callable[[Rejected], str]:
    return lambda _: f"name the right column: --set data.{role}_column=NAME"


_NO_SOURCE, _NO_TARGET = r"(missing|empty).*source", r"(missing|empty).*target"
_NO_JSON = r"^not valid JSON|^not a JSON object|^nested too deeply"
# Patterns of the reason, tried in this order, with the hint or a function that returns it.
_HINTS: dict[str, str | Callable[[Rejected], str]] = {
    r"^invalid \S+: byte": lambda item: guess_of(item.file).hint,
    r"not valid Unicode": "write the text as UTF-8 again: it contains half of a surrogate pair",
    r"^broken quoting": _quoting,
    r"^more fields": "quote cells that contain the delimiter, or use another delimiter",
    r"^fewer fields": "give every row as many cells as the header; look for an unclosed quote "
    "before these lines",
    _NO_JSON: _json,
    r"^duplicate key": "use each key of an object once",
    r"^an unknown role": _role,
    r"^not two columns": "keep two columns; if there is a header: --set data.format=pairs",
    r"tool call": "give a tool call its name and arguments under tool_calls or function_call",
    r"^a part of a turn": "remove images and audio: only text parts are read",
    r"^a turn|^an empty turn": "give each turn a role (role or from) and a text (content or value)",
    r"^no list of turns|^no assistant turn|nothing before": (
        "a conversation is a list of turns with replies of the assistant; for columns: "
        "--set data.format=pairs"
    ),
    r"^target is (not JSON|nested)": "JSON has no NaN, no infinite number and no bytes: write null "
    "or a text; make objects that are nested this deeply flatter",
    r"is not text|^no list of objects": _nested,
    r"^another language pair": (
        "name two of the file's languages: --set data.source_column=en --set data.target_column=de"
    ),
    r"^unknown split|^row of another split": "give the column train, validation or test, or "
    "remove it",
    r"^longer than|^more than": "cut these rows into smaller ones, or remove them",
    r"^NUL character": "remove the NUL characters: tr -d '\\000' < FILE > NEW",
    r"^empty cell": "fill these cells, or make the column optional in the template, written "
    "{{ COLUMN | default('') }}",
    r"template cannot": "change data.template to fit these rows",
    _NO_SOURCE: _column("source"),
    _NO_TARGET: _column("target"),
}
# Hints if other rows are usable.
_FOR_SINGLE_ROWS = {
    _NO_SOURCE: "give these rows a source, or remove them",
    _NO_TARGET: "give these rows a target, or remove them",
    _NO_JSON: "fix these lines: one JSON object per line, with keys and texts in double quotes",
}
