"""Notes and warnings on columns: used, unused, and ambiguous sources."""

from __future__ import annotations

from collections.abc import Sequence

from lora_s2s.console import counted
from lora_s2s.data.split import DUPLICATE, LEAKED, REASONS, Decisions
from lora_s2s.errors import quoted
from lora_s2s.examples.reading import Reading
from lora_s2s.examples.shapes import FORMATS
from lora_s2s.examples.suggested import joined_template

_LISTED = 20
_DISTINCT = 1 / 3  # of the values of a text column, from which on it is reported if unused
# What to look at where the rows that are dropped are more than those that are trained on.
_LOOK = {
    DUPLICATE: "is it the right file? All its columns but identifiers are equal in these rows",
    LEAKED: "do the training and the held-out data name the same rows?",
}
# A warning is given from this fraction of training rows with an ambiguous source on.
_AMBIGUOUS = 0.2


def columns_line(reading: Reading) -> str:
    """One line: source, target, and every unused column, with the fraction of filled rows if some
    are empty.
    """
    used = reading.used
    if reading.split_column is not None:
        used += f", split by column '{reading.split_column}'"
    listed = ", ".join(
        f"'{column.name}'{f' ({column.filled:.0%} filled)' if column.filled < 1 else ''}"
        for column in reading.unused[:_LISTED]
    )
    more = len(reading.unused) - _LISTED
    unused = (
        f"not used: {listed}{f' and {more:,} more' if more > 0 else ''}"
        if listed
        else "all columns are used"
    )
    return f"columns: {used}; {unused}"


def role_warnings(reading: Reading) -> list[str]:
    """Warnings on :meth:`Reading.rivals`, with the setting that takes the first of them."""
    warnings = []
    for role in ("source", "target"):
        if others := reading.rivals(role):
            taken = getattr(reading, f"{role}_column")
            listed = " or ".join(f"'{name}'" for name in others)
            setting = quoted(f"data.{role}_column={others[0]}")
            doubt = f"took '{taken}' as the {role}; it could also be {listed}"
            warnings.append(f"{doubt}: --set {setting}")
    return warnings


def column_warnings(reading: Reading) -> list[str]:
    """Warnings on unused columns: text, with a template that uses it, and :func:`role_warnings`."""
    before = [*reading.warnings, *role_warnings(reading)]
    missed = [one.name for one in reading.unused if one.is_text and one.distinct >= _DISTINCT]
    template = _template(reading, missed)
    if not missed or template is None:
        return before
    setting = quoted(f"data.template={template}")
    names = ", ".join(f"'{name}'" for name in missed)
    return [*before, f"text that is not used: {names}; to add it: --set {setting}"]


def ambiguity(reading: Reading, decisions: Decisions, rows: int) -> tuple[list[str], list[str]]:
    """Notes and warnings on rows that are dropped for others, or have their source."""
    notes, warnings = list[str](), list[str]()
    for code, look in _LOOK.items():
        if (count := int((decisions.code == code).sum())) > rows:
            what = f"{counted(count, 'example')} dropped ({REASONS[code]})"
            warnings.append(f"{what}, more than are left to train on: {look}")
    if decisions.repeated:
        names = ", ".join(f"'{name}'" for name in reading.distinguishing)
        repeated = counted(decisions.repeated, "row")
        (warnings if 2 * decisions.repeated > rows else notes).append(
            f"{repeated} with the source and target of another row: kept, as unused columns "
            f"({names}) differ"
        )
    if decisions.ambiguous:
        share = decisions.ambiguous / max(1, rows)
        what = (
            f"{decisions.ambiguous:,} training rows ({share:.0%}) have the same source as rows "
            "with other targets"
        )
        if share >= _AMBIGUOUS and reading.unused:
            warnings.append(f"{what}: the task cannot be learned from this source alone")
        else:
            notes.append(
                f"{what}: fine if a source has several correct answers; otherwise the source lacks "
                "information"
            )
    return notes, warnings


def _template(reading: Reading, names: Sequence[str]) -> str | None:
    """A template with the unused columns before the source; None if it cannot be built."""
    if reading.source_column is not None and reading.template is None:
        return joined_template([*names, reading.source_column])
    shape = FORMATS.get(reading.format)
    if shape is None or shape.is_dialogue or reading.template != shape.template:
        return None
    if not all(name.isidentifier() for name in names):
        return None
    return " ".join([*(f"{{{{ {name} }}}}" for name in names), shape.template])
